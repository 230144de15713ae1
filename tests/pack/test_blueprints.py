"""Subgraph blueprints are those that the code makes; ComfyUI lists them, and a node made from one runs.

After changing a graph or an input, write them anew: PYTHONPATH=tests python tests/pack/blueprints.py
"""

import json
from uuid import uuid4

import pytest
from pack.blueprints import BLUEPRINTS, FOLDER, INPUT, LABELS, OUTPUT, written
from pack.host import PACK
from pack.visits import nodes2

pytestmark = pytest.mark.comfy

EXAMPLES = {
    "picture": ["LoadImage", "image", "ltx2_example_first.png"],
    "sound": ["LoadAudio", "audio", "ltx2_example_sound.flac"],
    "video": ["LoadVideo", "file", "ltx2_example_clip.mp4"],
}


@pytest.fixture(params=BLUEPRINTS, ids=lambda each: each.name)
def blueprint(request):
    return request.param


def test_there_are_no_others():
    assert {path.stem for path in FOLDER.iterdir()} == {each.name for each in BLUEPRINTS}


def test_a_file_is_what_the_code_makes(blueprint, object_info):
    if not object_info["SaveVideo"]["output"]:
        pytest.skip("blueprints are drawn with a ComfyUI whose Save Video hands its video on")
    text = (FOLDER / f"{blueprint.name}.json").read_text(encoding="utf-8")
    assert text == written(blueprint, object_info), "PYTHONPATH=tests python tests/pack/blueprints.py writes it anew"


def test_comfyui_lists_it(client, blueprint):
    listed = json.loads(client.fetch("/global_subgraphs"))
    (number,) = (key for key, each in listed.items() if each["name"] == blueprint.name)
    assert listed[number]["info"]["node_pack"] == f"custom_nodes.{PACK}"
    served = json.loads(client.fetch(f"/global_subgraphs/{number}"))["data"]
    assert served == (FOLDER / f"{blueprint.name}.json").read_text(encoding="utf-8")


def test_every_wire_inside_is_known_at_both_ends(blueprint):
    file = json.loads((FOLDER / f"{blueprint.name}.json").read_text(encoding="utf-8"))
    (inside,) = file["definitions"]["subgraphs"]
    nodes = {node["id"]: node for node in inside["nodes"]}
    for link in inside["links"]:
        sources = {INPUT: inside["inputs"]}.get(link["origin_id"]) or nodes[link["origin_id"]]["outputs"]
        source = sources[link["origin_slot"]]
        assert link["id"] in (source.get("linkIds") or source["links"])
        if link["target_id"] == OUTPUT:
            assert link["id"] in inside["outputs"][link["target_slot"]]["linkIds"]
        else:
            assert nodes[link["target_id"]]["inputs"][link["target_slot"]]["link"] == link["id"]


@pytest.mark.browser
@pytest.mark.parametrize("renderer", ["canvas", "nodes2"])
def test_a_node_made_from_it_runs(stay, blueprint, tmp_path, renderer):
    file = json.loads((FOLDER / f"{blueprint.name}.json").read_text(encoding="utf-8"))
    sockets = {each["name"] for each in file["nodes"][0]["inputs"]} & EXAMPLES.keys()
    prompt = "a green ball bounces once on the right"
    task = {
        "workflow": {"id": str(uuid4()), "nodes": [], "links": [], "version": 0.4}, "name": blueprint.name,
        "media": {name: EXAMPLES[name] for name in sockets}, "values": {"prompt": prompt},
        "screenshot": str(tmp_path / "blueprint.png"),
    }  # fmt: skip
    seen = stay("blueprint.cjs", nodes2(renderer == "nodes2"), **task)
    assert {name for _, name in blueprint.face} <= {*seen["face"]}
    assert {LABELS.get(each, each[1]) for each in blueprint.face} <= {*seen["labels"]}, "0 does not say what it means"
    assert [each["inputs"]["prompt"] for each in seen["prompt"].values() if "prompt" in each["inputs"]] == [prompt]
    assert seen["end"] == "execution_success", "\n".join(seen["errors"])
    assert not [error for error in seen["errors"] if "TypeError" in error]
    assert seen["seeds"][0] != seen["seeds"][1], "the next clip would be the same"
