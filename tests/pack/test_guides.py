"""What ComfyUI's own nodes write beside a prompt is obeyed: guide frames, a voice, masks, strengths, parts of a run."""

import pytest

from ltx2_core import tiny

pytestmark = pytest.mark.comfy


@pytest.fixture(scope="module")
def found(inside, tmp_path_factory) -> dict[str, float]:
    folder = tmp_path_factory.mktemp("tiny")
    tiny.write(folder, "2.3")
    return inside("guided.py", folder)


def test_guides_of_the_host_are_keyframes_beside_the_clip(found):
    assert found["keyframes"] < 1e-6 and found["keyframes and sound"] < 1e-6


def test_a_picture_with_guides_is_that_of_the_host(found):
    """Of a picture alone, to the last bits; what comes with sound differs by the order of its attentions there."""
    names = {name for name in found if name.startswith("core") and name not in ("core with sound", "core, voice")}
    assert {"core", "core, soft"} <= names
    assert {name: found[name] for name in names if found[name] > 1e-5} == {}


def test_a_clip_with_guides_or_a_voice_is_nearly_that_of_the_host(found):
    assert found["core with sound"] < 4e-2 and found["core, voice"] < 1.5 * found["core with sound"]


def test_what_was_written_is_heeded(found):
    assert min(found[f"without {each}"] for each in ("guides", "voice", "attention")) > 1e-3


def test_several_prompts_with_masks_strengths_and_parts_of_the_run_are_those_of_the_host(found):
    """Of a picture alone."""
    assert found["prompts"] < 1e-5
