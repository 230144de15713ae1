"""Clips beside each other on the graph: two takes of one prompt, and files."""

import pytest
import torch
from pack.clip import saved
from pack.workflow import add, change, node

from ltx2_core.media import probe, read_video

pytestmark = pytest.mark.comfy


def test_two_takes_become_one_video(server, client, prompt):
    change(prompt, LTX2AVSchedule={"steps": 1})
    decode, save = node(prompt, "LTX2AVDecode"), node(prompt, "SaveVideo")
    second = {name: prompt[node(prompt, name)] for name in ("LTX2AVSample", "LTX2AVDecode")}
    sample = (second["LTX2AVSample"]["class_type"], second["LTX2AVSample"]["inputs"] | {"seed": 99})
    again = ("LTX2AVDecode", second["LTX2AVDecode"]["inputs"] | {"latent": ["take", 0]})
    looks = {"layout": "side by side", "wipe": 0.5, "sound": "none"}
    pair = {"first": [decode, 0], "second": ["shown", 0], **looks}
    both = add(prompt, take=sample, shown=again, pair=("LTX2AVCompareClips", pair))
    both[save]["inputs"]["video"] = ["pair", 0]
    run = client.run(both)
    assert run.end == "execution_success", run.error
    (file,) = saved(server, run, save)
    frames, info = torch.cat(list(read_video(file))), probe(file)
    assert not info.has_audio and frames.shape[2] == 2 * 96
    left, right = frames.chunk(2, dim=2)
    assert (left - right).abs().mean() > 0.01, "two seeds make two takes"
