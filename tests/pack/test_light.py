"""HDR in ComfyUI: EXR files in, light between the nodes, EXR files and HLG video out."""

import json
import time

import av
import pytest
import torch
from pack.workflow import add, change, node

from ltx2_core.media import read_tags
from ltx2_core.media.exr import ExrEncoder, read_exr
from ltx2_core.media.light import ACESCG

pytestmark = pytest.mark.comfy

PLATE = torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(0)) * 20
FRAMES = {"space": "ACEScg", "fps": 24.0, "form": "EXR frames"}


@pytest.fixture
def of_25(server, prompt):
    """A graph of a model of 2.5 in parts, and an EXR picture in a folder of the host's."""
    plates = server.base / "input" / "plates"
    plates.mkdir(parents=True, exist_ok=True)
    (plates / "1.exr").write_bytes(ExrEncoder(ACESCG).encode(PLATE))
    split = {
        "checkpoint": "ltx-2.5-tiny-dev-transformer.safetensors",
        "video_vae": "ltx-2.5-video-vae-tiny.safetensors",
    }
    change(prompt, LTX2AVEmptyLatent={"width": 64, "height": 64, "frames": 9}, LTX2AVSchedule={"steps": 1})
    return change(prompt, LTX2AVLoadModel=split, LTX2AVLoadGemma={"text_encoder": "as the model"})


def with_light(prompt, condition, **inputs):
    """A clip that begins with an EXR picture, in linear light as it is loaded; it is decoded as light."""
    model, sampler = node(prompt, "LTX2AVLoadModel"), node(prompt, "LTX2AVSample")
    prompt.pop(node(prompt, "SaveVideo"))
    prompt.pop(node(prompt, "LTX2AVDecode"))
    prompt |= {
        "plate": {"class_type": "LTX2AVLoadHDR", "inputs": {"file": "plates", "space": "ACEScg"}},
        "given": {"class_type": condition, "inputs": inputs},
        "light": {
            "class_type": "LTX2AVVideoDecode",
            "inputs": {"model": [model, 0], "latent": [sampler, 0], "hdr": True},
        },
        "frames": saving("clip", "light"),
    }
    return change(prompt, LTX2AVSample={"conditions": ["given", 0]})


def saving(name, source, **settings):
    return {
        "class_type": "LTX2AVSaveHDR",
        "inputs": {"filename_prefix": f"hdr/{name}", "images": [source, 0], **FRAMES, **settings},
    }


FIRST = {"image": ["plate", 0], "frame": 0, "strength": 1.0, "space": "sRGB linear"}


def first_frame(server, client, prompt, name, **changed):
    """The first frame of the clip that begins with a picture so."""
    change(prompt, LTX2AVImage=changed, LTX2AVSaveHDR={"filename_prefix": f"hdr/{name}"})
    run = client.run(prompt)
    assert run.end == "execution_success", run.error
    (folder,) = (path for path in (server.output / "hdr").iterdir() if path.is_dir() and path.name.startswith(name))
    return read_exr(folder / "frame_00000.exr")


def test_linear_light_begins_a_clip_as_its_codes_do(server, client, of_25):
    """The picture is as large as the clip, so that nothing is resized between the two."""
    graph = with_light(of_25, "LTX2AVImage", **FIRST)
    linear = first_frame(server, client, graph, "linear")
    coded = first_frame(server, client, graph, "coded", image=["plate", 1], space="ACEScct")
    without = first_frame(server, client, graph, "without", image=["plate", 1], space="SDR", compression=0)
    torch.testing.assert_close(coded, linear, atol=0.02, rtol=0.02)
    assert not torch.equal(without, linear)  # ordinary pictures are not encoded in float32
    wrong = first_frame(server, client, graph, "wrong", image=["plate", 0], space="ACEScct")
    assert (wrong - linear).abs().mean() > 0.1
    older = {"checkpoint": "ltx-2.3-tiny.safetensors", "video_vae": "in the checkpoint"}
    change(graph, LTX2AVLoadModel=older, LTX2AVLoadGemma={"text_encoder": "gemma-tiny"})
    run = client.run(change(graph, LTX2AVVideoDecode={"hdr": False}))
    assert run.end == "execution_error" and "HDR needs LTX-2.5, or an HDR IC-LoRA" in run.error


def test_light_is_saved_as_it_was_and_as_a_video_for_screens(server, client, of_25):
    graph = with_light(of_25, "LTX2AVImage", **FIRST)
    graph |= {"video": saving("clip", "light", form="HLG video"), "same": saving("plate", "plate")}
    run = client.run(graph)
    assert run.end == "execution_success", run.error
    (folder,) = (path for path in (server.output / "hdr").iterdir() if path.name.startswith("plate"))
    torch.testing.assert_close(read_exr(folder / "frame_00000.exr"), PLATE, atol=0.02, rtol=2e-3)
    (video,) = (server.output / "hdr").glob("*.mp4")
    for path in (folder, video):
        assert json.loads(read_tags(path)["prompt"])["same"]["inputs"]["filename_prefix"] == "hdr/plate"
    with av.open(str(video)) as file:
        assert file.streams.video[0].codec_context.color_trc == 18 and len([*file.decode(video=0)]) == 9


@pytest.mark.parametrize(
    ("condition", "inputs"),
    [
        ("LTX2AVKeyframes", {"images": ["plate", 0], "frames": "-1", "strengths": "1"}),
        ("LTX2AVReferenceVideo", {"images": ["plate", 0], "downscale": 1, "temporal_scale": 1, "strength": 1.0}),
        ("LTX2AVVideoToAudio", {"images": ["long", 0]}),
    ],
)
def test_all_that_take_pictures_take_light(server, client, of_25, condition, inputs):
    """Values above what ordinary pictures may have are refused without its space."""
    graph = with_light(of_25, condition, **inputs, space="sRGB linear")
    graph["long"] = {"class_type": "RepeatImageBatch", "inputs": {"image": ["plate", 0], "amount": 9}}
    run = client.run(graph)
    assert run.end == "execution_success", run.error
    graph["given"]["inputs"]["space"] = "SDR"
    run = client.run(graph)
    assert run.end == "execution_error" and "tone-map them first" in run.error


def test_high_quality_makes_two_frames_for_each_that_is_kept(server, client, of_25):
    reference = {"images": ["long", 0], "downscale": 1, "temporal_scale": 1, "strength": 1.0, "twice": True}
    graph = with_light(change(of_25, LTX2AVEmptyLatent={"frames": 17}), "LTX2AVReferenceVideo", **reference)
    graph["long"] = {"class_type": "RepeatImageBatch", "inputs": {"image": ["plate", 1], "amount": 9}}
    change(graph, LTX2AVVideoDecode={"every_second": True}, LTX2AVSaveHDR={"filename_prefix": "hdr/twice"})
    run = client.run(graph)
    assert run.end == "execution_success", run.error
    (folder,) = (path for path in (server.output / "hdr").iterdir() if path.name.startswith("twice"))
    assert len([*folder.glob("*.exr")]) == 9


def test_a_clip_of_light_is_encoded(server, client, of_25):
    model = node(of_25, "LTX2AVLoadModel")
    inputs = {"model": [model, 0], "images": ["plate", 0], "frames": 0, "width": 0, "height": 0, "fps": 24.0}
    loader = {
        model: of_25[model],
        "plate": {"class_type": "LTX2AVLoadHDR", "inputs": {"file": "plates", "space": "ACEScg"}},
    }
    of_light = {"class_type": "LTX2AVEncode", "inputs": inputs | {"space": "sRGB linear"}}
    decode = {"class_type": "LTX2AVVideoDecode", "inputs": {"model": [model, 0], "latent": ["latent", 0], "hdr": True}}
    graph = loader | {"latent": of_light, "light": decode, "frames": saving("encoded", "light")}
    run = client.run(graph)
    assert run.end == "execution_success", run.error


@pytest.mark.parametrize("name", ["shot 1.2", "shot.", "shot.mp4"])
def test_a_folder_of_frames_may_have_a_dot_in_its_name(server, client, name):
    frame = ("EmptyImage", {"width": 64, "height": 64, "batch_size": 1, "color": 77})
    run = client.run(add({}, frames=frame) | {"saved": saving(f"dots/{name}", "frames")})
    assert run.end == "execution_success", run.error
    assert [*(server.output / "hdr" / "dots").glob(f"{name}_*_/frame_00000.exr")]


def test_saving_stops_when_it_is_cancelled(server, client):
    """Between two frames, and what was begun is gone."""
    prompt = add(
        {},
        frames=("EmptyImage", {"width": 256, "height": 256, "batch_size": 600, "color": 77}),
        saved=("LTX2AVSaveHDR", {"images": ["frames", 0], "filename_prefix": "stopped/clip", **FRAMES}),
    )

    folder, limit = server.output / "stopped", time.monotonic() + 60

    def cancel(kind: str, data: dict) -> None:
        if kind == "executing" and data["node"] == "saved":
            while not [*folder.glob("*/*")] and time.monotonic() < limit:
                time.sleep(0.01)
            client.interrupt()

    assert client.run(prompt, watch=cancel).end == "execution_interrupted"
    assert not [*folder.iterdir()]
