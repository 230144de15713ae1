"""Pictures of the help pages and of README.md show the nodes of today, and a visitor of ComfyUI sees them.

After changing an input or an output, take them anew: python tests/pack/pictures.py
"""

import json

import pytest
from pack.help import page_of
from pack.host import PACK
from pack.pictures import IMAGES, RUNS, SHOWN, seen_in, seen_on, with_picture
from pack.visits import nodes2
from pack.workflow import SHIPPED

pytestmark = pytest.mark.comfy

SAMPLER = "LTX2AVSample"
OVERRULED = {
    "text_scale", "cross_modal_scale", "sampler", "stg_scale", "stg_blocks", "rescale", "video_text_scale",
    "audio_text_scale", "video_cross_modal_scale", "audio_cross_modal_scale", "steps", "video_text_scale is",
    "audio_text_scale is", "video_cross_modal_scale is", "audio_cross_modal_scale is",
}  # fmt: skip


@pytest.fixture(scope="module")
def ours(object_info):
    return {name: info for name, info in object_info.items() if info["python_module"] == f"custom_nodes.{PACK}"}


def test_every_help_page_has_a_small_picture_of_its_node(ours):
    assert {path.stem for path in IMAGES.iterdir()} == ours.keys()
    assert max(path.stat().st_size for path in IMAGES.iterdir()) <= 15_000
    for name in ours:
        assert page_of(name) == with_picture(page_of(name), name)


def test_the_pictures_show_the_inputs_and_outputs_of_today(ours):
    assert {name: seen_in(IMAGES / f"{name}.webp") for name in ours} == {
        name: seen_on(info) for name, info in ours.items()
    }


def test_the_pictures_of_the_readme_are_small():
    assert {path.stem for path in SHOWN.iterdir()} == RUNS.keys()
    assert max(path.stat().st_size for path in SHOWN.iterdir()) <= 200_000


@pytest.fixture(scope="module")
def workflow():
    return json.loads(next(path for path in SHIPPED if path.stem == "text_to_video").read_text())


@pytest.mark.browser
def test_the_help_of_a_node_shows_its_picture(visit, client, workflow):
    settings = nodes2(True) | {"Comfy.RightSidePanel.IsOpen": True}
    kinds = [SAMPLER, "LTX2AVEmptyLatent"]
    seen = visit("help.cjs", settings, workflow=workflow, kinds=kinds)
    assert {kind: each["pictures"] for kind, each in seen["pages"].items()} == {kind: [360] for kind in kinds}
    client.fetch("/settings", {"Comfy.RightSidePanel.IsOpen": False})


@pytest.mark.browser
@pytest.mark.parametrize("renderer", ["canvas", "nodes2"])
def test_widgets_that_the_recipe_overrules_are_grey(visit, workflow, renderer):
    changed = {"settings": "these widgets"}
    seen = visit("inactive.cjs", nodes2(renderer == "nodes2"), workflow=workflow, kind=SAMPLER, changed=changed)
    assert {*seen["loaded"]} == {*seen["added"]} == OVERRULED
    assert seen["replaced"] == seen["foreign"] == [], "a prompt that is dropped is as grey as the one before"
    assert not [error for error in seen["errors"] if "TypeError" in error]


@pytest.mark.browser
def test_what_only_counts_where_a_reference_is_filled_is_grey_elsewhere(visit):
    places = {"off": {"margin", "grow", "grow_frames"}, "left": set()}
    for outpaint, grey in places.items():
        values = [1, 1, 1.0, 1.0, 0, 0, "ordinary", False, outpaint, 0.2]
        reference = {"id": 1, "type": "LTX2AVReferenceVideo", "pos": [500, 200], "widgets_values": values}
        workflow = {"nodes": [reference], "links": [], "version": 0.4}
        seen = visit("inactive.cjs", nodes2(False), workflow=workflow, kind="LTX2AVReferenceVideo")
        assert {*seen["loaded"]} == grey


@pytest.mark.browser
def test_the_strength_of_no_lora_is_grey(visit):
    for lora, grey in {"none": ["strength"], "chosen.safetensors": []}.items():
        gemma = {"id": 1, "type": "LTX2AVLoadGemma", "pos": [500, 200]}
        gemma["widgets_values"] = ["as the model", "auto", lora, 1.0]
        workflow = {"nodes": [gemma], "links": [], "version": 0.4}
        assert visit("inactive.cjs", nodes2(False), workflow=workflow, kind="LTX2AVLoadGemma")["loaded"] == grey
