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
from ltx2_core.cli.flags import flag_of
from ltx2_core.cli.parser import build_parser
from ltx2_core.conditioning.characters import Character
from ltx2_core.conditioning.conditions import InpaintMask, KeepAudio, ReferenceAudio, ReferenceVideo, RetakeRange
from ltx2_core.conditioning.light import GivenLight, LightDecoding, LightSource, LightTarget
from ltx2_core.conditioning.pictures import GeneratedKeyframes, Picture
from ltx2_core.conditioning.sources import SoundPart, VideoSource
from ltx2_core.conditioning.timeline import LANES, Timeline, TimelineText
from ltx2_core.conditioning.tracks import MotionTracks
from ltx2_core.fields import OutputName, settings_of
from ltx2_core.lora import Shrink, Strengths
from ltx2_core.sampling import TileSettings
from ltx2_core.sampling.windows import Segment
from ltx2_core.settings import (
    ClipSettings,
    ExtendSettings,
    GuidanceRange,
    KeyframeSettings,
    LongClip,
    OwnClipSettings,
    PromptSettings,
    RecipeSettings,
    SecondStage,
    StreamScales,
    Variations,
)

ROOT = Path(__file__).resolve().parents[1]

# Settings of one node each, whose flag belongs to another setting, too.
OF_NODES = (
    *(PromptSettings, RecipeSettings, OwnClipSettings, ExtendSettings, KeyframeSettings, SoundPart, StreamScales),
    *(GuidanceRange, LongClip, GivenLight, LightSource, LightTarget, OutputName, LightDecoding, Variations),
)

# Classes of a timeline, all of whose settings are in its JSON.
OF_TIMELINES = (Timeline, *LANES.values())

# Flags that are not made from settings, and which settings can be written in each.
OTHER_FLAGS = {
    "--as-prompt-needs": {ClipSettings: ("length",)},
    "--fps": {ClipSettings: ("fps",)},
    "--sound-only": {ClipSettings: ("streams",)},
    "--seeds": {Variations: ("seeds",)},
    "--image": {Picture: ("frame", "strength", "append", "compression")},
    "--audio-noise": {KeepAudio: ("noise",)},
    "--reference-video": {
        ReferenceVideo: (
            *("downscale", "temporal_scale", "strength", "attention", "grow", "grow_frames"),
            *("outpaint", "margin", "edges"),
        )
    },
    "--high-quality": {ReferenceVideo: ("twice",)},
    "--tracks": {MotionTracks: ("tracks", "width", "height", "frames")},
    "--reference-audio": {ReferenceAudio: ("strength",)},
    "--character": {Character: ("way", "strength")},
    "--generated-keyframes": {GeneratedKeyframes: ("count", "frames")},
    "--source": {VideoSource: ("start", "seconds")},
    "--timeline": {owner: tuple(settings_of(owner)) for owner in (TimelineText, *OF_TIMELINES)},
    "--retake": {RetakeRange: ("start", "end")},
    "--only": {RetakeRange: ("streams",)},
    "--feather": {InpaintMask: ("feather",)},
    "--mask-sound": {InpaintMask: ("sound",)},
    "--lora": {Strengths: tuple(settings_of(Strengths)), Shrink: ("energy",)},
    "--detailing-lora": {SecondStage: ("detailing",)},
    "--refine": {SecondStage: ("refine",)},
    "--segments": {Segment: ("start",)},
    "--tiles": {TileSettings: ("intervals", "rows", "columns")},
}

# What the graph has in another form than as a widget of the setting: the input of a node, or what ComfyUI decides.
OTHER_INPUTS = {
    ("Resources", "precision"): "LTX2AVLoadModel.precision",
    ("Resources", "format"): "LTX2AVLoadModel.precision",
    ("Resources", "cache"): "LTX2AVGemmaTextEncode.keep_encoded",
    ("SamplingSettings", "motion_speed"): "LTX2AVSample.fps",
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
        shared = _assigned(tree.body)
        for node in (each for each in tree.body if isinstance(each, ast.ClassDef)):
            attributes = _assigned(node.body)
            for owner, name in _widget_calls(attributes.get("inputs"), shared):
                found.setdefault((owner, name), []).append(f"{ast.literal_eval(attributes['id'])}.{name}")
    return found


def _assigned(body: list[ast.stmt]) -> dict[str, ast.expr]:
    """What is assigned to each name."""
    return {
        target.id: each.value
        for each in body
        if isinstance(each, ast.Assign)
        for target in each.targets
        if isinstance(target, ast.Name)
    }


def _widget_calls(inputs: ast.expr | None, shared: dict[str, ast.expr]):
    """The settings of the widgets among the inputs of a node; ``shared`` are what its file declares for several."""
    for each in ast.walk(inputs) if inputs else ():
        call = shared.get(each.id) if isinstance(each, ast.Name) else each
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "widgets":
            owner, *names = call.args
            every = [name for of, name in all_settings() if of == owner.id]
            yield from ((owner.id, name) for name in map(ast.literal_eval, names))
            yield from ((owner.id, name) for name in every if not names)


def flags_by_setting() -> dict[tuple[str, str], str]:
    """The flag that reaches each setting; those of one node each are written as that of another setting."""
    _, commands = build_parser()
    made = [commands[name].settings for name in ("generate", "compare")]
    found = {(owner.__name__, name): flag for each in made for owner in each for name, flag in each[owner].items()}
    for flag, owners in OTHER_FLAGS.items():
        found |= {(owner.__name__, name): flag for owner, names in owners.items() for name in names}
    of_nodes = {
        (owner.__name__, name): flag_of(each) for owner in OF_NODES for name, each in settings_of(owner).items()
    }
    return of_nodes | found


def table() -> list[tuple[str, str, str]]:
    """Rows of setting, flag, and inputs of nodes; what is missing is empty."""
    flags, drawn = flags_by_setting(), widgets()
    rows = []
    for setting in all_settings():
        inputs = drawn.get(setting) or [OTHER_INPUTS.get(setting) or OF_THE_HOST.get(setting, "")]
        rows.append((".".join(setting), flags.get(setting, ""), ", ".join(inputs)))
    return rows


if __name__ == "__main__":
    print("| setting | command line | graph |\n|---|---|---|")
    for row in table():
        print(f"| {' | '.join(row)} |")
