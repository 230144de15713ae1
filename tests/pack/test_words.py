"""A number that means something else is a choice of words in the browser; saved and sent is the number, as ever."""

import re

import pytest
from pack.host import PACK
from pack.visits import nodes2
from pack.workflow import inputs_of

pytestmark = pytest.mark.comfy

MEANS = re.compile(r"(?<![\w.])(0|-1) (takes|means|goes|as above|does not|is what)|[Ww]ith 0 here|Above 0")
# An empty latent has a choice of its own for this one: length.
OTHERWISE = {("LTX2AVEmptyLatent", "seconds")}


def test_every_number_that_means_something_else_has_words(object_info):
    speaking, having = set(), set()
    for kind, info in object_info.items():
        if info["python_module"] != f"custom_nodes.{PACK}":
            continue
        for name, _, options in inputs_of(info):
            if MEANS.search(options["tooltip"]):
                speaking.add((kind, name))
            if instead := options.get("ltx2av_instead"):
                having.add((kind, name))
                values = [value for value, _ in instead["words"]]
                assert options["default"] in values and instead["usual"] not in values
                assert all(options["min"] <= value <= options["max"] for value in [*values, instead["usual"]])
    assert speaking - having == OTHERWISE
    assert having >= {("LTX2AVPlan", "max_vram"), ("LTX2AVPlan", "max_ram"), ("LTX2AVDecode", "tile_size")}


@pytest.mark.browser
@pytest.mark.parametrize("renderer", ["canvas", "nodes2"])
def test_words_are_chosen_and_numbers_are_saved(visit, renderer):
    node = {"id": 1, "type": "LTX2AVPlan", "pos": [500, 200], "size": [340, 320], "widgets_values": [0, 10]}
    workflow = {"nodes": [node], "links": [], "version": 0.4}
    seen = visit("words.cjs", nodes2(renderer == "nodes2"), workflow=workflow, kind="LTX2AVPlan")
    free, by_hand = "what is free", "by hand"
    assert seen["loaded"]["shown"] == {"max_ram": 10, "max_vram is": free, "max_ram is": by_hand}
    assert seen["by hand"]["shown"] == {"max_vram": 12, "max_ram": 10, "max_vram is": by_hand, "max_ram is": by_hand}
    assert seen["words"]["shown"] == {"max_vram is": free, "max_ram is": free}
    for moment, values in ("loaded", [0, 10]), ("by hand", [12, 10]), ("words", [0, 0]):
        assert seen[moment]["saved"] == values
        assert seen[moment]["sent"] == dict(zip(("max_vram", "max_ram"), values))


@pytest.mark.browser
def test_a_name_says_when_and_from_what_it_is_as_in_the_nodes_of_the_host(visit):
    written = "%date:yyyy%/%LTX2AVEmptyLatent.width%_clip"
    size = {"id": 1, "type": "LTX2AVEmptyLatent", "pos": [100, 200], "widgets_values": [96, 64, 33, 24]}
    save = {"id": 2, "type": "LTX2AVSaveLatent", "pos": [500, 200], "widgets_values": [written]}
    workflow = {"nodes": [size, save], "links": [], "version": 0.4}
    seen = visit("words.cjs", nodes2(False), workflow=workflow, kind="LTX2AVSaveLatent")["loaded"]
    assert seen["saved"] == [written]
    assert re.fullmatch(r"20\d\d/96_clip", seen["sent"]["filename_prefix"])
