"""What a person can set wrong comes back from the server as a sentence with the value and the way out."""

import pytest
from pack.client import Rejected
from pack.clip import Clip
from pack.workflow import add, change, node

pytestmark = pytest.mark.comfy


@pytest.mark.parametrize(
    ("class_type", "inputs", "words"),
    [
        ("LTX2AVEmptyLatent", {"width": 5000}, ["5000", "4096", "width"]),
        ("LTX2AVSchedule", {"steps": 0}, ["0", "1", "steps"]),
        ("LTX2AVSample", {"text_scale": 0.5}, ["0.5", "1", "text_scale"]),
        ("LTX2AVSample", {"stg_scale": 1.0, "stg_blocks": "29"}, ["29", "4 blocks", "stg_blocks"]),
        ("LTX2AVSample", {"stg_blocks": "last"}, ["last", "auto", "stg_blocks"]),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_value_that_cannot_be(client, prompt, class_type, inputs, words):
    text = client.complaint(change(prompt, **{class_type: inputs}))
    assert all(word in text for word in words), text


@pytest.mark.parametrize(
    ("class_type", "inputs", "words"),
    [
        ("LTX2AVVideoDecode", {"tile_size": 512, "tile_overlap": 512}, "512 pixels cannot overlap by 512"),
        ("LTX2AVSaveLatent", {"filename_prefix": "../latent"}, "'../latent'"),
        ("LTX2AVSaveLatent", {"filename_prefix": "x" * 240}, "240 bytes; at most 220"),
        ("LTX2AVEncode", {}, "either images or a video"),
        (
            "LTX2AVGuidance",
            {"stream": "both", "text_scale": 1.0, "cross_modal_scale": 1.0, "stg_blocks": "last"},
            "stg_blocks",
        ),
    ],
)
def test_what_cannot_be_after_sampling_is_said_before_anything_runs(client, prompt, class_type, inputs, words):
    links = {"latent": [node(prompt, "LTX2AVSample"), 0], "model": [node(prompt, "LTX2AVLoadModel"), 0]}
    add(prompt, late=(class_type, inputs | links), seen=("PreviewAny", {"source": ["late", 0]}))
    with pytest.raises(Rejected, match=words):
        client.queue(prompt)


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"frames": 32}, "frames 32 became 33"),
        ({"width": 100}, "width 100 became 96"),
        ({"seconds": 1.3}, "1.38 s at 24 fps"),
    ],
    ids=str,
)
def test_a_size_that_cannot_be_becomes_the_nearest_and_the_node_says_so(server, client, prompt, inputs, sentence):
    change(prompt, LTX2AVEmptyLatent=inputs, LTX2AVSchedule={"steps": 1})
    run = client.run(prompt)
    assert Clip.of(server, run, node(prompt, "SaveVideo")).frames.shape == (33, 96, 96, 3)
    assert sentence in dict(run.texts)[node(prompt, "LTX2AVEmptyLatent")]


def test_guidance_by_text_needs_something_to_guide_away_from(client, prompt):
    del prompt[node(prompt, "LTX2AVSample")]["inputs"]["negative"]
    text = client.complaint(prompt)
    assert "text scale is 3" in text and "negative prompt: connect one" in text


@pytest.mark.parametrize("reader", ["LTX2AVDecode", "LTX2AVSample"])
def test_what_another_model_made_is_refused(client, prompt, reader):
    """The latent and the prompt of the miniature, read by a model of one's own."""
    change(prompt, LTX2AVSchedule={"steps": 1})
    add(prompt, other=("LTX2AVLoadModel", {"checkpoint": "ltx-2.3-tiny.safetensors"}))
    text = client.complaint(change(prompt, **{reader: {"model": ["other", 0]}}))
    assert "built-in miniature, and the" in text and "LTX-2.3" in text


def test_a_model_and_a_text_encoder_that_do_not_belong_together(client, prompt):
    text = client.complaint(change(prompt, LTX2AVLoadModel={"checkpoint": "ltx-2.3-tiny.safetensors"}))
    assert "Gemma" in text


def test_the_noise_levels_of_hq_need_the_size_of_the_clip(client, prompt):
    add(prompt, other=("LTX2AVLoadModel", {"checkpoint": "ltx-2.3-tiny.safetensors"}))
    add(prompt, recipe=("LTX2AVRecipe", {"model": ["other", 0], "hq": True}))
    text = client.complaint(change(prompt, LTX2AVSample={"sigmas": ["recipe", 0]}))
    assert "connect LTX-2 Empty AV Latent" in text
