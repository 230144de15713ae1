"""A graph in columns, drawn as ComfyUI saves workflows: places, wires, groups, and a note as high as its text."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from pack.host import PACK
from pack.links import FILES, links_of
from pack.workflow import BYPASSED, default_of, has_control, inputs_of, is_widget

WIDTH, PAD, GAP, TITLE = 340, 20, 14, 30  # of nodes and groups, in pixels
HEAD = 40  # of a group, above its first node

# How high a node is in either renderer once it has run, with its previews and sentences; pixels, without the title.
HEIGHTS = {
    "LTX2AVLoadModel": 205, "LTX2AVLoadGemma": 175, "LTX2AVLoadUpscaler": 140, "LTX2AVLoadLora": 220,
    "LTX2AVLoadLoraAdvanced": 460, "LTX2AVLoadICLora": 290, "LTX2AVPlan": 350, "LTX2AVGemmaTextEncode": 300,
    "LTX2AVThinkingTokens": 140, "LTX2AVEmptyLatent": 475, "LTX2AVEncode": 350, "LTX2AVExtend": 190,
    "LTX2AVImage": 175, "LTX2AVKeyframes": 175, "LTX2AVAudioToVideo": 130, "LTX2AVVideoToAudio": 130,
    "LTX2AVReferenceAudio": 150, "LTX2AVReferenceVideo": 250, "LTX2AVRetake": 150, "LTX2AVInpaint": 140,
    "LTX2AVGuidance": 200, "LTX2AVLongVideo": 200, "LTX2AVSegment": 110, "LTX2AVSample": 800, "LTX2AVUpscale": 185,
    "LTX2AVRefine": 720, "LTX2AVTwoStage": 700, "LTX2AVVideoDecode": 200, "LTX2AVAudioDecode": 170,
    "LTX2AVVocoder": 120, "LTX2AVDecode": 265, "SaveVideo": 440, "SaveAudio": 165, "LoadImage": 420, "LoadAudio": 160,
    "LoadVideo": 415, "LoadImageMask": 420, "GetVideoComponents": 95, "RepeatImageBatch": 66,
    "CreateVideo": 110, "LTX2AVTimeline": 670, "LTX2AVGeneratedKeyframes": 130,
    "LTX2AVRaiseFrameRate": 270, "LTX2AVSaveHDR": 280, "LTX2AVCharacter": 330, "LTX2AVMotionTracks": 260,
    "LTX2AVBlend": 180, "LTX2AVSignClip": 145, "PrimitiveInt": 110, "LTX2AVSeveralCards": 520,
}  # fmt: skip

COLOURS = {"Model": "#3f789e", "Prompt": "#8A8", "Clip": "#88A", "Given": "#a1309b", "Sampling": "#b06634",
           "Second stage": "#8a5a2b", "Result": "#3f789e"}  # fmt: skip

# What ComfyUI's app mode shows of a graph, in this order: kinds of nodes, and their widgets that have no wire.
APP = (
    ("LTX2AVTimeline", "ltx2av_timeline"), ("LTX2AVGemmaTextEncode", "prompt"), ("LoadImage", "image"),
    ("LoadVideo", "file"), ("LoadAudio", "audio"), ("LoadImageMask", "image"), ("LTX2AVExtend", "seconds"),
    ("LTX2AVRetake", "start"), ("LTX2AVRetake", "end"),
    ("LTX2AVEncode", "megapixels"), ("LTX2AVEmptyLatent", "size"), ("LTX2AVEmptyLatent", "megapixels"),
    ("LTX2AVEmptyLatent", "seconds"),
    ("LTX2AVSample", "seed"), ("LTX2AVLoadModel", "checkpoint"),
)  # fmt: skip
SAVERS = ("SaveVideo", "SaveAudio")

LETTER, LINE = 5.6, 16.5  # width of a letter of a note and height of its lines, in pixels


@dataclass(eq=False)
class Node:
    """A node: its values by the names of widgets; an input that is another node's output is an ``Output``."""

    kind: str
    inputs: dict[str, Any]
    title: str = ""
    bypassed: bool = False

    def __getitem__(self, output: str) -> "Output":
        return Output(self, output)


@dataclass(frozen=True, eq=False)
class Output:
    """One output of a node, by name."""

    node: Node
    name: str


@dataclass
class Graph:
    """A workflow: its note, and groups of nodes in columns, top to bottom."""

    name: str
    title: str
    note: str
    files: tuple[str, ...] = ()  # what beside model and Gemma the note has links to
    columns: list[list[tuple[str, list[Node]]]] = field(default_factory=lambda: [[], [], [], [], []])
    note_in: tuple[int, int] = (0, 1)  # the column below which the note is, and how many it is wide

    def put(self, column: int, group: str, *nodes: Node) -> None:
        """Put nodes at the end of a column, in a group of their own."""
        self.columns[column].append((group, list(nodes)))


def drawn(graph: Graph, object_info: dict) -> dict[str, Any]:
    """``graph`` as ComfyUI saves it (UI format 0.4)."""
    nodes = [each for column in graph.columns for _, group in column for each in group]
    numbers = {id(each): number for number, each in enumerate(nodes, 1)}
    links, saved = list(_links(nodes, numbers, object_info)), []
    places, groups, note = _layout(graph)
    for order, each in enumerate(nodes):
        saved.append(_saved(each, numbers[id(each)], order, places[id(each)], links, object_info[each.kind]))
    saved.append(_note(graph, len(nodes) + 1, note))
    return {
        "id": str(uuid5(NAMESPACE_URL, f"{PACK}/{graph.name}")),
        "revision": 0,
        "last_node_id": len(saved),
        "last_link_id": len(links),
        "nodes": saved,
        "links": links,
        "groups": groups,
        "config": {},
        "extra": {"ds": {"scale": 0.7, "offset": [40, 60]}, "linearData": _app(nodes, numbers)},
        "version": 0.4,
    }


def _app(nodes: list[Node], numbers: dict[int, int]) -> dict[str, list]:
    """What app mode shows: widgets by the number of their node, and the nodes whose results are shown."""
    shown = [
        [numbers[id(each)], name]
        for kind, name in APP
        for each in nodes
        if each.kind == kind and not isinstance(each.inputs.get(name), Output) and name not in _idle(each.inputs)
    ]
    return {"inputs": shown, "outputs": [numbers[id(each)] for each in nodes if each.kind in SAVERS]}


def _idle(inputs: dict[str, Any]) -> set[str]:
    """Widgets of an empty latent that have no effect beside its other ones."""
    return ({"seconds"} if "length" in inputs else set()) | ({"size", "megapixels"} if "streams" in inputs else set())


def _links(nodes: list[Node], numbers: dict[int, int], object_info: dict) -> Iterator[list]:
    """Each wire: number, from which node and output, to which node and input, and its type."""
    count = 0
    for each in nodes:
        for place, name in enumerate(_sockets(each, object_info[each.kind])):
            if isinstance(source := each.inputs.get(name), Output):
                info, count = object_info[source.node.kind], count + 1
                slot = info["output_name"].index(source.name)
                target = next(kind for other, kind, _ in inputs_of(object_info[each.kind]) if other == name)
                kind = info["output"][slot] if isinstance(target, list) else target
                yield [count, numbers[id(source.node)], slot, numbers[id(each)], place, kind]


def _sockets(each: Node, info: dict) -> list[str]:
    """The names of a node's inputs as they are saved: sockets, then widgets that have a wire."""
    inputs = list(inputs_of(info))
    sockets = [name for name, kind, options in inputs if not is_widget(kind, options)]
    return sockets + [name for name, *rest in inputs if is_widget(*rest) and isinstance(each.inputs.get(name), Output)]


def _saved(each: Node, number: int, order: int, place: list[int], links: list, info: dict) -> dict[str, Any]:
    kinds = {name: (kind, options) for name, kind, options in inputs_of(info)}
    assert each.inputs.keys() <= kinds.keys(), (each.kind, each.inputs.keys() - kinds.keys())
    inputs = []
    for slot, name in enumerate(_sockets(each, info)):
        link = next((link[0] for link in links if link[3:5] == [number, slot]), None)
        socket = {"name": name, "type": kinds[name][0], "link": link}
        inputs.append(socket | ({"widget": {"name": name}} if is_widget(*kinds[name]) else {}))
    ours = info["python_module"] == f"custom_nodes.{PACK}"
    properties = {"cnr_id": PACK if ours else "comfy-core", "Node name for S&R": each.kind}
    if models := [entry.saved for entry in FILES if entry.loader == each.kind]:
        properties["models"] = models
    outputs = [
        {"name": name, "type": kind, "links": [link[0] for link in links if link[1:3] == [number, slot]] or None}
        for slot, (name, kind) in enumerate(zip(info["output_name"], info["output"]))
    ]
    return {
        "id": number,
        "type": each.kind,
        "pos": place[:2],
        "size": place[2:],
        "flags": {},
        "order": order,
        "mode": BYPASSED if each.bypassed else 0,
        "inputs": inputs,
        "outputs": outputs,
        **({"title": each.title} if each.title else {}),
        "properties": properties,
        "widgets_values": list(_values(each, info)),
    }


def _values(each: Node, info: dict) -> Iterator[Any]:
    """What the widgets hold, in their order; behind a seed what becomes of it.

    Widgets of ComfyUI's own nodes that may be absent, and are not set, are left out: earlier releases lack them.
    """
    may_lack = () if each.kind.startswith("LTX2AV") else info["input"].get("optional", {}).keys() - each.inputs.keys()
    for name, kind, options in inputs_of(info):
        if name in may_lack:
            continue
        if is_widget(kind, options):
            value = each.inputs.get(name, default_of(kind, options))
            yield default_of(kind, options) if isinstance(value, Output) else value
            if has_control(name, kind, options):
                yield "randomize" if each.kind == "LTX2AVSample" else "fixed"


def _layout(graph: Graph) -> tuple[dict[int, list[int]], list[dict], list[int]]:
    """Where each node, each group and the note is."""
    places: dict[int, list[int]] = {}
    groups: list[dict[str, Any]] = []
    bottoms, pitch = [], WIDTH + 2 * PAD + GAP
    for number, column in enumerate(each for each in graph.columns if each):
        x, y = number * pitch, 0
        for title, nodes in column:
            top, y = y, y + HEAD + TITLE
            for each in nodes:
                places[id(each)] = [x + PAD, y, WIDTH, HEIGHTS[each.kind]]
                y += HEIGHTS[each.kind] + TITLE + GAP
            y += PAD - TITLE - GAP
            box = {"title": title, "bounding": [x, top, WIDTH + 2 * PAD, y - top], "color": COLOURS[title]}
            groups.append({"id": len(groups) + 1, **box, "font_size": 24, "flags": {}})
            y += GAP
        bottoms.append(y)
    column, span = graph.note_in
    return places, groups, _note_place(graph, column * pitch, max(bottoms[column : column + span]), span * pitch - GAP)


def _note_place(graph: Graph, x: int, y: int, width: int) -> list[int]:
    """The place of the note, as high as its text."""
    lines = sum(max(0.6, -(-len(line) * LETTER // (width - 40))) for line in _note_text(graph, True).splitlines())
    return [x, y + TITLE, width, round(40 + LINE * lines)]


def _note_text(graph: Graph, visible: bool = False) -> str:
    return f"{graph.note}\n\n{links_of(('models', 'gemma', *graph.files), visible)}"


def _note(graph: Graph, number: int, place: list[int]) -> dict[str, Any]:
    return {
        "id": number,
        "type": "MarkdownNote",
        "pos": place[:2],
        "size": place[2:],
        "flags": {},
        "order": number - 1,
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "title": graph.title,
        "properties": {},
        "widgets_values": [_note_text(graph)],
    }


def written(graph: Graph, object_info: dict) -> str:
    """The text of its file."""
    return json.dumps(drawn(graph, object_info), indent=1, ensure_ascii=False) + "\n"
