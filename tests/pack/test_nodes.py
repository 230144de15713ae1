"""All nodes are there, explain themselves, and keep the names and the order that saved workflows rely on.

After adding a node or an (optional, last) input, store the new list: LTX2_FREEZE=1 python -m pytest tests/pack -k keep
"""

import json
import os
from pathlib import Path

import pytest
from pack.host import PACK
from pack.workflow import inputs_of

pytestmark = pytest.mark.comfy

STORED = Path(__file__).parent / "object_info.json"
NODES = list(json.loads(STORED.read_text()))


def test_all_nodes_register_and_keep_inputs_and_outputs(object_info):
    ours = {name: frozen(info) for name, info in object_info.items() if info["python_module"] == f"custom_nodes.{PACK}"}
    if os.environ.get("LTX2_FREEZE"):
        STORED.write_text(json.dumps(ours, indent=1) + "\n")
    assert ours == json.loads(STORED.read_text())


def frozen(info: dict) -> dict[str, list[str]]:
    """What a saved workflow depends on: inputs in order with type and default, and outputs in order."""
    lines: dict[str, list[str]] = {"required": [], "optional": []}
    for name, kind, options in inputs_of(info):
        group = "optional" if name in info["input"].get("optional", {}) else "required"
        default = f" = {json.dumps(options['default'])}" if "default" in options else ""
        lines[group].append(f"{name}: {kind}{default}")
    return lines | {"outputs": [f"{name}: {kind}" for name, kind in zip(info["output_name"], info["output"])]}


def test_the_scales_of_the_sampler_are_sliders(object_info):
    sliders = [
        name for name, _, options in inputs_of(object_info["LTX2AVSample"]) if options.get("display") == "slider"
    ]
    assert sliders == ["text_scale", "cross_modal_scale"]


@pytest.mark.parametrize("name", NODES)
def test_a_node_explains_itself(object_info, client, name):
    info = object_info[name]
    assert info["category"].startswith("LTX-2/")
    assert info["display_name"].startswith("LTX-2 ")
    assert info["description"].endswith(".")
    assert info["search_aliases"]
    silent = [i for i, _, options in inputs_of(info) if not options.get("tooltip")]
    silent += [o for o, text in zip(info["output_name"], info["output_tooltips"]) if not text]
    assert not silent, f"without a tooltip: {silent}"
    page = client.fetch(f"/extensions/{PACK}/docs/{name}.md").decode()
    assert info["display_name"] in page.splitlines()[0]
