"""HDR in ComfyUI: EXR files in, light between the nodes, EXR files and HLG video out."""

import av
import pytest
import torch
from pack.workflow import change, node

from ltx2_core.media.exr import ExrEncoder, read_exr
from ltx2_core.media.light import ACESCG

pytestmark = pytest.mark.comfy

PLATE = torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(0)) * 20


def with_light(prompt, space="ACEScg"):
    """A clip that begins with an EXR picture, decoded as light and saved twice, and the picture saved in its space."""
    loaded, saved = {"file": "plates", "space": space}, {"space": "ACEScg", "fps": 24.0}
    model, sampler = node(prompt, "LTX2AVLoadModel"), node(prompt, "LTX2AVSample")
    prompt.pop(node(prompt, "SaveVideo"))
    prompt.pop(node(prompt, "LTX2AVDecode"))
    first = {"image": ["plate", 1], "frame": 0, "strength": 1.0, "compression": 0}
    files = {"filename_prefix": "hdr/clip", "form": "HLG video", "images": ["light", 0]}
    prompt |= {
        "plate": {"class_type": "LTX2AVLoadHDR", "inputs": loaded},
        "first": {"class_type": "LTX2AVImage", "inputs": first},
        "light": {
            "class_type": "LTX2AVVideoDecode",
            "inputs": {"model": [model, 0], "latent": [sampler, 0], "hdr": True},
        },
        "video": {"class_type": "LTX2AVSaveHDR", "inputs": saved | files},
        "same": {
            "class_type": "LTX2AVSaveHDR",
            "inputs": saved | {"filename_prefix": "hdr/plate", "form": "EXR frames", "images": ["plate", 0]},
        },
    }
    return change(prompt, LTX2AVSample={"conditions": ["first", 0]})


def test_light_goes_through_the_graph_and_older_models_refuse_it(server, client, prompt):
    plates = server.base / "input" / "plates"
    plates.mkdir(parents=True, exist_ok=True)
    (plates / "1.exr").write_bytes(ExrEncoder(ACESCG).encode(PLATE))
    split = {
        "checkpoint": "ltx-2.5-tiny-dev-transformer.safetensors",
        "video_vae": "ltx-2.5-video-vae-tiny.safetensors",
    }
    change(prompt, LTX2AVEmptyLatent={"width": 64, "height": 64, "frames": 9}, LTX2AVSchedule={"steps": 1})
    change(prompt, LTX2AVLoadModel=split, LTX2AVLoadGemma={"text_encoder": "as the model"})
    run = client.run(with_light(prompt))
    assert run.end == "execution_success", run.error
    (folder,) = (path for path in (server.output / "hdr").iterdir() if path.is_dir())
    kept = read_exr(folder / "frame_00000.exr")
    torch.testing.assert_close(kept, PLATE, atol=0.02, rtol=2e-3)
    (video,) = (server.output / "hdr").glob("*.mp4")
    with av.open(str(video)) as file:
        assert file.streams.video[0].codec_context.color_trc == 18 and len([*file.decode(video=0)]) == 9
    change(prompt, LTX2AVLoadModel={"checkpoint": "ltx-2.3-tiny.safetensors", "video_vae": "in the checkpoint"})
    run = client.run(change(prompt, LTX2AVLoadGemma={"text_encoder": "gemma-tiny"}))
    assert run.end == "execution_error" and "HDR needs LTX-2.5, or an HDR IC-LoRA" in run.error
