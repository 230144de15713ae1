"""The timeline: what its strip shows and does in the browser, and that its JSON makes what separate nodes make."""

import copy
import json

import pytest
import torch
from pack.visits import nodes2, unusual
from pack.workflow import add, change, node
from PIL import Image
from safetensors.torch import load_file

pytestmark = pytest.mark.comfy

BROKEN = ("null", "[]", '{"seconds": 0}', '{"seconds": 1e999}', '{"prompts": [null]}', '{"pictures": [{"file": 7}]}')
STRIP = {
    "seconds": 5,
    "fps": 24,
    "prompts": [{"text": "a red ball", "at": 0}, {"text": "then blue", "at": 2}],
    "pictures": [{"file": "ltx2_example_first.png", "at": 0, "strength": 1}],
    "characters": [{"file": "ltx2_example_first.png", "voice": "ltx2_example_sound.flac"}],
    "retakes": [{"start": 1, "end": 2, "streams": "picture"}],
}


@pytest.mark.browser
@pytest.mark.parametrize("renderer", ["canvas", "nodes2"])
def test_the_strip_is_changed_by_keys_mouse_and_fields_and_undone(visit, tmp_path, renderer):
    node = {"id": 1, "type": "LTX2AVTimeline", "pos": [300, 100], "size": [700, 600]}
    workflow = {"nodes": [node | {"widgets_values": [json.dumps(STRIP), ""]}], "links": [], "version": 0.4}
    task = {"workflow": workflow, "broken": BROKEN, "screenshot": str(tmp_path / f"{renderer}.png")}
    seen = visit("timeline.cjs", nodes2(renderer == "nodes2"), **task)
    ways = seen["json"]
    assert "rgb(0, 0, 0)" not in seen["ink"], "black on black in a light theme"
    assert seen["shown"] == [
        ["pictures", "ltx2_example_first.png"],
        ["prompts", "a red ball"],
        ["prompts", "then blue"],
        ["characters", "ltx2_example_first.png"],
        ["retakes", "picture"],
    ]
    assert seen["hidden"] and "filename=a.png&subfolder=sub&" in seen["address"]
    assert ways["key"]["pictures"][0]["at"] == pytest.approx(1 / 3, abs=1e-3)
    assert ways["second"]["pictures"][0]["at"] == pytest.approx(4 / 3, abs=1e-3)
    assert ways["undone"] == ways["key"]
    assert ways["removed"]["prompts"] == STRIP["prompts"][:1]
    moved = ways["dragged"]["retakes"][0]
    assert moved["start"] > 1.5 and moved["end"] - moved["start"] == pytest.approx(1)
    cells = moved["start"] * 24 / 8
    assert cells == pytest.approx(round(cells), abs=0.01), "off the grid of 8 frames"
    assert seen["places"][0] == seen["places"][1], "left where a drag was cancelled"
    assert ways["length"]["seconds"] == 4, "what cannot be is what was there before"
    assert "ltx2_example_first.png" in seen["backgrounds"][0] and seen["backgrounds"][1] == ""
    assert ways["written"]["prompts"][1] == {"text": "then a dog", "at": pytest.approx(1 / 3, abs=1e-3)}
    assert ways["added"]["retakes"][0]["start"] > moved["start"], "a drag that ends what is written is lost"
    assert ways["retaken"]["retakes"][1]["start"] == 0, "another retake, which begins later, is no obstacle at 0"
    assert seen["stays"] and ways["told"]["prompts"][0]["text"] == "a red ball!"
    assert "413" in seen["told"][0] and "no picture, sound or video" in seen["told"][1]
    assert json.loads(seen["sent"]["1"]["inputs"]["timeline"]) == ways["told"] == json.loads(seen["copied"])
    assert json.loads(seen["inside"]) == ways["told"], "lost in a subgraph"
    assert {*seen["broken"]} == {"This is no timeline."}
    assert [error for error in unusual(seen["errors"]) if "413" not in error] == []


def strip_of(prompt: dict, **content: object) -> dict:
    """The clip of ``prompt`` with a timeline in place of its prompts."""
    model, gemma, text = (
        node(prompt, name) for name in ("LTX2AVLoadModel", "LTX2AVLoadGemma", "LTX2AVGemmaTextEncode")
    )
    negative = prompt[text]["inputs"]["negative"]
    inputs = {"model": [model, 0], "gemma": [gemma, 0], "timeline": json.dumps(content), "negative": negative}
    add(prompt, strip=("LTX2AVTimeline", inputs))
    for each in prompt.values():
        for name, value in each["inputs"].items():
            if isinstance(value, list) and value[0] == text:
                each["inputs"][name] = ["strip", value[1]]
    del prompt[text]
    return prompt


def latent_of(server, client, prompt: dict, name: str) -> dict:
    """Both streams that the sampler made, as the host saves them."""
    for each in ("LTX2AVDecode", "SaveVideo"):
        del prompt[node(prompt, each)]
    sample = node(prompt, "LTX2AVSample")
    add(prompt, apart=("LTXVSeparateAVLatent", {"av_latent": [sample, 0]}))
    for at, stream in enumerate(("video", "audio")):
        add(prompt, **{stream: ("SaveLatent", {"samples": ["apart", at], "filename_prefix": f"{name}_{stream}"})})
    run = client.run(prompt)
    assert run.end == "execution_success", run.error
    files = sorted((server.base / "output").glob(f"{name}_*.latent"))
    return {path.name[len(name) + 1 :][:5]: load_file(path)["latent_tensor"] for path in files}


def test_a_strip_makes_what_separate_nodes_make(server, client, prompt):
    change(prompt, LTX2AVSchedule={"steps": 2})
    add(
        prompt,
        film=("LoadVideo", {"file": "ltx2_example_clip.mp4"}),
        begun=("LTX2AVEncode", {"model": [node(prompt, "LTX2AVLoadModel"), 0], "video": ["film", 0]}),
    )
    change(prompt, LTX2AVSample={"latent": ["begun", 0]})
    apart = copy.deepcopy(prompt)
    add(
        apart,
        shown=("LoadImage", {"image": "ltx2_example_first.png"}),
        first=("LTX2AVImage", {"image": ["shown", 0], "frame": 0, "strength": 1.0, "compression": -1}),
        last=("LTX2AVImage", {"image": ["shown", 0], "frame": 32, "strength": 0.5, "conditions": ["first", 0]}),
        heard=("LoadAudio", {"audio": "ltx2_example_sound.flac"}),
        sound=("LTX2AVAudioToVideo", {"audio": ["heard", 0], "conditions": ["last", 0], "start": 0.25}),
        who=(
            "LTX2AVCharacter",
            {
                "model": [node(apart, "LTX2AVLoadModel"), 0],
                "pictures": ["shown", 0],
                "way": "auto",
                "strength": 0.75,
                "voice": ["heard", 0],
                "conditions": ["sound", 0],
            },
        ),
        range=("LTX2AVRetake", {"start": 0.5, "end": 1.0, "streams": "picture", "conditions": ["who", 0]}),
    )
    change(apart, LTX2AVSample={"conditions": ["range", 0]})
    prompts = [{"text": apart[node(apart, "LTX2AVGemmaTextEncode")]["inputs"]["prompt"]}]
    picture = {"file": "ltx2_example_first.png"}
    together = strip_of(
        prompt,
        seconds=33 / 24,
        prompts=prompts,
        pictures=[picture, picture | {"at": 32 / 24, "strength": 0.5}],
        sounds=[{"file": "ltx2_example_sound.flac", "start": 0.25}],
        characters=[picture | {"voice": "ltx2_example_sound.flac", "strength": 0.75}],
        retakes=[{"start": 0.5, "end": 1.0, "streams": "picture"}],
    )
    change(together, LTX2AVSample={"conditions": ["strip", 2]})
    one, other = latent_of(server, client, apart, "apart"), latent_of(server, client, together, "strip")
    assert one.keys() == other.keys() == {"video", "audio"}
    assert all(torch.equal(one[stream], other[stream]) for stream in one)


def test_a_picture_that_is_replaced_is_read_again_also_where_a_link_brings_the_strip(server, client, prompt):
    (server.base / "input" / "strip").mkdir(parents=True, exist_ok=True)
    change(prompt, LTX2AVSchedule={"steps": 1})
    strip_of(prompt, seconds=33 / 24, prompts=[{"text": "a ball"}], pictures=[{"file": "strip/first.png"}])
    add(prompt, words=("PrimitiveString", {"value": prompt["strip"]["inputs"]["timeline"]}))
    change(prompt, LTX2AVTimeline={"timeline": ["words", 0]}, LTX2AVSample={"conditions": ["strip", 2]})
    ran = []
    for colour in ("red", "red", "blue"):
        if not ran or colour == "blue":
            Image.new("RGB", (96, 96), colour).save(server.base / "input" / "strip" / "first.png")
        ran.append(client.run(prompt).executed)
    assert "strip" in ran[0] and ran[1] == [] and "strip" in ran[2]


def test_later_prompts_become_segments_at_their_seconds(server, client, prompt):
    change(prompt, LTX2AVSchedule={"steps": 2}, LTX2AVEmptyLatent={"frames": 57})
    apart = copy.deepcopy(prompt)
    model, gemma = node(apart, "LTX2AVLoadModel"), node(apart, "LTX2AVLoadGemma")
    later = "a green ball bounces twice on the left"
    text = {"model": [model, 0], "gemma": [gemma, 0], "prompt": later, "negative": ""}
    windows = ("LTX2AVLongVideo", {"window": 33, "overlap": 16, "drift_control": 0.0, "resume": False})
    add(
        apart,
        cut=windows,
        text=("LTX2AVGemmaTextEncode", text),
        segment=("LTX2AVSegment", {"windows": ["cut", 0], "positive": ["text", 0], "start": 1.0}),
    )
    change(apart, LTX2AVSample={"windows": ["segment", 0]})
    first = prompt[node(prompt, "LTX2AVGemmaTextEncode")]["inputs"]["prompt"]
    together = strip_of(add(prompt, cut=windows), prompts=[{"text": later, "at": 1}, {"text": first}])
    change(together, LTX2AVSample={"windows": ["strip", 3]})
    together["strip"]["inputs"]["windows"] = ["cut", 0]
    one, other = latent_of(server, client, apart, "segments"), latent_of(server, client, together, "later")
    assert all(torch.equal(one[stream], other[stream]) for stream in one)


@pytest.mark.parametrize(
    "content, words",
    [
        ({"prompts": [{"text": "a", "att": 1}]}, "Entry 1 of prompts has no att"),
        ({"prompts": [{"text": "a"}], "pictures": [{"file": "../a.png"}]}, "no name of a file in input"),
        ({"prompts": [{"text": "a"}], "pictures": [{"file": "not_there.png"}]}, "There is no file not_there.png"),
        ({"prompts": []}, "has no prompt"),
    ],
)
def test_a_strip_that_cannot_be_is_refused_by_its_entry(client, prompt, content, words):
    assert words in client.complaint(strip_of(prompt, **content))
