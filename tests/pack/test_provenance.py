"""Clips that are signed on the graph, and what every file says of itself, whoever saves it."""

import json
import shutil

import pytest
import torch
from pack.clip import saved
from pack.workflow import add, change, node

from ltx2_core.media import probe, read_tags, read_video
from ltx2_core.media.notes import SOURCE_TAG, SOURCE_TYPE

pytestmark = pytest.mark.comfy


def test_a_clip_is_signed_last_and_kept_if_that_fails(server, client, prompt):
    pytest.importorskip("c2pa")
    from certificates import write_identity

    from ltx2_core.media.provenance import read_signature

    change(prompt, LTX2AVSchedule={"steps": 1}, LTX2AVSample={"seed": 41})
    decode, save = node(prompt, "LTX2AVDecode"), node(prompt, "SaveVideo")
    del prompt[save]
    add(prompt, signed=("LTX2AVSignClip", {"video": [decode, 0], "filename_prefix": "signed/clip"}))
    add(prompt, told=("LTX2AVCheckClip", {"video": ["signed", 0]}))
    run = client.run(prompt)
    assert run.end == "execution_error" and "There is no file certificate.pem" in run.error
    write_identity(server.base / "identity")
    run = client.run(prompt)
    assert run.end == "execution_success", run.error
    first, second = sorted((server.output / "signed").iterdir())
    assert read_signature(first) is None and read_signature(second).who == "Jane Doe (Test Studio)"
    for path in (first, second):
        tags = read_tags(path)
        assert probe(path).has_audio and SOURCE_TYPE in tags[SOURCE_TAG]
        assert json.loads(tags["prompt"])["signed"]["inputs"]["filename_prefix"] == "signed/clip"
    told = dict(run.texts)
    assert second.name in told["signed"] and "is whole, and signed by Jane Doe" in told["told"]
    assert "that is believed here" in told["told"]

    for path in (first, second):
        (server.base / "input").mkdir(exist_ok=True)
        shutil.copy(path, server.base / "input" / path.name)
        prompt = {"file": {"class_type": "LoadVideo", "inputs": {"file": path.name}}}
        add(prompt, signed=("LTX2AVSignClip", {"video": ["file", 0], "filename_prefix": "signed/again"}))
        run = client.run(prompt)
        assert (run.end == "execution_success") == (path is first), run.error
    assert "signed already, by Jane Doe" in run.error
    (again,) = (server.output / "signed").glob("again*")
    assert read_signature(again).faults == ()
    assert torch.equal(*(torch.cat([*read_video(path)]) for path in (first, again)))


def test_the_hosts_own_nodes_save_that_a_model_made_it_of_the_whole_and_of_parts(server, client, prompt):
    change(prompt, LTX2AVSchedule={"steps": 1}, LTX2AVSample={"seed": 42})
    decode, save = node(prompt, "LTX2AVDecode"), node(prompt, "SaveVideo")
    window = {"start_time": 0.1, "duration": 0.0, "strict_duration": False}
    add(prompt, part=("Video Slice", {"video": [decode, 0], **window}))
    add(prompt, less=("Video Slice", {"video": ["part", 0], **window, "duration": 0.5}))
    for name in ("part", "less"):
        add(prompt, **{f"{name} saved": ("SaveVideo", prompt[save]["inputs"] | {"video": [name, 0]})})
    run = client.run(prompt)
    assert run.end == "execution_success", run.error
    files = [file for key in (save, "part saved", "less saved") for file in saved(server, run, key)]
    assert [read_tags(file)[SOURCE_TAG] for file in files] == [SOURCE_TYPE] * 3
    lengths = [probe(file).seconds for file in files]
    assert lengths[0] - lengths[1] == pytest.approx(0.1, abs=0.05) and lengths[2] == pytest.approx(0.5, abs=0.05)


def test_each_prompt_is_made_with_each_seed_under_a_name_of_its_own(server, client, prompt):
    change(prompt, LTX2AVSchedule={"steps": 1})
    lists = {"prompts": "a red ball\n\na blue ball", "seeds": "7, 9", "filename_prefix": "lists/"}
    add(prompt, lists=("LTX2AVPromptsAndSeeds", lists))
    change(prompt, LTX2AVGemmaTextEncode={"prompt": ["lists", 0]}, LTX2AVSample={"seed": ["lists", 1]})
    change(prompt, SaveVideo={"filename_prefix": ["lists", 2]})
    run = client.run(prompt)
    assert run.end == "execution_success", run.error
    files = sorted((server.output / "lists").iterdir())
    assert [each.name for each in files] == [
        f"a_{colour}_ball_seed{seed}_00001_.mp4" for colour in ("blue", "red") for seed in (7, 9)
    ]
    assert len({each.read_bytes() for each in files}) == 4
    assert "'7-x'" in client.complaint(change(prompt, LTX2AVPromptsAndSeeds={"seeds": "7-x"}))
