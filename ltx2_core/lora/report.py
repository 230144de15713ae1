"""How well a LoRA fits a model, in words."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain

from ..checkpoint.components import COMPONENTS
from ..checkpoint.loading import shorten_list
from ..checkpoint.models import Models
from ..checkpoint.text_encoder import TextEncoderFiles
from ..checkpoint.unfilled import unfilled
from ..checkpoint.versions import VERSIONS
from ..errors import CheckpointError, counted
from .names import STREAMS, TABLES, stream_of
from .parse import Lora
from .shrunk import Shrunk
from .strengths import Strengths

ComponentShapes = Mapping[str, Mapping[str, tuple[int, ...]]]  # of the tensors of every component, by our names

Layers = Mapping[str, list[str]]  # of every stream

# As in "ltx-2.3-22b", "LTX2.0", "ltx23", "ltx-2-19b", "ltxv-13b-0.9.7"; not in "ltx2_style_v2.0" or "ltx2_20steps".
_NAMED = re.compile(
    r"ltx(?:[-_. \"']|v(?:ideo)?|av|2(?![._]?[035])|(?:13|2)b){0,8}"
    r"(2[._][035](?!\d)|2[035](?![\da-z])|0\.9|2[-_]?19b)"
)


@dataclass(frozen=True)
class Report:
    """What a LoRA changes in a model of ``version``, and what it does not; layers by stream, in the file's words.

    ``strengths`` are those at which it is to act; None where they are not known yet.
    """

    lora: Lora
    version: str
    made_for: tuple[str, ...]  # the versions that it may have been trained on; empty if nothing tells
    matched: Layers
    absent: Layers
    misshapen: Layers
    strengths: Strengths | None = None

    @property
    def fitting(self) -> int:
        """How many layers fit."""
        return _count(self.matched)

    @property
    def warning(self) -> str | None:
        """A sentence if the LoRA was made for another version, else None."""
        if not self.made_for or self.version in self.made_for:
            return None
        return (
            f"made for {' or '.join(self.made_for)}; this model is {self.version}: "
            f"{self.fitting:,} of {len(self.lora.layers):,} layers fit"
        )

    @property
    def remarks(self) -> list[str]:
        """What to say of layers that fit, and change nothing all the same."""
        return [said for said in (_nothing(self.lora), _without_strength(self)) if said]

    def checked(self) -> "Report":
        """Return the report. Raises CheckpointError if the LoRA changes nothing in the model."""
        lora = self.lora
        if not self.fitting and lora.text_layers:
            raise CheckpointError(
                f"{lora.path.name} is made for Gemma, the text encoder: choose it in LTX-2 Load Gemma, or give it with "
                "--text-encoder-lora."
            )
        if not self.fitting:
            example = shorten_list([delta.name for _, _, delta in lora.layers] or lora.unknown)
            raise CheckpointError(
                f"{lora.path.name} changes nothing in this LTX-{self.version} model, which has no layer of the name "
                f"and shape of {example}; choose a LoRA that was made for LTX-{self.version}."
            )
        return self

    @property
    def line(self) -> str:
        """The whole report in one line."""
        matched = ", ".join(f"{stream.replace('_', ' ')} {len(self.matched[stream]):,}" for stream in STREAMS)
        warning = f"; shrunk: {shrunk}" if (shrunk := Shrunk.of(self.lora)) else ""
        warning += f"; {self.warning}" if self.warning else ""
        warning += f"; {_text_half(self.lora)}" if self.lora.text_layers else ""
        warning += "".join(f"; {said}" for said in self.remarks)
        warning += f"; not understood and left out: {shorten_list(self.lora.left_out)}" if self.lora.left_out else ""
        return f"{_heading(self)}; {self.fitting:,} fit LTX-{self.version} ({matched}){warning}"

    def __str__(self) -> str:
        lines = {f"fits LTX-{self.version}": f"{self.fitting:,} of {len(self.lora.layers):,} layers"}
        for stream in STREAMS:
            fitting = len(self.matched[stream])
            if layers := fitting + len(self.absent[stream]) + len(self.misshapen[stream]):
                lines[f"  {stream.replace('_', ' ')}"] = f"{fitting:,} of {layers:,}"
        lines["not in the model"] = shorten_list([*chain(*self.absent.values())])
        lines["of another shape"] = shorten_list([*chain(*self.misshapen.values())])
        lines["not understood"] = shorten_list(self.lora.left_out)
        lines["shrunk"] = str(Shrunk.of(self.lora) or "")
        lines["text encoder"] = _text_half(self.lora) if self.lora.text_layers else ""
        lines["reference"] = _reference(self.lora)
        lines["warning"] = "; ".join(filter(None, (self.warning, *self.remarks)))
        return "\n".join([_heading(self), *(f"  {what:<16} {said}" for what, said in lines.items() if said)])


def compare(lora: Lora, models: Models, strengths: Strengths | None = None) -> Report:
    """Report how ``lora`` fits ``models``, and whether it acts at these strengths; only headers are read.

    Raises CheckpointError if it changes nothing in them.
    """
    shapes = {name: source.shapes for name, source in models.sources.items()}
    return replace(_compare(lora, shapes, models.version).checked(), strengths=strengths)


def check_text_lora(lora: Lora, encoder: TextEncoderFiles) -> str:
    """Say in a line how many layers of ``encoder`` a LoRA from ``open_text_lora`` changes; only headers are read.

    Raises CheckpointError if it changes none.
    """
    shapes = encoder.shapes
    fitting = sum(name in shapes and delta.fits(shapes[name]) for _, name, delta in lora.layers)
    if not fitting:
        raise CheckpointError(
            f"{lora.path.name} changes nothing in {encoder.path.name}, whose layers have other shapes than "
            f"{lora.layers[0][2].name}; choose a LoRA that was made for this {encoder.kind.title}."
        )
    shrunk = f"; shrunk: {shrunk}" if (shrunk := Shrunk.of(lora)) else ""
    return f"{lora.path.name}: {fitting:,} of {len(lora.layers):,} layers fit {encoder.kind.title}{shrunk}"


def _nothing(lora: Lora) -> str:
    """What to say of layers that change nothing; empty without any."""
    count = sum(delta.is_nothing for _, _, delta in lora.layers)
    return (
        f"an alpha or a rank of 0 leaves {count:,} of {counted(len(lora.layers), 'layer')} without effect"
        if count
        else ""
    )


def _without_strength(report: Report) -> str:
    """What to say where every layer that fits has strength 0; empty where one acts, or all are meant to be off."""
    fitting, strengths = {*chain(*report.matched.values())}, report.strengths
    if strengths is None or strengths.strength == 0:
        return ""
    layers = [(component, name) for component, name, delta in report.lora.layers if delta.name in fitting]
    if any(strengths.constant_for(*layer) for layer in layers):
        return ""
    return "it changes nothing: the streams and blocks of all of its layers have strength 0, so give them more"


def _text_half(lora: Lora) -> str:
    layers = counted(lora.text_layers, "layer")
    return f"{layers} for Gemma, dropped here: LTX-2 Load Gemma takes them (--text-encoder-lora)"


def compare_with_release(lora: Lora, version: str) -> Report:
    """Report how ``lora`` fits the released model of ``version``; needs no file of it."""
    return _compare(lora, _release(version), version)


def made_for(lora: Lora) -> tuple[str, ...]:
    """Return the versions that ``lora`` may be trained on.

    Its header or its name says so, else the versions count that most layers fit.
    """
    metadata = lora.file.metadata
    about = [value for key, value in metadata.items() if re.search("model|base|arch", key)]
    about += [str(delta.settings.get("base_model_name_or_path", "")) for _, _, delta in lora.layers[:1]]
    for text in (f"ltx-{metadata.get('model_version')}", *about, lora.path.name):
        if found := _NAMED.search(text.lower()):
            digits = re.sub(r"\D", "", found[1])
            return ("2.0" if digits == "219" else f"{digits[0]}.{digits[1]}",)
    fitting = {version: _count(_group_layers(lora, _release(version))["matched"]) for version in VERSIONS}
    most = max(fitting.values())
    return tuple(version for version, count in fitting.items() if count == most > 0)


def _compare(lora: Lora, shapes: ComponentShapes, version: str) -> Report:
    groups = _group_layers(lora, shapes)
    return Report(lora, version, made_for(lora), groups["matched"], groups["absent"], groups["misshapen"])


def _group_layers(lora: Lora, shapes: ComponentShapes) -> dict[str, Layers]:
    """Sort the layers of ``lora``: those that fit ``shapes``, and those that do not."""
    groups: dict[str, Layers] = {
        what: {stream: [] for stream in STREAMS} for what in ("matched", "absent", "misshapen")
    }
    for component, name, delta in lora.layers:
        shape, stream = shapes.get(component, {}).get(name), stream_of(component, name)
        if shape is None:
            groups["absent"][stream].append(delta.name)
        elif delta.fits(tuple(shape)):
            groups["matched"][stream].append(delta.name)
        else:
            wanted = str(delta.shape).replace("None", "any")
            groups["misshapen"][stream].append(f"{delta.name} is for {wanted} and meets {tuple(shape)}")
    return groups


def _count(layers: Layers) -> int:
    return sum(map(len, layers.values()))


@cache
def _release(version: str) -> ComponentShapes:
    """The shapes of the parts of a release that LoRAs may change."""
    with unfilled():
        networks = {name: COMPONENTS[name].make(VERSIONS[version].config, {}) for name in TABLES}
    return {
        component: {name: tuple(value.shape) for name, value in network.state_dict().items()}
        for component, network in networks.items()
    }


def _heading(report: Report) -> str:
    lora = report.lora
    ranks = sorted({delta.rank for _, _, delta in lora.layers if delta.rank})
    rank = f" of rank {ranks[0]}" if ranks else ""
    if len(ranks) > 1:
        rank += f" to {ranks[-1]}"
    kinds = " and ".join(sorted({delta.kind for _, _, delta in lora.layers})) or "LoRA"
    made = f", made for {' or '.join(report.made_for)}" if report.made_for else ""
    return f"{lora.path.name}: {kinds}{rank}, {counted(len(lora.layers), 'layer')}{made}"


def _reference(lora: Lora) -> str:
    """What an IC-LoRA wants its reference to be; empty for others, and if it wants nothing special."""
    wishes = []
    if lora.downscale > 1:
        wishes.append(f"1/{lora.downscale} of the clip's width and height")
    if lora.temporal_downscale > 1:
        wishes.append(f"one of {lora.temporal_downscale} frames")
    return ", ".join(wishes)
