"""Graphs that were saved with version 0.1 load, run and make what they made then.

``golden/workflows_0.1`` are the workflows as they were shipped; they never change. What they make is recorded like the
clips in ``recorded``, and compared by the same rule: ``LTX2_RECORD=1 python -m pytest tests/pack/test_saved_graphs.py``
writes it anew. Frames and sound are those that reach the node that saves the video, because an encoder of video with
several threads does not write the same bytes twice.
"""

import json
import sys

import numpy as np
import pytest
import torch
from golden import FOLDER
from pack.client import Prompt
from pack.clip import Clip, pictures_in, saved, sound_in
from pack.workflow import add, to_prompt
from recorded.platform import fingerprint
from recorded.record import RECORDING, Recording, differences, facts_of

pytestmark = pytest.mark.comfy

SAVED = sorted((FOLDER / "workflows_0.1").glob("*.json"))
RECORDED = Recording(FOLDER / "recorded_workflows.json")
ONE_LEVEL = 1.5 / 255  # how far pixels of another platform may be apart


def with_lossless_copies(prompt: Prompt) -> Prompt:
    """Save pictures and sound of every video also as they are, in nodes named after the one that saves the video."""
    for key in [key for key, node in prompt.items() if node["class_type"] == "SaveVideo"]:
        parts, frames, sound = (f"{key}_{name}" for name in ("parts", "frames", "sound"))
        copies = {
            parts: ("GetVideoComponents", {"video": prompt[key]["inputs"]["video"]}),
            frames: ("SaveImage", {"images": [parts, 0], "filename_prefix": "frames"}),
            sound: ("SaveAudio", {"audio": [parts, 1], "filename_prefix": "sound"}),
        }
        add(prompt, **copies)
    return prompt


@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.stem)
def test_a_saved_graph_makes_what_it_made(host, server, client, object_info, path):
    prompt = with_lossless_copies(to_prompt(json.loads(path.read_text()), object_info))
    run = client.run(prompt, timeout=300)
    assert run.end == "execution_success", run.error
    made = {}
    for key, node in prompt.items():
        if node["class_type"] == "SaveVideo":
            clip = Clip.of(server, run, key)
            length, height, width, _ = clip.frames.shape
            facts = [length, height, width, float(clip.fps), clip.sample_rate, clip.sound.shape[-1]]
            made[f"file of {key}"] = facts_of(torch.tensor(facts))
        elif node["class_type"] == "SaveImage":
            made[key] = facts_of(torch.from_numpy(pictures_in(saved(server, run, key))) / 255)
        elif node["class_type"] == "SaveAudio":
            samples, rate = sound_in(*saved(server, run, key))
            made[key] = facts_of(torch.from_numpy(samples / np.iinfo(samples.dtype).max))
            made[f"rate of {key}"] = facts_of(torch.tensor([float(rate)]))
    assert made
    here = f"{fingerprint()} {'the same Python' if host.python == sys.executable else host.python}"
    if RECORDING:
        RECORDED.write(path.stem, {"platform": here, "tensors": made})
    entry = RECORDED.entry(path.stem)
    assert differences(made, entry["tensors"], entry["platform"] == here, ONE_LEVEL) == []


def test_all_nineteen_are_there():
    assert len(SAVED) == 19
    assert RECORDED.read().keys() == {path.stem for path in SAVED}
