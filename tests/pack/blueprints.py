"""The subgraph blueprints: a shipped workflow in one node, with what one chooses on its face and the open graph inside.

PYTHONPATH=tests python tests/pack/blueprints.py

starts a ComfyUI and writes every file in ``subgraphs`` anew, where ComfyUI looks for those of a pack. A test holds the
files to what stands here.
"""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import NAMESPACE_URL, uuid5

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from pack import graphs
from pack.client import Client
from pack.drawing import Graph, drawn
from pack.host import PACK, REPOSITORY, Host, serve
from pack.workflow import has_control, inputs_of, is_widget

FOLDER = REPOSITORY / "subgraphs"
INPUT, OUTPUT = -10, -20  # the ids that a subgraph gives to its own two ends
MEDIA = {"LoadImage": "picture", "LoadAudio": "sound", "LoadVideo": "video"}  # what comes through a socket instead
LEFT_OUT = {*MEDIA, "SaveVideo", "MarkdownNote"}

FILES = (("LTX2AVLoadModel", "checkpoint"), ("LTX2AVLoadGemma", "text_encoder"))
PROMPT = ("LTX2AVGemmaTextEncode", "prompt")
SIZE = (("LTX2AVEmptyLatent", "size"), ("LTX2AVEmptyLatent", "megapixels"), ("LTX2AVEmptyLatent", "seconds"))
SEED = ("LTX2AVSample", "seed")
USUAL = (PROMPT, *SIZE, SEED, *FILES)
LABELS = {("LTX2AVEmptyLatent", "seconds"): "seconds (0 = automatic)"}  # where a name does not say what its value means


@dataclass(frozen=True)
class Blueprint:
    """A workflow in one node.

    Attributes:
        name: of the node, and of its file.
        graph: the workflow.
        face: the widgets that the node shows: kind of the node inside, and the name of the widget.
        words: what else finds it in the search.
    """

    name: str
    graph: Callable[[], Graph]
    face: tuple[tuple[str, str], ...]
    words: tuple[str, ...]


BLUEPRINTS = (
    Blueprint("LTX-2 Text to Video (all in one)", graphs.text_to_video, USUAL, ("t2v", "ltx2")),
    Blueprint("LTX-2 Image to Video (all in one)", graphs.image_to_video, USUAL, ("i2v", "ltx2")),
    Blueprint("LTX-2 Audio to Video (all in one)", graphs.audio_to_video, USUAL, ("a2v", "ltx2")),
    Blueprint(
        "LTX-2 Extend (all in one)", graphs.extend, (PROMPT, ("LTX2AVExtend", "seconds"), SEED, *FILES),
        ("continue video", "ltx2"),
    ),
    Blueprint(
        "LTX-2 Two Stages (all in one)", graphs.two_stage_1080p,
        (*USUAL, ("LTX2AVLoadUpscaler", "upscaler"), ("LTX2AVLoadLora", "lora")),
        ("1080p", "ltx2"),
    ),
)  # fmt: skip


def packed(blueprint: Blueprint, object_info: dict) -> dict[str, Any]:
    """The file of a blueprint: one node, and the definition of what is inside."""
    subgraph = _Subgraph(blueprint, object_info)
    node = {
        "id": 1,
        "type": subgraph.id,
        "pos": [0, 0],
        "size": [400, 420],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [_outside(each) for each in subgraph.inputs],
        "outputs": [{"name": each["name"], "type": each["type"], "links": []} for each in subgraph.outputs],
        "title": blueprint.name,
        "properties": {"cnr_id": PACK, "proxyWidgets": [*subgraph.proxies()]},
        "widgets_values": [],
    }
    return {
        "revision": 0,
        "last_node_id": 1,
        "last_link_id": 0,
        "nodes": [node],
        "links": [],
        "version": 0.4,
        "definitions": {"subgraphs": [subgraph.saved()]},
        "extra": {"BlueprintSearchAliases": [*blueprint.words]},
    }


def _outside(inner: dict) -> dict[str, Any]:
    """An input as the node shows it: a socket, or a widget with one."""
    socket = {"name": inner["name"], "type": inner["type"], "link": None}
    socket |= {"label": inner["label"]} if "label" in inner else {}
    return socket if inner["type"] in ("IMAGE", "AUDIO", "VIDEO") else socket | {"widget": {"name": inner["name"]}}


class _Subgraph:
    """What is inside, made of the drawn workflow: its media and its end become inputs and an output."""

    def __init__(self, blueprint: Blueprint, object_info: dict):
        self.blueprint, self.info = blueprint, object_info
        self.id = str(uuid5(NAMESPACE_URL, f"{PACK}/subgraphs/{blueprint.name}"))
        self.graph = drawn(blueprint.graph(), object_info)
        self.inside = [each for each in self.graph["nodes"] if each["type"] not in LEFT_OUT]
        self.inputs: list[dict] = []
        self.outputs: list[dict] = []
        self.links: list[dict] = []
        for node in self.inside:
            self._show_widgets(node)
        kinds = {each["id"]: each["type"] for each in self.graph["nodes"]}
        for number, origin, slot, target, socket, kind in self.graph["links"]:
            if kinds[origin] in MEDIA:
                at = self._end(self.inputs, MEDIA[kinds[origin]], kind, number)
                self._link(number, INPUT, at, target, socket, kind)
            elif kinds[target] == "SaveVideo":
                self._link(number, origin, slot, OUTPUT, self._end(self.outputs, "video", kind, number), kind)
            else:
                self._link(number, origin, slot, target, socket, kind)
        self.last_link = self.graph["last_link_id"]
        for node, name in self.face():
            self._connect_widget(node, name)

    def face(self) -> Iterator[tuple[dict, str]]:
        """Each widget of the face: the node inside, and the name."""
        for kind, name in self.blueprint.face:
            yield next(each for each in self.inside if each["type"] == kind), name

    def proxies(self) -> Iterator[list[str]]:
        """The widgets of the face in their order, as the node keeps them."""
        for node, name in self.face():
            yield [str(node["id"]), name]
            if self._has_control(node, name):
                yield [str(node["id"]), "control_after_generate"]

    def _kind(self, node: dict, name: str) -> tuple[Any, dict]:
        return next((kind, options) for each, kind, options in inputs_of(self.info[node["type"]]) if each == name)

    def _has_control(self, node: dict, name: str) -> bool:
        return has_control(name, *self._kind(node, name))

    def _show_widgets(self, node: dict) -> None:
        """Give each widget of ``node`` its socket: by these, ComfyUI 0.20 tells whose the values of widgets are."""
        wired = node["inputs"]
        known = {each["name"] for each in wired}
        new = [
            {"name": name, "type": kind, "widget": {"name": name}, "link": None}
            for name, kind, options in inputs_of(self.info[node["type"]])
            if is_widget(kind, options) and name not in known
        ]
        places = [name for name, *_ in inputs_of(self.info[node["type"]])]
        node["inputs"] = sorted([*wired, *new], key=lambda each: ("widget" in each, places.index(each["name"])))
        for link in self.graph["links"]:
            if link[3] == node["id"]:
                link[4] = node["inputs"].index(wired[link[4]])

    def _connect_widget(self, node: dict, name: str) -> None:
        kind, self.last_link = self._kind(node, name)[0], self.last_link + 1
        socket = next(each for each in node["inputs"] if each["name"] == name)
        socket["link"] = self.last_link
        at = self._end(self.inputs, name, kind, self.last_link)
        if label := LABELS.get((node["type"], name)):
            self.inputs[at]["label"] = label
        self._link(self.last_link, INPUT, at, node["id"], node["inputs"].index(socket), kind)

    def _end(self, ends: list[dict], name: str, kind: str, link: int) -> int:
        """Which of ``ends`` has this name, made if there is none, with another link."""
        known = next((each for each in ends if each["name"] == name), None)
        if known is None:
            number = str(uuid5(NAMESPACE_URL, f"{self.id}/{name}/{ends is self.inputs}"))
            ends.append(known := {"id": number, "name": name, "type": kind, "linkIds": []})
        known["linkIds"].append(link)
        return ends.index(known)

    def _link(self, number: int, origin: int, slot: int, target: int, socket: int, kind: str) -> None:
        ends = {"origin_id": origin, "origin_slot": slot, "target_id": target, "target_slot": socket}
        self.links.append({"id": number, **ends, "type": kind})

    def saved(self) -> dict[str, Any]:
        """The definition."""
        boxes = [each["bounding"] for each in self.graph["groups"]]
        right = max(x + width for x, _, width, _ in boxes)
        return {
            "id": self.id,
            "version": 1,
            "state": {
                "lastGroupId": len(boxes), "lastNodeId": self.graph["last_node_id"], "lastLinkId": self.last_link,
                "lastRerouteId": 0,
            },
            "revision": 0,
            "config": {},
            "name": self.blueprint.name,
            "inputNode": {"id": INPUT, "bounding": [-220, 100, 140, 40 + 20 * len(self.inputs)]},
            "outputNode": {"id": OUTPUT, "bounding": [right + 80, 100, 120, 60]},
            "inputs": self.inputs,
            "outputs": self.outputs,
            "widgets": [],
            "nodes": self.inside,
            "groups": self.graph["groups"],
            "links": self.links,
            "extra": {},
            "category": "LTX-2",
            "description": f"{self.blueprint.graph().title}, in one node. Open it to see and change the graph inside.",
        }  # fmt: skip


def written(blueprint: Blueprint, object_info: dict) -> str:
    """The text of its file."""
    return json.dumps(packed(blueprint, object_info), indent=1, ensure_ascii=False) + "\n"


def write_all() -> None:
    """Start a ComfyUI, and write every blueprint anew."""
    with TemporaryDirectory() as folder, serve(Host.find(), Path(folder)) as server:
        info = Client(server.address).object_info()
    FOLDER.mkdir(exist_ok=True)
    for blueprint in BLUEPRINTS:
        path = FOLDER / f"{blueprint.name}.json"
        path.write_text(written(blueprint, info), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    write_all()
