"""A prompt that Gemma writes on the graph: shown, kept, edited, refused; what it writes is noise here."""

import pytest
from pack.visits import nodes2
from pack.workflow import add, change, node

pytestmark = pytest.mark.comfy
NODE = "LTX2AVEnhancePrompt"


@pytest.fixture
def enhancing(prompt):
    """The graph whose prompt comes from a Gemma that chats; of "it is so" no noise can leave anything out."""
    loader, encode = node(prompt, "LTX2AVLoadModel"), node(prompt, "LTX2AVGemmaTextEncode")
    inputs = {
        "model": [loader, 0],
        "gemma": ["writer", 0],
        "prompt": "it is so",
        "wording": 10,
        "temperature": 1.5,
        "longest": 40,
    }
    change(prompt, LTX2AVGemmaTextEncode={"prompt": ["longer", 0], "keep_encoded": False}, LTX2AVSchedule={"steps": 1})
    assert encode
    return add(prompt, writer=("LTX2AVLoadGemma", {"text_encoder": "instruct"}), longer=(NODE, inputs))


def test_what_is_written_is_shown_used_and_kept(client, enhancing):
    first = client.run(enhancing)
    assert first.end == "execution_success", first.error
    written = [text for name, text in first.texts if name == "longer"]
    assert len(written) > 5 and written[-1].strip() and written[-1] != "it is so"
    encode = node(enhancing, "LTX2AVGemmaTextEncode")
    again = client.run(change(enhancing, LTX2AVSample={"seed": 5}))
    assert {"longer", encode} <= set(again.cached)
    assert client.run(change(enhancing, **{NODE: {"wording": 11}})).executed.count("longer") == 1
    own = client.run(change(enhancing, **{NODE: {"edited": "a red ball"}}))
    assert own.end == "execution_success" and not [
        text for name, text in own.texts if name == "longer" and text.strip()
    ]


def test_a_picture_is_looked_at(client, enhancing):
    grey = ("EmptyImage", {"width": 64, "height": 48, "batch_size": 1, "color": 8421504})
    run = client.run(change(add(enhancing, first=grey), **{NODE: {"image": ["first", 0], "wording": 12}}))
    assert run.end == "execution_success", run.error
    assert any(text.strip() for name, text in run.texts if name == "longer")


def test_noise_does_not_replace_a_prompt(client, enhancing):
    run = client.run(change(enhancing, **{NODE: {"prompt": "a red ball bounces twice on the left"}}))
    said = [text for name, text in run.texts if name == "longer"][-1]
    assert run.end == "execution_success" and "the prompt stays as it was" in said and "ball" in said


def test_a_gemma_that_cannot_write_is_refused(client, enhancing):
    enhancing["writer"]["inputs"]["text_encoder"] = "miniature (built in)"
    run = client.run(enhancing)
    assert run.end == "execution_error" and "cannot enhance prompts" in str(run.error)


@pytest.mark.browser
@pytest.mark.parametrize("renderer", ["canvas", "nodes2"])
def test_what_was_written_can_be_edited(visit, renderer):
    workflow = {"nodes": [{"id": 1, "type": NODE, "pos": [500, 200], "size": [340, 460]}], "links": [], "version": 0.4}
    seen = visit(
        "enhance.cjs", nodes2(renderer == "nodes2"), workflow=workflow, kind=NODE, said="a warning\nA red ball rolls."
    )
    told = {"before": "", "edited": "A red ball rolls.", "saved": 6, "buttons": 1}
    assert seen | told == seen
