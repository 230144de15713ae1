"""From a saved workflow (UI format 0.4, flat) to what the server runs, by the server's own ``/object_info``."""

from collections.abc import Iterator
from typing import Any

from pack.client import Prompt
from pack.host import REPOSITORY

SHIPPED = sorted((REPOSITORY / "workflows").glob("*.json"))
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
    choices = kind if isinstance(kind, list) else options.get("options", [None])
    return options.get("default", choices[0])


def to_prompt(workflow: dict, object_info: dict) -> Prompt:
    """The prompt a browser would send for ``workflow``.

    Every node must be on, and a dynamic combo at a choice without inputs of its own; shipped workflows need no more.
    """
    sources = {link: [str(origin), slot] for link, origin, slot, *_ in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        if node["type"] in NOTES:
            continue
        assert node["mode"] == 0, f"{node['type']} is switched off"
        links = {i["name"]: sources[i["link"]] for i in node["inputs"] if i["link"] is not None}
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
