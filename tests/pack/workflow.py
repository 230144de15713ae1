"""From a saved workflow (UI format 0.4, flat) to what the server runs, by the server's own ``/object_info``."""

from collections.abc import Iterator
from typing import Any

from pack.client import Prompt
from pack.host import REPOSITORY

SHIPPED = sorted((REPOSITORY / "workflows").glob("*.json"))
BYPASSED = 4  # a node's mode
NOTES = {"Note", "MarkdownNote"}
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3"}


def inputs_of(info: dict) -> Iterator[tuple[str, Any, dict]]:
    """Name, type and options of a node's inputs, in the order in which a workflow stores their values."""
    for group in ("required", "optional"):
        for name, (kind, *options) in info["input"].get(group, {}).items():
            yield name, kind, options[0] if options else {}


def is_widget(kind: Any, options: dict) -> bool:
    return (isinstance(kind, list) or kind in WIDGETS) and not options.get("forceInput")


def has_control(name: str, kind: Any, options: dict) -> bool:
    """Whether the browser keeps a second value beside this one: what becomes of a seed after a run."""
    return bool(options.get("control_after_generate")) or (kind == "INT" and name in ("seed", "noise_seed"))


def default_of(kind: Any, options: dict) -> Any:
    """What a widget holds in a workflow that is older than the widget."""
    first = next(iter(kind if isinstance(kind, list) else options.get("options", ())), None)
    return options.get("default", first["key"] if isinstance(first, dict) else first)


def to_prompt(workflow: dict, object_info: dict) -> Prompt:
    """The prompt a browser would send for ``workflow``.

    Every node must be on or bypassed, and a dynamic combo at a choice without inputs of its own; shipped workflows need
    no more.
    """
    nodes = {node["id"]: node for node in workflow["nodes"]}
    links_by_id = {link[0]: link for link in workflow["links"]}

    def source(link: int, kind: str) -> list | None:
        """Where a link of an input of this type begins, past nodes that are bypassed."""
        _, origin, slot, *_ = links_by_id[link]
        if nodes[origin]["mode"] != BYPASSED:
            return [str(origin), slot]
        name = passed_on(object_info[nodes[origin]["type"]], slot, kind)
        taken = next((i for i in nodes[origin]["inputs"] if i["name"] == name and i["link"] is not None), None)
        return None if taken is None else source(taken["link"], kind)

    prompt = {}
    for node in workflow["nodes"]:
        if node["type"] in NOTES or node["mode"] == BYPASSED:
            continue
        assert node["mode"] == 0, f"{node['type']} is switched off"
        found = {i["name"]: source(i["link"], i["type"]) for i in node["inputs"] if i["link"] is not None}
        links = {name: each for name, each in found.items() if each is not None}
        values = iter(node["widgets_values"])
        inputs = {}
        for name, kind, options in inputs_of(object_info[node["type"]]):
            if is_widget(kind, options):
                inputs[name] = next(values, default_of(kind, options))
                if has_control(name, kind, options):
                    next(values, None)
        assert not [*values], f"{node['type']} stores more values than it has widgets"
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs | links}
    return prompt


def slots_of(info: dict) -> list[tuple[str, str]]:
    """Name and type of a node's inputs as the browser numbers them: sockets first, then widgets."""
    inputs = [(is_widget(kind, options), name, kind) for name, kind, options in inputs_of(info)]
    ordered = sorted(inputs, key=lambda each: each[0])
    return [(name, "COMBO" if isinstance(kind, list) else kind) for _, name, kind in ordered]


def fits(one: str, other: str) -> bool:
    """Whether the browser lets these types be connected; "A,B" is either, "*" is any."""
    either, or_other = ({*kind.upper().split(",")} for kind in (one, other))
    return bool(either & or_other) or "*" in either | or_other


def passed_on(info: dict, output: int, kind: str) -> str | None:
    """The input whose source a bypassed node hands on at ``output`` to an input of type ``kind``; None for nothing.

    As ``ExecutableNodeDTO._getBypassSlotIndex`` of ComfyUI's front end (1.43 to 1.49) chooses it: the input of the same
    number if its type fits, else the first one of exactly this type, else the first one that fits.
    """
    slots, own = slots_of(info), info["output"][output]
    if kind in ("*", ""):
        return slots[output if output < len(slots) else 0][0] if slots else None
    usable = [name for name, each in slots if fits(each, own) and fits(each, kind)]
    if output < len(slots) and slots[output][0] in usable:
        return slots[output][0]
    return next((name for name, each in slots if each == kind), usable[0] if usable else None)


def node(prompt: Prompt, class_type: str) -> str:
    """The id of the one node of this class."""
    (found,) = (key for key, value in prompt.items() if value["class_type"] == class_type)
    return found


def add(prompt: Prompt, **nodes: tuple[str, dict[str, Any]]) -> Prompt:
    """Put in nodes by id: ``add(prompt, pictures=("SaveImage", {"images": ["8", 1]}))``."""
    prompt |= {key: {"class_type": class_type, "inputs": inputs} for key, (class_type, inputs) in nodes.items()}
    return prompt


def change(prompt: Prompt, **inputs: dict[str, Any]) -> Prompt:
    """Set inputs of the one node of each class: ``change(prompt, LTX2AVSample={"seed": 1})``."""
    for class_type, values in inputs.items():
        prompt[node(prompt, class_type)]["inputs"] |= values
    return prompt


def with_pictures(prompt: Prompt, **more: tuple[str, dict[str, Any]]) -> Prompt:
    """Save the frames without loss, by the node "pictures", in place of the video; ``more`` as for ``add``."""
    del prompt[node(prompt, "SaveVideo")]
    images = [node(prompt, "LTX2AVDecode"), 1]
    return add(prompt, pictures=("SaveImage", {"images": images, "filename_prefix": "pictures"}), **more)


def content(prompt: Prompt) -> dict:
    """Without titles, and without the players that some pages send along with a sound or a video."""
    return {
        key: (
            value["class_type"],
            {name: given for name, given in value["inputs"].items() if name not in ("audioUI", "video-preview")},
        )
        for key, value in prompt.items()
    }
