"""A clip by two processes that the node starts: its model with a LoRA goes there, the clip comes back, none is left."""

import json

import pytest
from pack.workflow import add, node

from ltx2_core.media import probe, read_tags
from ltx2_core.media.notes import SETTINGS_TAG

pytestmark = pytest.mark.comfy


def test_two_processes_make_a_clip(server, client, prompt):
    model, gemma = node(prompt, "LTX2AVLoadModel"), node(prompt, "LTX2AVLoadGemma")
    prompt = {name: prompt[name] for name in (model, gemma)}
    lora = {"model": [model, 0], "lora": "built-in: light-room", "strength": 0.5, "energy": 1.0}
    clip = {"width": 64, "height": 64, "frames": 9, "fps": 24.0, "seed": 5}
    words = {"prompt": "a red ball bounces once", "negative": "", "filename_prefix": "cards/clip", "processes": "2"}
    add(prompt, lora=("LTX2AVLoadLora", lora))
    add(prompt, made=("LTX2AVSeveralCards", {"model": ["lora", 0], "gemma": [gemma, 0], **clip, **words}))
    run = client.run(prompt)
    assert run.end == "execution_success", run.error
    (path,) = (server.output / "cards").iterdir()
    made, settings = probe(path), json.loads(read_tags(path)[SETTINGS_TAG])["settings"]
    assert made.has_audio and made.size == (64, 64)
    assert settings["seed"] == "5" and "light-room" in settings["lora"][0] and settings["lora"][0].endswith(":0.5")
    told = "\n".join(text for who, text in run.texts if who == "made")
    assert "sampling" in told and f"Saved {path.name} in the folder cards." in told
    assert run.steps("made")

    prompt["made"]["inputs"]["processes"] = "one for each card"
    refused = client.run(prompt)
    assert refused.end == "execution_error" and "There is no card" in refused.error
    assert [each.name for each in (server.output / "cards").iterdir()] == [path.name]
