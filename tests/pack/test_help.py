"""The help page of a node names all that the node has, and nothing that it has not.

After changing an input, its text or its limits, write the tables anew: python tests/pack/help.py
"""

import json
import re
from itertools import chain

import pytest
from pack.help import BOLD, PAGES, inputs_in, outputs_in, page_of, split, table, with_table
from pack.host import PACK, REPOSITORY
from pack.workflow import inputs_of

pytestmark = pytest.mark.comfy

NODES = list(json.loads((REPOSITORY / "tests" / "pack" / "object_info.json").read_text()))


@pytest.fixture(scope="module")
def ours(object_info):
    return {name: info for name, info in object_info.items() if info["python_module"] == f"custom_nodes.{PACK}"}


def test_there_is_a_page_for_each_node_and_for_nothing_else(ours):
    assert {path.stem for path in PAGES.glob("*.md")} == ours.keys() == {*NODES}


@pytest.mark.parametrize("name", NODES)
def test_the_table_of_inputs_is_the_one_that_the_server_tells(ours, name):
    page = page_of(name)
    assert page == with_table(page, table(ours[name])), "python tests/pack/help.py writes it anew"
    assert sorted(inputs_in(page)) == sorted(each for each, _, _ in inputs_of(ours[name]))


@pytest.mark.parametrize("name", NODES)
def test_all_outputs_are_told_in_their_order(ours, name):
    assert outputs_in(page_of(name)) == ours[name]["output_name"]


@pytest.mark.parametrize("name", NODES)
def test_what_is_written_by_hand_names_only_what_the_node_has(ours, name):
    """Bold words are its inputs and outputs, by the name or the label; words_like_this may be a choice of any node."""
    written, inputs = "".join(split(page_of(name))), [*inputs_of(ours[name])]
    known = {each for each, _, _ in inputs} | {*ours[name]["output_name"]}
    labels = {options.get("display_name") for _, _, options in inputs}
    assert {*BOLD.findall(written)} - labels <= known
    everywhere = chain(*map(inputs_of, ours.values()))
    choices = chain(*(options["options"] for _, kind, options in everywhere if kind == "COMBO"))
    prose = re.sub(r"`[^`]*`|\(https://[^)]*\)", "", written)
    assert {*re.findall(r"\b[a-z]\w*_\w+\b", prose)} <= known | {*choices}


@pytest.mark.parametrize("name", NODES)
def test_a_tooltip_names_no_input_that_only_other_nodes_have(ours, name):
    everywhere = {each for info in ours.values() for each, _, _ in inputs_of(info) if "_" in each}
    own = {each for each, _, _ in inputs_of(ours[name])}
    for each, _, options in inputs_of(ours[name]):
        assert not ({*re.findall(r"\w+", options["tooltip"])} & everywhere) - own, each


def test_a_table_has_a_row_for_each_input_with_its_limits():
    info = {
        "input": {
            "required": {
                "model": ["LTX2AV_MODEL", {"tooltip": "The model."}],
                "size": ["INT", {"tooltip": "How large.", "min": 8, "max": 64, "step": 8, "default": 16}],
                "lora_1": ["COMBO", {"tooltip": "From models/loras.", "options": ["here.safetensors"]}],
            },
            "optional": {
                "lora_2": ["COMBO", {"tooltip": "From models/loras.", "options": ["here.safetensors"]}],
                "way": ["COMBO", {"tooltip": "far | near goes far.", "options": ["near", "far"], "advanced": True}],
                "sigma": ["FLOAT", {"tooltip": "Noise.", "display_name": "noise", "min": 0, "max": 1, "default": 0.5}],
                "mask": ["MASK", {"tooltip": "Where."}],
            },
        }
    }
    page = with_table("# A\n\n## Inputs\n\nold\n\n## Outputs\n\n- **one**, **two**: those.\n", table(info))
    assert page.split("## Inputs\n")[1] == (
        "\n| input | what it does |\n|---|---|\n"
        "| **model** | (model) The model. |\n"
        "| **size** | (8 to 64 in steps of 8; default 16) How large. |\n"
        "| **lora_1** to **lora_2** | (a file) From models/loras. |\n"
        "| **noise** (sigma) | (0 to 1; default 0.5) Noise. |\n"
        "| **mask** | (mask; optional) Where. |\n"
        "| **way** | (advanced; *near* or *far*; default *near*) *far* \\| *near* goes *far*. |\n"
        "\n## Outputs\n\n- **one**, **two**: those.\n"
    )
    assert inputs_in(page) == ["model", "size", "lora_1", "lora_2", "sigma", "mask", "way"]
    assert outputs_in(page) == ["one", "two"]
