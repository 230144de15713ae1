"""A node that is bypassed (Ctrl+B) does no harm: what it is given passes as what it is, or ComfyUI says what lacks.

The rule of the front end is ``pack.workflow.passed_on``; ``test_browser`` holds it to the real one.
"""

import copy
import json
from urllib.error import HTTPError

import pytest
from pack.client import sentences
from pack.host import PACK
from pack.test_nodes import NODES
from pack.workflow import BYPASSED, NOTES, SHIPPED, passed_on, to_prompt

pytestmark = pytest.mark.comfy

# Outputs that continue an input of another name; a comparison that is bypassed shows the first clip.
SAME = {"av_latent": "latent", "video": "first"}

# Lengths of an empty or encoded latent, beside widgets of whole numbers that can never move: they hand on a width or
# height that came through a link. Bypassing such a node leaves its LATENT empty, which ComfyUI says.
NUMBERS = {("LTX2AVEmptyLatent", "frames"), ("LTX2AVEncode", "frames")}


@pytest.mark.parametrize("name", NODES)
def test_an_output_continues_the_input_of_its_own_name_or_nothing(object_info, name):
    info = object_info[name]
    for slot, (output, kind) in enumerate(zip(info["output_name"], info["output"])):
        if (name, output) not in NUMBERS:
            assert passed_on(info, slot, kind) in (None, output, SAME.get(output)), output


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_each_node_of_a_workflow_can_be_bypassed(client, object_info, path):
    """Every input that is still connected means what it meant; what is not is optional, or ComfyUI names it."""
    workflow = json.loads(path.read_text())
    whole, tried = to_prompt(workflow, object_info), 0
    for item in workflow["nodes"]:
        if item["type"] in NOTES or object_info[item["type"]]["python_module"] != f"custom_nodes.{PACK}":
            continue
        changed = copy.deepcopy(workflow)
        next(each for each in changed["nodes"] if each["id"] == item["id"])["mode"] = BYPASSED
        prompt, tried = to_prompt(changed, object_info), tried + 1
        key, info = str(item["id"]), object_info[item["type"]]
        missing = []
        for user, node in prompt.items():
            for name, before in whole[user]["inputs"].items():
                if not (isinstance(before, list) and before[0] == key):
                    continue
                output = info["output_name"][before[1]]
                after = node["inputs"].get(name)
                if isinstance(after, list):  # else it is nothing, or its own widget
                    assert after == whole[key]["inputs"][SAME.get(output, output)], (item["type"], output)
                if after is None and name in object_info[node["class_type"]]["input"].get("required", {}):
                    missing.append((node["class_type"], name))
        refusal = refused(client, prompt) if missing else ""
        assert all(f"{kind}: Required input is missing: {name}" in refusal for kind, name in missing), refusal
    assert tried


def refused(client, prompt) -> str:
    """What ComfyUI says of a prompt, or of the parts of it that it leaves out; nothing of it is run to its end."""
    try:
        answer = json.loads(client.fetch("/prompt", {"prompt": prompt, "client_id": client.id}))
    except HTTPError as refusal:
        return sentences(json.loads(refusal.read()))
    client.fetch("/queue", {"clear": True})
    client.interrupt()
    return sentences({"error": {"message": "", "details": ""}, **answer})
