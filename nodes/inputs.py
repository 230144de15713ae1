"""All constructors of inputs; widgets are made from the settings of the core.

Each returns what a node declares: a function that makes the inputs when they are asked for, because files come and go.
"""

from collections.abc import Callable
from typing import Any

from comfy_api.latest import io

from ..ltx2_core.fields import (
    Choice,
    Instead,
    Look,
    Number,
    Seed,
    Setting,
    Slider,
    Switch,
    Whole,
    Words,
    settings_of,
    zero,
)
from .values import ConditionsType, GemmaType, GuidanceType, MelType, ModelType, PlanType, WindowsType

SocketType = Any  # of the host, such as io.Image, or what io.Custom returns
Declared = Callable[[], list[io.Input]]


def widgets(owner: type, *names: str, optional: bool | None = None, **shown: Any) -> Declared:
    """Declare a widget for each named setting of the dataclass ``owner``, in this order; without names, for all.

    ``optional`` ones may be absent from saved workflows, by default those that are advanced; ``shown`` is what a widget
    starts with where this node differs from the setting.
    """
    settings = settings_of(owner)
    return lambda: [_widget(settings[name], optional, shown.get(name, ...)) for name in names or settings]


def _widget(setting: Setting, optional: bool | None, shown: object) -> io.Input:
    look = setting.look
    common: dict[str, Any] = {
        "optional": look.advanced if optional is None else optional,
        "advanced": look.advanced or None,
        "tooltip": setting.text,
    }
    if look.label:
        common["display_name"] = look.label
    if look.instead:
        common["extra_dict"] = _for_browser(look.instead)
    made = _KINDS[type(look)](setting.name, look, setting.shown if shown is ... else shown, common)
    made.setting, made.reads = setting, getattr(look, "reads", None)
    return made


def _for_browser(instead: Instead) -> dict[str, Any]:
    """Return what ``js/words.js`` offers to choose in place of a number; nothing else reads it."""
    return {"ltx2av_instead": {"words": [*instead.words], "usual": instead.usual}}


def _number(name: str, look: Number, default: Any, common: dict[str, Any]) -> io.Input:
    if isinstance(look, Slider):
        common["display_mode"] = io.NumberDisplay.slider
    limits = {"min": float(look.least), "max": float(look.most), "step": look.step, "round": look.digits or None}
    return io.Float.Input(name, default=float(default), **limits, **common)


def _whole(name: str, look: Whole, default: Any, common: dict[str, Any]) -> io.Input:
    return io.Int.Input(name, default=int(default), min=look.least, max=look.most, step=look.step, **common)


def _seed(name: str, look: Seed, default: Any, common: dict[str, Any]) -> io.Input:
    return io.Int.Input(name, default=0, min=look.least, max=look.most, control_after_generate=True, **common)


def _choice(name: str, look: Choice, default: Any, common: dict[str, Any]) -> io.Input:
    return io.Combo.Input(name, options=look.words, **common)


def _words(name: str, look: Words, default: Any, common: dict[str, Any]) -> io.Input:
    kind = {"multiline": look.lines, "dynamic_prompts": look.dynamic or None}
    return io.String.Input(name, default=default, **kind, **common)


def _switch(name: str, look: Switch, default: Any, common: dict[str, Any]) -> io.Input:
    return io.Boolean.Input(name, default=bool(default), **common)


_KINDS: dict[type[Look], Callable[[str, Any, Any, dict[str, Any]], io.Input]] = {
    Number: _number, Slider: _number, Whole: _whole, Seed: _seed, Choice: _choice, Words: _words, Switch: _switch,
}  # fmt: skip


# ----------------------------------------------------------- inputs that are no settings: the help page has their texts

# What goes through a socket of this name, on every node.
SOCKETS: dict[str, SocketType] = {
    "audio": io.Audio, "conditions": ConditionsType, "fill": io.Mask, "first": io.Video, "gemma": GemmaType,
    "guidance": GuidanceType, "image": io.Image, "images": io.Image, "latent": io.Latent, "mask": io.Mask,
    "mel": MelType, "model": ModelType, "negative": io.Conditioning, "picture": io.Image, "pictures": io.Image,
    "plan": PlanType, "positive": io.Conditioning, "refine_model": ModelType, "second": io.Video, "sigmas": io.Sigmas,
    "upscaler": io.LatentUpscaleModel, "video": io.Video, "voice": io.Audio, "windows": WindowsType,
}  # fmt: skip
FOLDED: dict[str, Any] = {"optional": True, "advanced": True}  # folded away, and maybe absent from saved workflows


def sockets(*names: str) -> Declared:
    """Declare sockets that have to be connected."""
    return lambda: [SOCKETS[name].Input(name) for name in names]


def optional(*names: str) -> Declared:
    """Declare sockets that may stay free."""
    return lambda: [SOCKETS[name].Input(name, optional=True) for name in names]


def choice(name: str, options: Callable[..., list[str]], *folders: str, **more: Any) -> Declared:
    """Declare a choice among ``options(*folders)`` when it is drawn: of models, their files lie in these folders."""

    def declare() -> list[io.Input]:
        made = io.Combo.Input(name, options=options(*folders), **more)
        made.folders = folders
        return [made]

    return declare


def fps() -> list[io.Input]:
    """Return a widget for the frame rate of latents that do not say it; 0 where they do."""
    limits = {"default": 0.0, "min": 0.0, "max": 240.0, "step": 0.001, "round": 0.001}
    instead = _for_browser(zero("as the latent says", usual=24))
    return [io.Float.Input("fps", **limits, optional=True, advanced=True, extra_dict=instead)]
