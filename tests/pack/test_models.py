"""Models are found where ComfyUI keeps them: in its own folders and in those of extra_model_paths.yaml."""

import pytest
from pack.clip import Clip
from pack.workflow import change, node

pytestmark = pytest.mark.comfy


@pytest.mark.parametrize(
    ("checkpoint", "text_encoder"),
    [("ltx-2.3-tiny.safetensors", "gemma-tiny"), ("elsewhere.safetensors", "gemma-elsewhere.safetensors")],
    ids=["in models, Gemma as a folder", "in an extra path, Gemma as a file"],
)
def test_a_clip_of_a_model_on_disk(server, client, prompt, checkpoint, text_encoder):
    change(prompt, LTX2AVLoadModel={"checkpoint": checkpoint}, LTX2AVLoadGemma={"text_encoder": text_encoder})
    change(prompt, LTX2AVEmptyLatent={"width": 64, "height": 64, "frames": 9}, LTX2AVSchedule={"steps": 2})
    clip = Clip.of(server, client.run(prompt), node(prompt, "SaveVideo"))
    assert clip.frames.shape == (9, 64, 64, 3)
    assert clip.sample_rate == 48000  # that of version 2.3; the miniature has 24000
