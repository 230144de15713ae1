"""All constructors of inputs, outputs and schemas; widgets are made from the settings of the core."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

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
from .page import read_page
from .values import ConditionsType, GuidanceType, ModelType, PlanType, WindowsType

Settings = TypeVar("Settings")
SocketType = Any  # of the host, such as io.Image, or what io.Custom returns

CATEGORY = "LTX-2"


def schema(
    node_id: str,
    title: str,
    *,
    inputs: list[io.Input],
    outputs: dict[str, SocketType] | None = None,
    shows: bool = False,
    knows_graph: bool = False,
    **more: Any,
) -> io.Schema:
    """Return the schema of a node; what it is for, its outputs and what finds it are told by its help page.

    ``title`` is its submenu and name, such as "loaders/Load Model"; ``outputs`` are names and types, in their order;
    ``shows`` lets it show sentences on itself, ``knows_graph`` write the graph into its files. Ids, and the order of
    inputs and outputs, never change once they are published.
    """
    menu, _, name = title.partition("/")
    page = read_page(node_id)
    hidden = [io.Hidden.unique_id] if shows else []
    return io.Schema(
        node_id=node_id,
        display_name=f"LTX-2 {name}",
        category=f"{CATEGORY}/{menu}",
        description=page.description,
        search_aliases=page.aliases,
        hidden=[*hidden, io.Hidden.prompt, io.Hidden.extra_pnginfo] if knows_graph else hidden,
        inputs=inputs,
        outputs=[_output(kind, name, page.outputs.get(name)) for name, kind in (outputs or {}).items()],
        **more,
    )


def _output(kind: SocketType, name: str, tooltip: str | None) -> io.Output:
    """Return the output socket of ``kind``, a type such as io.Image, or EachOf one."""
    many = isinstance(kind, EachOf)
    return (kind.kind if many else kind).Output(display_name=name, tooltip=tooltip, is_output_list=many)


@dataclass(frozen=True)
class EachOf:
    """The type of an output that hands on one value after the other."""

    kind: SocketType


def widgets(owner: type, *names: str, optional: bool | None = None, **shown: Any) -> list[io.Input]:
    """Return a widget for each named setting of the dataclass ``owner``, in this order.

    ``optional`` ones may be absent from saved workflows, by default those that are advanced; ``shown`` is what a widget
    starts with where this node differs from the setting.
    """
    settings = settings_of(owner)
    return [widget(settings[name], optional, shown.get(name, ...)) for name in names]


def widget(setting: Setting, optional: bool | None = None, shown: object = ..., tooltip: str = "") -> io.Input:
    """Return the widget of one setting; see ``widgets``."""
    look = setting.look
    common: dict[str, Any] = {
        "optional": look.advanced if optional is None else optional,
        "advanced": look.advanced or None,
        "tooltip": tooltip or setting.text,
    }
    if look.label:
        common["display_name"] = look.label
    if look.instead:
        common["extra_dict"] = _for_browser(look.instead)
    default = setting.shown if shown is ... else shown
    return _KINDS[type(look)](setting.name, look, default, common)


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
    kind = {"multiline": True, "dynamic_prompts": True} if look.lines else {}
    return io.String.Input(name, default=default, **kind, **common)


def _switch(name: str, look: Switch, default: Any, common: dict[str, Any]) -> io.Input:
    return io.Boolean.Input(name, default=bool(default), **common)


_KINDS: dict[type[Look], Callable[[str, Any, Any, dict[str, Any]], io.Input]] = {
    Number: _number, Slider: _number, Whole: _whole, Seed: _seed, Choice: _choice, Words: _words, Switch: _switch,
}  # fmt: skip


def settings_from(owner: type[Settings], values: dict[str, Any], **more: Any) -> Settings:
    """Return ``owner`` made of those ``values`` of widgets that it has fields for; they are taken out of ``values``."""
    taken = {name: values.pop(name) for name in settings_of(owner) if name in values}
    return owner(**taken, **more)


# -------------------------------------------------------------------------------------------------------------- sockets


def socket(kind: SocketType, name: str, tooltip: str, **more: Any) -> io.Input:
    """Return an input socket of ``kind``, such as io.Image; ``more`` is what its Input takes."""
    return kind.Input(name, tooltip=tooltip, **more)


def model(tooltip: str = "The LTX-2 model, from LTX-2 Load Model.", name: str = "model", **more: Any) -> io.Input:
    """Return a socket for the model."""
    return ModelType.Input(name, tooltip=tooltip, **more)


def latent(tooltip: str, **more: Any) -> io.Input:
    """Return a socket for a latent."""
    return io.Latent.Input("latent", tooltip=tooltip, **more)


def plan() -> io.Input:
    """Return a socket for a plan that limits what a node may take."""
    tooltip = "From LTX-2 Memory Plan: takes no more of the card and of RAM than it allows."
    return PlanType.Input("plan", optional=True, tooltip=tooltip)


def conditions(tooltip: str = "What else is given, from another LTX-2 condition node; all of it counts.") -> io.Input:
    """Return an optional socket for what is given."""
    return ConditionsType.Input("conditions", optional=True, tooltip=tooltip)


def pictures(what: str) -> list[io.Input]:
    """Return sockets for ``what`` as frames or as a video."""
    return [
        io.Image.Input("images", optional=True, tooltip=f"{what}, as frames: each is one frame of the clip."),
        io.Video.Input(
            "video",
            optional=True,
            tooltip=f"{what}, as a video, from Load Video: it is read piece by piece, at the frame rate of the clip. "
            "HDR is tone-mapped to SDR.",
        ),
    ]


def positive(tooltip: str) -> io.Input:
    """Return a socket for the encoded prompt."""
    return io.Conditioning.Input("positive", tooltip=tooltip)


def negative(tooltip: str) -> io.Input:
    """Return an optional socket for the encoded negative prompt."""
    return io.Conditioning.Input("negative", optional=True, tooltip=tooltip)


def guidance(tooltip: str) -> io.Input:
    """Return an optional socket for guidance."""
    return GuidanceType.Input("guidance", optional=True, tooltip=tooltip)


def windows(tooltip: str, **more: Any) -> io.Input:
    """Return a socket for the windows of a long clip."""
    return WindowsType.Input("windows", tooltip=tooltip, **more)


UPSCALER = socket(
    io.LatentUpscaleModel, "upscaler", "From LTX-2 Load Upscaler, or from ComfyUI's own Load Latent Upscale Model."
)


def fps(tooltip: str) -> io.Input:
    """Return a widget for the frame rate of latents that do not say it; 0 where they do."""
    limits = {"default": 0.0, "min": 0.0, "max": 240.0, "step": 0.001, "round": 0.001}
    instead = _for_browser(zero("as the latent says", usual=24))
    return io.Float.Input("fps", **limits, optional=True, advanced=True, tooltip=tooltip, extra_dict=instead)
