"""Where every setting can be reached: from Python, from the command line, and on the graph.

``PYTHONPATH=. python tests/surfaces.py`` prints the table.
"""

import ast
import json
from dataclasses import is_dataclass
from functools import cache
from importlib import import_module
from inspect import get_annotations
from pathlib import Path
from pkgutil import walk_packages

import ltx2_core
from ltx2_core.cli.parser import OF_TIMELINES, surfaces
from ltx2_core.fields import settings_of

ROOT = Path(__file__).resolve().parents[1]

# What the graph has in another form than as a widget of the setting: the input of a node, or what ComfyUI decides.
OTHER_INPUTS = {
    ("Resources", "precision"): "LTX2AVLoadModel.precision",
    ("Resources", "format"): "LTX2AVLoadModel.precision",
    ("Resources", "cache"): "LTX2AVGemmaTextEncode.keep_encoded",
    ("SecondStage", "refine"): "LTX2AVRefine.latent",
    ("SecondStage", "sigmas"): "LTX2AVRefine.sigmas",
    ("SecondStage", "distilled_lora_strength"): "LTX2AVLoadLora.strength",
    ("SecondStage", "distilled_lora_refine_strength"): "LTX2AVTwoStage.refine_model",
    ("SecondStage", "detailing_lora_strength"): "LTX2AVLoadICLora.strength",
    ("Request", "hdr"): "LTX2AVSaveHDR.space",
    ("Request", "high_quality"): "LTX2AVReferenceVideo.twice",
    ("VideoSource", "start"): "LTX2AVEncode.video",
    ("VideoSource", "seconds"): "LTX2AVEncode.frames",
}
OTHER_INPUTS |= {
    (owner.__name__, name): "LTX2AVTimeline.timeline" for owner in OF_TIMELINES for name in settings_of(owner)
}
OF_THE_HOST = {
    ("Resources", "device"): "ComfyUI's --cpu and --cuda-device",
}


def all_settings() -> list[tuple[str, str]]:
    """Class and field of every setting, wherever in the core its class is."""
    found = {}
    for module in walk_packages(ltx2_core.__path__, "ltx2_core."):
        if module.name.endswith("__main__"):
            continue
        loaded = import_module(module.name)
        for owner in vars(loaded).values():
            own = isinstance(owner, type) and owner.__module__ == module.name and is_dataclass(owner)
            if own and get_annotations(owner):  # else all settings are those of the class before it
                found |= dict.fromkeys((owner.__name__, name) for name in settings_of(owner))
    return list(found)


@cache
def inputs_by_node() -> dict[str, list[str]]:
    """The names of all inputs of every node, as recorded."""
    recorded = json.loads((ROOT / "tests" / "pack" / "object_info.json").read_text())
    return {
        node: [each.partition(":")[0] for kind in ("required", "optional") for each in info.get(kind, ())]
        for node, info in recorded.items()
    }


def widgets() -> dict[tuple[str, str], list[str]]:
    """Inputs of nodes, such as ``LTX2AVSample.seed``, by the setting they are made from; read from the source."""
    found: dict[tuple[str, str], list[str]] = {}
    for path in sorted((ROOT / "nodes").glob("*.py")):
        tree = ast.parse(path.read_text())
        constants = {
            statement.targets[0].id: ast.literal_eval(statement.value)
            for statement in tree.body
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name) and _is_words(statement)
        }
        for node in (each for each in tree.body if isinstance(each, ast.ClassDef)):
            for owner, name in _widget_calls(node, constants):
                found.setdefault((owner, name), []).append(f"{_node_id(node)}.{name}")
    return found


def _is_words(statement: ast.Assign) -> bool:
    value = statement.value
    return isinstance(value, ast.Tuple) and all(isinstance(each, ast.Constant) for each in value.elts)


def _widget_calls(node: ast.ClassDef, constants):
    for call in (each for each in ast.walk(node) if isinstance(each, ast.Call)):
        if getattr(call.func, "attr", "") != "widgets":
            continue
        owner, *names = call.args
        for name in names:
            words = constants[name.value.id] if isinstance(name, ast.Starred) else [ast.literal_eval(name)]
            yield from ((owner.id, word) for word in words)


def _node_id(node: ast.ClassDef) -> str:
    calls = (each for each in ast.walk(node) if isinstance(each, ast.Call))
    return next(each.args[0].value for each in calls if getattr(each.func, "attr", "") == "schema")


def table() -> list[tuple[str, str, str]]:
    """Rows of setting, flag, and inputs of nodes; what is missing is empty."""
    flags: dict[tuple[str, str], str] = {}
    for row in surfaces():
        flags.setdefault((row.owner, row.field), row.flag or "")
    drawn = widgets()
    rows = []
    for setting in all_settings():
        inputs = drawn.get(setting) or [OTHER_INPUTS.get(setting) or OF_THE_HOST.get(setting, "")]
        rows.append((".".join(setting), flags.get(setting, ""), ", ".join(inputs)))
    return rows


if __name__ == "__main__":
    print("| setting | command line | graph |\n|---|---|---|")
    for row in table():
        print(f"| {' | '.join(row)} |")
