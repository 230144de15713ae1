"""What a browser makes of a graph that is changed: nodes bypassed, put into a subgraph, in two tabs, and stopped."""

import json

import pytest
from golden import FOLDER
from pack.visits import nodes2
from pack.workflow import BYPASSED, SHIPPED, content, to_prompt

pytestmark = [pytest.mark.comfy, pytest.mark.browser]


@pytest.mark.parametrize("saved_with", ["now", "0.1"])
@pytest.mark.parametrize("name", ["text_to_video_guided", "refine_4k", "ic_lora_control"])
def test_a_bypassed_node_hands_on_what_our_rule_says(stay, object_info, name, saved_with):
    folder = FOLDER / "workflows_0.1" if saved_with == "0.1" else SHIPPED[0].parent
    workflow = json.loads((folder / f"{name}.json").read_text())
    ours = [node["id"] for node in workflow["nodes"] if node["type"].startswith("LTX2AV")]
    prompts = stay("bypass.cjs", nodes2(False), workflow=workflow, bypass=ours)["prompts"]
    assert len(prompts) == len(ours)
    for number in ours:
        changed = json.loads(json.dumps(workflow))
        next(node for node in changed["nodes"] if node["id"] == number)["mode"] = BYPASSED
        assert content(prompts[str(number)]) == content(to_prompt(changed, object_info)), number


def test_our_nodes_follow_into_subgraphs_and_keep_to_their_tab(visit, tmp_path):
    workflow = json.loads((SHIPPED[0].parent / "text_to_video.json").read_text())
    (sampler,) = (node["id"] for node in workflow["nodes"] if node["type"] == "LTX2AVSample")
    task = {"sampler": sampler, "screenshot": str(tmp_path / "moves.png")}
    seen = visit("moves.cjs", nodes2(False), workflow=workflow, **task)
    assert seen["elsewhere"] == "the preview appears here", "a clip of another tab"
    assert seen["stopped"].startswith("stopped"), "a run that was cancelled seems to go on"
    assert seen["apart"]["LTX2AVEmptyLatent"] == ["width", "height", "frames", "megapixels"]
    assert seen["inside"] == seen["apart"]
    assert "20 steps" in seen["said"]["LTX2AVSample"], "a closed subgraph loses what its nodes say"


def test_a_new_node_is_as_high_as_what_it_shows_and_a_stack_grows_with_its_loras(visit, object_info):
    kinds = [kind for kind in object_info if kind.startswith("LTX2AV")]
    empty = {"nodes": [], "links": [], "version": 0.4}
    seen = visit("added.cjs", nodes2(False), workflow=empty, kinds=kinds)
    heights, (new, filled, emptied) = seen["heights"], seen["rows"]
    assert {*heights} == {*kinds}
    assert {kind: found for kind, found in heights.items() if found[0] != found[1]} == {}
    assert new[1] == ["lora_1"] and filled[1] == ["lora_1", "strength_1", "lora_2"] and filled[0] > new[0]
    assert emptied == new
    assert seen["rate"] == ["fps is"], "the number beside the word that is chosen in its place"


def test_what_nodes_show_stays_as_wide_as_they_are_beside_the_panel_of_parameters(visit, client):
    workflow = json.loads((SHIPPED[0].parent / "timeline.json").read_text())
    settings = nodes2(False) | {"Comfy.RightSidePanel.IsOpen": True}
    seen = visit("panel.cjs", settings, workflow=workflow, kinds=["LTX2AVTimeline", "LTX2AVSample"])
    client.fetch("/settings", {"Comfy.RightSidePanel.IsOpen": False})
    assert seen["before"] and seen["after"] == seen["before"]
    assert {"timeline", "preview", "messages"} <= {*seen["rows"]}


@pytest.mark.parametrize("renderer", ["canvas", "nodes2"])
def test_a_wire_that_is_drawn_to_a_grey_input_counts_or_it_is_said_that_it_does_not(visit, renderer):
    """Size and length are automatic beside a model; what is chosen later stays chosen when the graph is loaded."""
    workflow = json.loads((SHIPPED[0].parent / "text_to_video.json").read_text())
    inputs = [("LTX2AVEmptyLatent", "height"), ("LTX2AVEmptyLatent", "frames"), ("LTX2AVSample", "steps")]
    seen = visit("wires.cjs", nodes2(renderer == "nodes2"), workflow=workflow, inputs=inputs)
    assert seen["drawn"] == {"size": "by hand", "length": "in frames"}
    assert seen["loaded"] == {"size": "auto", "length": "in frames"}
    said = "steps of LTX-2 Dual-Stream Sampler has no effect"
    assert seen["warned"] and all(said in each for each in seen["warned"])  # some front ends say it twice, once aloud


def test_app_mode_shows_what_one_chooses_and_runs(visit, tmp_path):
    workflow, strip = (
        json.loads((SHIPPED[0].parent / f"{name}.json").read_text()) for name in ("image_to_video", "timeline")
    )
    seen = visit("app.cjs", nodes2(True), workflow=workflow, strip=strip, screenshot=str(tmp_path / "app.png"))
    assert seen["end"] == "execution_success"
    assert seen["labels"] == [name for _, name in workflow["extra"]["linearData"]["inputs"]]
    assert seen["labelsOfStrip"][0] == "timeline" and seen["frames"] == "49 frames"
