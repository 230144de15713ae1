"""A LoRA file: which parameters of LTX-2 it changes, and how; nothing is read but the header."""

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.files import TensorFile, read_file
from ..checkpoint.loading import shorten_list
from ..errors import CheckpointError
from .forms import DIFFERENCE, FORMS, LORA, PARTS, Form, with_magnitude
from .names import find_parameter

_PART = re.compile("(.+?)(?:" + "|".join(f"(?P<{part}>{end})" for part, end in PARTS.items()) + ")")


@dataclass(frozen=True, eq=False)
class Delta:
    """What a file does to one parameter; the numbers are read from the file when they are asked for."""

    file: TensorFile
    name: str  # of the layer in the file
    form: Form
    keys: Mapping[str, str]  # part: key in the file
    settings: Mapping[str, Any]  # of PEFT, if there are any

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {part: self.file.shape(key) for part, key in self.keys.items()}

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the parameter that is changed."""
        return self.form.shape(self._shapes)

    @property
    def rank(self) -> int | None:
        """The rank of the factored matrices; None if nothing is factored."""
        return self.form.rank(self._shapes)

    @property
    def kind(self) -> str:
        """The name of the method, such as "LoRA", "DoRA" or "LoKr"."""
        return "DoRA" if "magnitude" in self.keys else self.form.name

    @property
    def is_low_rank(self) -> bool:
        """True if the change is nothing but a product of two narrow matrices."""
        return self.form is LORA and "magnitude" not in self.keys

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors in the file."""
        return sum(self.file.entries[key].nbytes for key in self.keys.values())

    @cached_property
    def scale(self) -> float:
        """alpha / r; what has no alpha is meant to be 1 (see README.md, "Scale")."""
        if "alpha" in self.keys and self.rank:
            return float(self.file.get(self.keys["alpha"])) / self.rank
        rank = self.rank or self.settings.get("r")
        alpha = self.settings.get("lora_alpha", self.settings.get("alpha"))
        for pattern, value in self.settings.get("alpha_pattern", {}).items():
            if re.match(rf"(.*\.)?({pattern})$", self.name):
                alpha = value
        if alpha is None or rank is None or self.form is DIFFERENCE:
            return 1.0
        return alpha / (math.sqrt(rank) if self.settings.get("use_rslora") else rank)

    def factor(self, name: str, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return one of the tensors in the file by its part in the form, such as "up"."""
        return self.file.get(self.keys[name]).to(device).to(dtype)

    def compute(self, weight: Tensor) -> Tensor:
        """Return what is added to ``weight`` (float32) at strength 1."""
        parts = {name: self.factor(name, weight.device) for name in self.keys}
        change = self.form.change(parts).mul(self.scale)
        return with_magnitude(weight, change, parts["magnitude"]) if "magnitude" in parts else change


@dataclass(frozen=True, eq=False)
class Lora:
    """A LoRA file."""

    file: TensorFile
    deltas: Mapping[str, Mapping[str, Delta]]  # component: our name of the parameter: what happens to it
    unknown: tuple[str, ...]  # keys of which we do not know what they change

    @property
    def path(self) -> Path:
        """The path of the file."""
        return self.file.path

    @property
    def layers(self) -> list[tuple[str, str, Delta]]:
        """Every change, as component, our name of the parameter, and the change."""
        return [(component, name, delta) for component, some in self.deltas.items() for name, delta in some.items()]

    @property
    def downscale(self) -> int:
        """IC-LoRA: how many times smaller than the clip the reference is, on either side."""
        return self._stated_factor("reference_downscale_factor", "reference_spatial_scale_factor")

    @property
    def temporal_downscale(self) -> int:
        """IC-LoRA: every how many frames the reference has one."""
        return self._stated_factor("reference_temporal_scale_factor")

    @property
    def is_in_context(self) -> bool:
        """Whether it says, by header or by name, that it follows a reference video."""
        stated = any(name.startswith("reference_") for name in self.file.metadata)
        return stated or re.search(r"(^|[^a-z])ic[-_ ]?lora", self.path.name.lower()) is not None

    def _stated_factor(self, *names: str) -> int:
        stated = next((self.file.metadata[name] for name in names if name in self.file.metadata), "1")
        try:
            factor = round(float(stated))
        except ValueError:
            factor = 0
        if factor < 1:
            raise CheckpointError(
                f"The header of {self.path.name} says {names[0]} = {stated!r}, which should be a whole number from 1 "
                "on; download the file again."
            )
        return factor


def open_lora(path: str | Path) -> Lora:
    """Look at a LoRA of any trainer; only the header is read.

    Raises MissingFileError, or CheckpointError if the file is not a LoRA.
    """
    file = TensorFile(path)
    lora = read_lora(file)
    if lora is None:
        raise CheckpointError(
            f"{file.path.name} is not a LoRA: it holds {shorten_list(sorted(file.entries)) or 'nothing'}, and no "
            "tensors that change others. Choose a LoRA, or open it as a checkpoint."
        )
    return lora


def read_lora(file: TensorFile) -> Lora | None:
    """Return the LoRA in ``file``, of whatever model; None if it holds something else."""
    settings = _peft_settings(file)
    deltas: dict[str, dict[str, Delta]] = defaultdict(dict)
    unknown = set(file.entries)
    is_lora = False
    for layer, keys in _layers(file.entries).items():
        for form, parts, ends in _deltas_of(keys):
            is_lora = True
            place = next(filter(None, (find_parameter(f"{layer}{end}") for end in ends)), None)
            if place and place[1] not in deltas[place[0]]:
                deltas[place[0]][place[1]] = Delta(file, layer, form, parts, settings)
                unknown -= set(parts.values())
    return Lora(file, deltas, tuple(sorted(unknown))) if is_lora else None


def _layers(keys: Iterable[str]) -> dict[str, dict[str, str]]:
    """The layers that are changed, by their names in the file, and for each its parts and their keys."""
    layers: dict[str, dict[str, str]] = defaultdict(dict)
    for key in keys:
        if found := _PART.fullmatch(key):
            layers[found[1]][str(found.lastgroup)] = key
    return layers


def _deltas_of(keys: Mapping[str, str]) -> Iterable[tuple[Form, dict[str, str], tuple[str, ...]]]:
    """The form of a layer's changes, their parts, and how the changed parameter may end."""
    if "bias" in keys:
        yield DIFFERENCE, {"difference": keys["bias"]}, (".bias",)
    form = next((form for form in FORMS if form.fits(keys)), None)
    if form is not None:
        parts = {part: key for part, key in keys.items() if part in (*form.parts, "alpha", "magnitude")}
        yield form, parts, (".weight", "")


def _peft_settings(file: TensorFile) -> dict[str, Any]:
    """What PEFT was told: diffusers writes it into the header, PEFT itself into a file beside the weights."""
    stated = file.metadata.get("lora_adapter_metadata")
    config = file.path.with_name("adapter_config.json")
    if stated is None and file.path.name == "adapter_model.safetensors" and config.is_file():
        stated = read_file(config).decode("utf-8", "replace")
    try:
        settings = json.loads(stated or "{}")
    except ValueError:
        raise CheckpointError(f"The settings of {file.path.name} are not valid JSON; download it again.") from None
    # diffusers puts the name of the network in front.
    return {name.removeprefix("transformer."): value for name, value in settings.items() if value is not None}
