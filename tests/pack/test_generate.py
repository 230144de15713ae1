"""Making a clip in a running server: what a second run repeats, progress, previews, and stopping."""

import copy
import time
from io import BytesIO

import numpy as np
import pytest
from pack.clip import pictures_in, saved, sound_in
from pack.workflow import add, change, node
from PIL import Image

pytestmark = pytest.mark.comfy

CONSTANT = ["LTX2AVLoadModel", "LTX2AVLoadGemma", "LTX2AVGemmaTextEncode", "LTX2AVThinkingTokens", "LTX2AVEmptyLatent"]


def test_another_seed_loads_and_encodes_nothing_again(server, client, prompt):
    client.run(change(prompt, LTX2AVSample={"seed": 1}))
    built = server.log.count("Built transformer")
    second = client.run(change(prompt, LTX2AVSample={"seed": 2}))
    assert server.log.count("Built transformer") == built >= 1
    assert second.executed == [node(prompt, name) for name in ("LTX2AVSample", "LTX2AVDecode", "SaveVideo")]
    assert second.cached >= {node(prompt, name) for name in CONSTANT}


def test_prompts_that_were_encoded_before_need_no_gemma(server, client, prompt):
    texts = {"prompt": "a white ball bounces once", "negative": "a red ball"}
    client.run(change(prompt, LTX2AVGemmaTextEncode=texts, LTX2AVSample={"seed": 30}))
    known = server.log.count("This prompt was encoded before")
    swapped = {"prompt": texts["negative"], "negative": texts["prompt"]}
    again = client.run(change(prompt, LTX2AVGemmaTextEncode=swapped))
    assert node(prompt, "LTX2AVGemmaTextEncode") in again.executed and again.end == "execution_success"
    assert server.log.count("This prompt was encoded before") == known + 2
    client.run(change(prompt, LTX2AVGemmaTextEncode={"keep_encoded": False}))
    assert server.log.count("This prompt was encoded before") == known + 2


def test_progress_is_told(client, prompt):
    run = client.run(change(prompt, LTX2AVSample={"seed": 3}, LTX2AVSchedule={"steps": 5}), preview="auto")
    told = run.steps(node(prompt, "LTX2AVSample"))
    assert {1, 5} <= {*told} <= {0, 1, 2, 3, 4, 5} and told == sorted(told)  # the host leaves out fast ones


def test_previews_come_while_sampling_if_they_are_wanted(client, prompt):
    sampler = node(prompt, "LTX2AVSample")
    change(prompt, LTX2AVSchedule={"steps": 8})
    wanted = client.run(change(prompt, LTX2AVSample={"seed": 4}), preview="auto")
    assert len(wanted.previews) >= 2  # of fast steps not all are shown
    assert {data["node_id"] for data, _ in wanted.previews} == {sampler}
    pictures = [np.asarray(Image.open(BytesIO(content))) for _, content in wanted.previews]
    assert all(picture.ndim == 3 for picture in pictures)
    assert (pictures[0] != pictures[-1]).any(), "the preview does not move on"
    unwanted = client.run(change(prompt, LTX2AVSample={"seed": 5}), preview="none")
    assert sampler in unwanted.executed and not unwanted.previews


def test_stopping_takes_effect_within_a_step_and_leaves_the_next_run_right(server, client, prompt):
    sampler, decode = node(prompt, "LTX2AVSample"), node(prompt, "LTX2AVDecode")
    add(prompt, pictures=("SaveImage", {"images": [decode, 1], "filename_prefix": "pictures"}))
    add(prompt, sound=("SaveAudio", {"audio": [decode, 2], "filename_prefix": "sound"}))
    change(prompt, LTX2AVSample={"seed": 6})
    first = client.run(prompt)

    # A size at which a step takes about a second on two cores, and more steps than anybody would wait for.
    slow = change(copy.deepcopy(prompt), LTX2AVEmptyLatent={"width": 1024, "height": 576, "frames": 65})
    change(slow, LTX2AVSchedule={"steps": 50})
    moments: list[float] = []

    def stop_after_two_steps(kind: str, data: dict) -> None:
        if kind == "progress" and data["node"] == sampler and data["value"] > 0:
            moments.append(time.monotonic())
            if data["value"] == 2:
                client.interrupt()

    stopped = client.run(slow, watch=stop_after_two_steps)
    step, waited = moments[1] - moments[0], time.monotonic() - moments[1]
    assert stopped.end == "execution_interrupted"
    assert len(moments) == 2, "another step was finished"
    assert waited < 0.5 * step, "it waited for the end of the step, not for the end of a block"

    again = client.run(prompt)
    assert sampler in again.executed
    assert (pictures_in(saved(server, again, "pictures")) == pictures_in(saved(server, first, "pictures"))).all()
    sounds = [sound_in(*saved(server, run, "sound"))[0] for run in (first, again)]
    assert (sounds[0] == sounds[1]).all()
