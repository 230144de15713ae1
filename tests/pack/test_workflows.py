"""What lies in ``workflows/`` can be dragged in by anybody and makes a clip: flat, no foreign nodes, with a picture.

All tests of one workflow follow each other, so that ComfyUI runs it once: in the browser, if there is one. It still has
the results when it is asked again.
"""

import json
import re
from io import BytesIO

import numpy as np
import pytest
from pack.client import Prompt
from pack.clip import Clip, saved, sound_in
from pack.drawing import written
from pack.graphs import GRAPHS
from pack.host import PACK
from pack.visits import nodes2, unusual
from pack.workflow import NOTES, SHIPPED, content, inputs_of, node, to_prompt
from PIL import Image

from ltx2_core.sampling.recipes import RECIPES

pytestmark = pytest.mark.comfy

CORE = ("nodes", "comfy_extras.")
MINIATURE = RECIPES["miniature"]

TITLE = 30  # of a node, drawn above its position; pixels
LEGIBLE = 0.65  # zoom; ComfyUI's canvas draws no text at 0.57 and below


@pytest.fixture(scope="module", params=SHIPPED, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def workflow(path):
    return json.loads(path.read_text())


def test_it_is_flat_and_has_only_our_nodes_and_the_hosts(workflow, object_info):
    assert workflow["version"] == 0.4
    assert "definitions" not in workflow
    for item in workflow["nodes"]:
        if item["type"] not in NOTES:
            module = object_info[item["type"]]["python_module"]
            ours = module == f"custom_nodes.{PACK}"
            assert ours or module.startswith(CORE), f"{item['type']} comes from {module}"
            assert item["properties"]["cnr_id"] == (PACK if ours else "comfy-core")
            assert "DEPRECATED" not in (item.get("title") or object_info[item["type"]]["display_name"])


def test_links_fit_their_sockets(workflow, object_info):
    nodes = {node["id"]: node for node in workflow["nodes"]}
    assert len(nodes) == len(workflow["nodes"])
    assert workflow["last_node_id"] == max(nodes)
    assert workflow["last_link_id"] == max(link[0] for link in workflow["links"])
    for link, origin, slot, target, socket, kind in workflow["links"]:
        source, sink = nodes[origin]["outputs"][slot], nodes[target]["inputs"][socket]
        assert link in source["links"] and sink["link"] == link
        kinds = {name: kind for name, kind, _ in inputs_of(object_info[nodes[target]["type"]])}
        assert kind == object_info[nodes[origin]["type"]]["output"][slot] == kinds[sink["name"]]


def test_nodes_and_groups_do_not_overlap(workflow):
    def apart(one, other):
        (x, y, width, height), (u, v, across, down) = one, other
        return x + width <= u or u + across <= x or y + height <= v or v + down <= y

    places = [node["pos"] + node["size"] for node in workflow["nodes"]]
    boxes = [(x, y - TITLE, width, height + TITLE) for x, y, width, height in places]
    groups = [group["bounding"] for group in workflow["groups"]]
    assert max(x + width for x, _, width, _ in groups) <= 2000
    for shapes in (boxes, groups):
        assert all(apart(one, other) for number, one in enumerate(shapes) for other in shapes[:number])
    for (x, y, width, height), item in zip(boxes, workflow["nodes"]):
        inside = [u <= x and v <= y and x + width <= u + w and y + height <= v + h for u, v, w, h in groups]
        assert sum(inside) == (item["type"] not in NOTES), item["type"]


def test_it_is_as_it_is_drawn(path, object_info):
    if not object_info["SaveVideo"]["output"]:
        pytest.skip("workflows are drawn with a ComfyUI whose Save Video hands its video on")
    (make,) = [each for each in GRAPHS if each.__name__ == path.stem]
    assert path.read_text(encoding="utf-8") == written(make(), object_info)


@pytest.mark.browser
@pytest.mark.parametrize("renderer", ["canvas", "nodes2"])
def test_a_workflow_loads_shows_and_runs(stay, workflow, object_info, tmp_path, renderer):
    expected, on = to_prompt(workflow, object_info), renderer == "nodes2"
    screenshot = str(tmp_path / f"{renderer}.png")
    seen = stay("session.cjs", nodes2(on), workflow=workflow, nodes2=on, screenshot=screenshot)

    assert content(seen["prompt"]) == content(expected)
    switched_on = {**workflow, "nodes": [{**item, "mode": 0} for item in workflow["nodes"]]}
    assert seen["sliders"] == sliders_in(to_prompt(switched_on, object_info), object_info)
    assert seen["end"] == "execution_success", "\n".join(seen["errors"])
    savers = [key for key, each in expected.items() if each["class_type"] in ("SaveVideo", "SaveAudio")]
    assert savers and {*savers} <= {*seen["outputs"]}
    assert not [each for each in unusual(seen["errors"]) if not is_of_another_app(each, workflow)]
    assert seen["zoom"] >= LEGIBLE
    if renderer == "canvas" or object_info["SaveVideo"]["output"]:  # rows of the first Nodes 2.0 are higher
        check_no_node_has_grown(seen["boxes"], workflow)


def is_of_another_app(error: str, workflow: dict) -> bool:
    """What front ends from 1.58 say when they look for the inputs of the app before in the graph that is opened."""
    named = re.search(r"dropping legacy selectedInput .*storedId: (\d+), widgetName: (\w+)", error)
    return bool(named) and [int(named[1]), named[2]] not in workflow["extra"]["linearData"]["inputs"]


def check_no_node_has_grown(boxes: list[dict], workflow: dict) -> None:
    """Every node is as saved, previews and sentences included: inside its group and beside the others."""
    room = {tuple(item["pos"]): item["size"] for item in workflow["nodes"]}
    grown = []
    for kind, (x, y, width, height) in ((each["kind"], each["box"]) for each in boxes):
        across, down = room[round(x), round(y) + TITLE]
        if kind not in NOTES and (width > across + 1 or height > down + TITLE + 1):
            grown.append((kind, round(width), round(height) - TITLE, across, down))
    assert not grown


def test_it_saves_what_it_makes(server, client, workflow, object_info):
    """Picture and sound of equal length, at least as long and large as the latent says; or sound alone."""
    prompt = to_prompt(workflow, object_info)
    run = client.run(prompt)
    if any(value["class_type"] == "SaveAudio" for value in prompt.values()):
        samples, rate = sound_in(*saved(server, run, node(prompt, "SaveAudio")))  # left and right in turn
        assert abs(samples.size / 2 / rate - MINIATURE.frames / 24) < 0.1
        sound = samples / np.iinfo(samples.dtype).max
    else:
        clip = Clip.of(server, run, node(prompt, "SaveVideo"))
        assert len(clip.frames) >= MINIATURE.frames and clip.fps >= 24
        assert clip.frames.shape[1] % MINIATURE.height == clip.frames.shape[2] % MINIATURE.width == 0
        assert abs(clip.video_seconds - clip.audio_seconds) < 0.001
        assert np.ptp(clip.frames, axis=0).max() > 50, "nothing moves"
        sound = clip.sound
    assert np.sqrt((sound**2).mean()) > 1e-3, "silence"


def test_the_template_browser_offers_it_with_its_picture(client, path):
    assert path.with_suffix(".jpg").is_file()
    assert path.stem in json.loads(client.fetch("/workflow_templates"))[PACK]
    picture = Image.open(BytesIO(client.fetch(f"/api/workflow_templates/{PACK}/{path.stem}.jpg")))
    assert picture.format == "JPEG" and picture.width >= 256


def sliders_in(prompt: Prompt, object_info: dict) -> list[list[float]]:
    """Minimum, maximum and value of each input that asks for a slider."""
    return [
        [options["min"], options["max"], value["inputs"][name]]
        for value in prompt.values()
        for name, _, options in inputs_of(object_info[value["class_type"]])
        if options.get("display") == "slider"
    ]


def test_another_pack_can_come_between_where_clips_go_to_several_servers(object_info):
    """Its seed is a number, and what it collects are pictures and a sound: both are wires here."""
    (path,) = [each for each in SHIPPED if each.stem == "several_servers"]
    prompt = to_prompt(json.loads(path.read_text()), object_info)
    seed, _ = prompt[node(prompt, "LTX2AVSample")]["inputs"]["seed"]
    assert prompt[seed]["class_type"] == "PrimitiveInt"
    film, decode = prompt[node(prompt, "CreateVideo")]["inputs"], node(prompt, "LTX2AVDecode")
    kinds = object_info["LTX2AVDecode"]["output"]
    assert [(film[each][0], kinds[film[each][1]]) for each in ("images", "audio")] == [
        (decode, "IMAGE"),
        (decode, "AUDIO"),
    ]
