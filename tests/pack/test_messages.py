"""What a node says of itself: of the run that it is in, a line for each sentence, and errors in our words."""

import json

import pytest
from pack.host import REPOSITORY
from pack.visits import nodes2
from pack.workflow import change, node

pytestmark = pytest.mark.comfy

NEEDS_NEGATIVE = "there is no negative prompt"


def said(run, node_id: str) -> list[str]:
    """Everything that was shown on a node, in order."""
    return [text for each, text in run.texts if each == node_id]


def test_sentences_are_appended_in_order_and_the_status_goes(client, prompt):
    change(prompt, LTX2AVSample={"seed": 40, "text_scale": 1.0, "cross_modal_scale": 1.0})
    run = client.run(prompt)
    decode = said(run, node(prompt, "LTX2AVDecode"))
    assert any(text.startswith("decoding the picture, tile 1 of ") for text in decode)
    assert not decode[-1].strip() or "decoding" not in decode[-1].splitlines()[-1]
    for before, after in zip(decode, decode[1:]):
        kept = [line for line in before.splitlines() if line.startswith("After ")]
        assert after.splitlines()[: len(kept)] == kept, "a later sentence took the place of an earlier one"


def test_reading_and_encoding_are_named(client, prompt):
    change(prompt, LTX2AVGemmaTextEncode={"prompt": "a sentence that was not read before", "keep_encoded": False})
    texts = said(client.run(prompt), node(prompt, "LTX2AVGemmaTextEncode"))
    assert "encoding the prompt" in texts and not texts[-1].strip()


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("a (ball:1.4) " * 1500, ["only 1,024 tokens are read", "(ball:1.4): LTX-2 has no weights"]),
        (" ", ["The prompt is empty"]),
    ],
)
def test_what_is_unusual_in_a_prompt_is_told_also_where_it_was_read_before(client, prompt, text, sentences):
    read = node(prompt, "LTX2AVGemmaTextEncode")
    for negative in ("", "blurry"):  # with another negative prompt the node runs again
        change(prompt, LTX2AVGemmaTextEncode={"prompt": text, "negative": negative})
        only = {each: prompt[each] for each in prompt if each in (read, node(prompt, "LTX2AVLoadModel"))}
        only |= {"gemma": prompt[node(prompt, "LTX2AVLoadGemma")]}
        only[read]["inputs"] = prompt[read]["inputs"] | {"gemma": ["gemma", 0]}
        only["seen"] = {"class_type": "PreviewAny", "inputs": {"source": [read, 0]}}
        told = said(client.run(only), read)[-1]
        assert all(sentence in told for sentence in sentences)


def test_an_error_stands_on_its_node_and_has_a_short_name(client, prompt):
    sampler = node(prompt, "LTX2AVSample")
    change(prompt, LTX2AVSample={"seed": 41})
    del prompt[sampler]["inputs"]["negative"]
    run = client.run(prompt)
    assert NEEDS_NEGATIVE in run.error and said(run, sampler)[-1] == run.error
    (failure,) = run.all("execution_error")
    assert failure["exception_type"] == "ltx2.SettingError"


def test_what_a_node_said_stays_with_its_result(client, prompt):
    change(prompt, LTX2AVEmptyLatent={"width": 97})  # which it cannot be, and says so
    empty = node(prompt, "LTX2AVEmptyLatent")
    first, again = client.run(prompt), client.run(prompt)
    assert empty in again.cached
    assert again.outputs[empty] == first.outputs[empty] == {"ltx2av_said": [said(first, empty)[-1]]}
    assert all(each["output"] for each in again.all("executed")), "a page that has no output of a node fails on it"


@pytest.mark.browser
@pytest.mark.parametrize("renderer", ["canvas", "nodes2"])
def test_messages_are_of_the_last_run_and_keep_their_lines(visit, tmp_path, renderer):
    workflow = json.loads((REPOSITORY / "workflows" / "text_to_video_guided.json").read_text())
    ids = {each["type"]: each["id"] for each in workflow["nodes"]}
    latent = next(each for each in workflow["nodes"] if each["type"] == "LTX2AVEmptyLatent")
    latent["widgets_values"][2] = 25 if renderer == "canvas" else 17  # frames, so that nothing is known from before
    task = {"sampler": ids["LTX2AVSample"], "screenshot": str(tmp_path / f"{renderer}.png")}
    seen = visit("messages.cjs", nodes2(renderer == "nodes2"), workflow=workflow, **task)
    sampler, plan = str(ids["LTX2AVSample"]), str(ids["LTX2AVPlan"])
    assert len(seen["good"][plan]["lines"]) > 1 and seen["good"][plan]["apart"]
    assert NEEDS_NEGATIVE in seen["bad"][sampler]["lines"][-1] and seen["kind"] == "ltx2.SettingError"
    assert seen["later"][plan]["lines"] == seen["again"][plan]["lines"], "a page that was opened later says nothing"
    assert not any(NEEDS_NEGATIVE in line for line in seen["again"][sampler]["lines"])
    told, warned = seen["refused"]
    assert told[sampler]["lines"] == ["seed is -5; it must be between 0 and 18446744073709551615."]
    assert any("put that file into models/checkpoints" in each for each in warned), "which has no place on its node"
