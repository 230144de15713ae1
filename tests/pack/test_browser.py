"""What a browser makes of a graph in which a node is bypassed."""

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
