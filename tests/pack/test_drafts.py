"""Tiny and narrowed decoders decode as the host's own do, and are chosen on the graph like any video VAE."""

import pytest
from drafts import write_draft, write_narrowed
from pack.workflow import change

from ltx2_core.video_vae.tiny_decoder import RELEASED, TinyDecoder

pytestmark = pytest.mark.comfy


def test_host_and_pack_decode_alike(inside, tmp_path):
    write_draft(tmp_path / "taeltx2_3.safetensors", TinyDecoder(RELEASED))
    report = inside("drafts.py", tmp_path)
    assert report["shape"] == [33, 96, 64, 3]
    assert report["away"] < 1e-5 < 1e-2 < report["range"], report


def test_host_and_pack_decode_alike_with_a_narrowed_decoder(inside, tmp_path):
    write_narrowed(tmp_path / "narrowed.safetensors")
    report = inside("drafts.py", tmp_path)
    assert report["shape"] == [33, 96, 64, 3]
    assert report["away"] < 1e-5 < 1e-2 < report["range"], report


@pytest.mark.parametrize("kind", ["vae", "vae_approx"])
def test_it_is_chosen_as_the_video_vae(server, client, prompt, kind):
    folder = server.base / "models" / kind
    folder.mkdir(parents=True, exist_ok=True)
    write_draft(folder / f"taeltx2_3_{kind}.safetensors")
    assert f"taeltx2_3_{kind}.safetensors" in choices(client)
    change(prompt, LTX2AVLoadModel={"video_vae": f"taeltx2_3_{kind}.safetensors"}, LTX2AVSchedule={"steps": 1})
    run = client.run(prompt)
    assert run.end == "execution_success", run.error


def choices(client) -> list[str]:
    """The files that the loader offers as a video VAE."""
    kind, *options = client.object_info()["LTX2AVLoadModel"]["input"]["optional"]["video_vae"]
    return kind if isinstance(kind, list) else options[0]["options"]
