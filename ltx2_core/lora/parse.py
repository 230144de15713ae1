"""A LoRA file: which parameters of LTX-2 it changes, and how; nothing is read but the header."""

import logging
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.contents import LORA_FILE, describe_contents, tell_contents
from ..checkpoint.files import TensorFile, named_errors, read_file, read_json
from ..checkpoint.loading import check_decimal, check_numbers, shorten_list
from ..errors import CheckpointError, LTX2Error
from ..errors.foreign import Fields, parse_json, shown
from ..quantization import check_library, check_stored, is_file_marker, is_of_library
from .forms import BIAS, DIFFERENCE, FORMS, LORA, PARTS, Form, changes, with_magnitude
from .names import find_parameter, find_text_parameter
from .patterns import LayerPatterns
from .rotations import Facts, Shape, WeightShape, block_size

FindParameter = Callable[[str], tuple[str, str] | None]

_PEFT_FILE, _PEFT_SETTINGS = "adapter_model.safetensors", "adapter_config.json"
_CHANGE_MODEL = ("pissa", "corda", "olora", "lora_ga", "loftq")  # ways in which PEFT begins, as their names begin

_OF_PEFT = re.compile(r"\.(?:lora_A|oft_R)\.")  # in the names of its tensors, behind the layer

_log = logging.getLogger(__name__)

MOST_DOWNSCALE = 64  # of the reference of an IC-LoRA

# What headers of IC-LoRAs call the factors of their reference, and what trainers put before such names: the official
# one nothing, those of the kohya family "ss_".
_DOWNSCALE = "reference_downscale_factor", "reference_spatial_scale_factor", "reference_spatial_downscale_factor"
_TEMPORAL = "reference_temporal_scale_factor", "reference_temporal_downscale_factor"
_DIALECTS = "", "ss_", "modelspec."
# What they call the space of the frames that an HDR LoRA makes, and what only says that it is one.
_LIGHT = "hdr_transform", "use_hdr_transform"

_PART = re.compile("(.+?)(?:" + "|".join(f"(?P<{part}>{end})" for part, end in PARTS.items()) + ")")

# What musubi-tuner writes beside a layer and what its tensors say already: the sizes of OFT, and lengths before the
# training.
_NOTES = re.compile(r".*\.(?:initial_norm|\w+_metadata)")

# Far above those of any LoRA of LTX-2, so that a file cannot keep the program busy without an end.
_LONGEST_NAME, _LARGEST_ALPHA = 300, 1e6


@dataclass(frozen=True, eq=False)
class Delta:
    """What a file does to one parameter; the numbers are read from the file when they are asked for."""

    file: TensorFile
    name: str  # of the layer in the file
    form: Form
    keys: Mapping[str, str]  # part: key in the file
    settings: Mapping[str, Any]  # of PEFT, if there are any

    @cached_property
    def _shapes(self) -> dict[str, Shape]:
        return {part: self.file.shape(key) for part, key in self.keys.items()}

    @cached_property
    def shape(self) -> WeightShape:
        """The shape of the parameter that is changed, None for a side that the file does not say; () if its tensors do
        not go together."""
        try:
            shape = self.form.shape(self._shapes)
        except (ValueError, IndexError):
            return ()
        sides = tuple(side for side in shape if side is not None)
        return shape if len(sides) < len(shape) or (sides and self._changes(sides)) else ()

    def fits(self, shape: Shape) -> bool:
        """Return whether it changes a parameter of this shape."""
        if len(shape) != len(self.shape) or any(side not in (None, other) for side, other in zip(self.shape, shape)):
            return False
        return None not in self.shape or self._changes(shape)

    def _changes(self, shape: Shape) -> bool:
        return self.is_low_rank or changes(self.form, tuple((part, self._shapes[part]) for part in self.parts), shape)

    @property
    def rank(self) -> int | None:
        """The rank of the factored matrices; None if nothing is factored."""
        return self.form.rank(self._shapes)

    @property
    def kind(self) -> str:
        """The name of the method, such as "LoRA", "DoRA" or "LoKr"."""
        return "DoRA" if "magnitude" in self.keys else self.form.name

    @property
    def is_nothing(self) -> bool:
        """Whether its alpha or its rank is 0, so that it changes nothing at any strength."""
        return "magnitude" not in self.keys and (self.rank == 0 or self.scale == 0)

    @property
    def is_low_rank(self) -> bool:
        """True if the change is nothing but a product of two narrow matrices."""
        return self.form is LORA and "magnitude" not in self.keys

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors as they are used; of most files as they are stored."""
        return sum(self.dtype(part).itemsize * math.prod(shape) for part, shape in self._shapes.items())

    @cached_property
    def scale(self) -> float:
        """alpha / r; what has no alpha is meant to be 1 (see README.md, "Scale")."""
        if "alpha" in self.keys and self.rank:
            return self._alpha / self.rank
        rank = self.rank or self.settings.get("r")
        alpha = self.settings.get("lora_alpha", self.settings.get("alpha"))
        if (patterns := self.settings.get("alpha_pattern")) is not None:
            alpha = patterns.find(self.name, alpha)
        if alpha is None or rank is None or not self.form.scaled:
            return 1.0
        return alpha / (math.sqrt(rank) if self.settings.get("use_rslora") else rank)

    def dtype(self, part: str) -> torch.dtype:
        """Return in what a tensor of the file is used: as it is stored, or bfloat16 if it is quantised."""
        return torch.bfloat16 if self.is_quantized(part) else self.file.dtype(self.keys[part])

    def is_quantized(self, part: str) -> bool:
        """Return whether a tensor has a scale or a marker beside it, and stands for other numbers than are stored."""
        return len(self.file.with_companions(self.keys[part])) > 1

    @property
    def is_any_quantized(self) -> bool:
        """Return whether one of its tensors is."""
        return len(self.stored_keys) > len(self.keys)

    @property
    def stored_keys(self) -> list[str]:
        """The keys of all its tensors in the file, with those that say how others are stored."""
        return [key for each in self.keys.values() for key in self.file.with_companions(each)]

    @property
    def parts(self) -> list[str]:
        """The parts of the form that the file has, without what is one number: an alpha, or a mark."""
        return [part for part in self.keys if part not in ("alpha", "scaled")]

    def tensor(self, part: str) -> Tensor:
        """Return one of the tensors in the file, such as "up"; nothing is read yet, unless it is quantised.

        Raises:
            CheckpointError: it holds no decimal numbers, or is in a format that cannot be read.
        """
        tensor = self.file.numbers(self.keys[part])
        check_decimal(tensor, partial(self._title, part))
        return tensor.detach()

    def check_numbers(self) -> None:
        """Raise CheckpointError if a tensor of the change holds NaN or infinite numbers; this reads them all."""
        for part in self.parts:
            check_numbers(self.file.numbers(self.keys[part]), partial(self._title, part))

    def _title(self, part: str) -> str:
        return f"{self.keys[part]} in {self.file.path.name}"

    @property
    def _uses_alpha(self) -> bool:
        """Whether its alpha counts: not where nothing is factored, where trainers write any number, even infinity."""
        return "alpha" in self.keys and (self.rank is not None or not self.form.scaled)

    @cached_property
    def _alpha(self) -> float:
        key = self.keys["alpha"]
        value = self.file.get(key)
        if value.numel() != 1 or not math.isfinite(alpha := value.double().item()):
            found = f"{tuple(value.shape)} numbers" if value.numel() != 1 else f"{value.item()}"
            raise CheckpointError(
                f"{key} in {self.file.path.name} is {found}; one finite number was expected. Download the file again."
            )
        return alpha

    def check(self) -> None:
        """Raise CheckpointError if a tensor is in a format that cannot be read, or the alpha is no number; nothing else
        is read."""
        for part in self.parts:
            if self.is_quantized(part):
                check_stored(self.file.outlines(self.file.with_companions(self.keys[part])))
            else:
                check_decimal(self.file.outline(self.keys[part]), partial(self._title, part))
        if self._uses_alpha:
            _ = self._alpha

    def compute(self, weight: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return what is added to ``weight`` (float32) at strength 1; ``tensors`` are its parts, wherever they are."""
        parts = {part: tensor.to(weight.device).float() for part, tensor in tensors.items()}
        change = self.form.change(weight, parts, self._facts).mul(self.scale)
        return with_magnitude(weight, change, parts.get("magnitude"))

    @property
    def _facts(self) -> Facts:
        """What a rotation must know beside its tensors.

        The alpha limits how far it turns: all of it in files of ComfyUI, so much "for_each" output in those of trainers
        that write "_" for "." (LyCORIS, kohya). Whether it is "scaled" says a mark of OneTrainer.
        """
        limit = self._alpha if self._uses_alpha else 0.0
        return {**self.settings, "limit": limit, "for_each": "." not in self.name, "scaled": "scaled" in self.keys}


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
    def is_for_text_encoder(self) -> bool:
        """Whether these are changes of Gemma, from ``open_text_lora``."""
        return "text_encoder" in self.deltas

    @cached_property
    def _text_deltas(self) -> list[Delta]:
        """What the file does to Gemma, which acts where Gemma is loaded alone."""
        other = None if self.is_for_text_encoder else read_lora(self.file, find_text_parameter)
        return [] if other is None else [delta for _, _, delta in other.layers]

    @property
    def text_layers(self) -> int:
        """How many layers of Gemma the file changes."""
        return len(self._text_deltas)

    @property
    def left_out(self) -> list[str]:
        """Keys that are understood neither here nor as changes of Gemma, and change nothing."""
        return sorted(set(self.unknown).difference(*(delta.stored_keys for delta in self._text_deltas)))

    @property
    def downscale(self) -> int:
        """IC-LoRA: how many times smaller than the clip the reference is, on either side."""
        return self._stated_factor(*_DOWNSCALE)

    @property
    def temporal_downscale(self) -> int:
        """IC-LoRA: every how many frames the reference has one."""
        return self._stated_factor(*_TEMPORAL)

    @property
    def is_in_context(self) -> bool:
        """Whether it says, by header or by name, that it follows a reference video."""
        stated = any(self._stated(name) for names in (_DOWNSCALE, _TEMPORAL) for name in names)
        return stated or re.search(r"(^|[^a-z])ic[-_ ]?lora", self.path.name.lower()) is not None

    @property
    def light(self) -> str | None:
        """The space of the HDR frames that a model makes with it, as the header says it, in small letters.

        "true" says only that it makes such frames; None that they are SDR.
        """
        stated = [value.strip().lower() for name in _LIGHT for value in self._stated(name)]
        return next((value for value in stated if value != "false"), None)

    def _stated(self, name: str) -> list[str]:
        """What the header says about ``name`` in the dialects of trainers; nothing may be said in words."""
        values = [self.file.metadata.get(f"{prefix}{name}", "") for prefix in _DIALECTS]
        return [value for value in values if value.strip().lower() not in ("", "none", "null")]

    def _stated_factor(self, *names: str) -> int:
        stated = [value for name in names for value in self._stated(name)] or ["1"]
        factors = {_whole_factor(value) for value in stated}
        factor = factors.pop()
        if factors or factor is None:
            raise CheckpointError(
                f"The header of {self.path.name} says {names[0]} = {' and '.join(map(shown, stated))}, which should be "
                f"a whole number from 1 to {MOST_DOWNSCALE}, and the same wherever it stands; download the file again."
            )
        return factor


def _whole_factor(stated: str) -> int | None:
    """The whole number that a header says; None for anything else."""
    try:
        factor = float(stated)
    except ValueError:
        return None
    return int(factor) if 1 <= factor <= MOST_DOWNSCALE and factor == int(factor) else None


def open_lora(path: str | Path) -> Lora:
    """Look at a LoRA of any trainer; only the header and the scales are read.

    Raises MissingFileError, or CheckpointError if the file is not a LoRA.
    """
    file = TensorFile(path)
    lora = read_lora(file)
    if lora is None:
        with named_errors(file.path.name):
            check_library(file.entries)
    if lora is None and describe_contents(file.entries) == LORA_FILE:
        raise CheckpointError(
            f"{file.path.name} holds no whole change of a layer: {shorten_list(sorted(file.entries))} lack the factor "
            "that belongs to them. Download the file again."
        )
    if lora is None:
        raise CheckpointError(
            f"{file.path.name} is not a LoRA: {tell_contents(file.entries)}, and no tensors that change others. Choose "
            "a LoRA, or open it as a checkpoint."
        )
    return lora


def open_text_lora(path: str | Path) -> Lora:
    """Look at what a LoRA does to the text encoder, of any trainer; only the header and the scales are read.

    Raises MissingFileError, or CheckpointError if the file changes nothing in a text encoder.
    """
    file = TensorFile(path)
    lora = read_lora(file, find_text_parameter)
    if lora is None or not lora.layers:
        raise CheckpointError(
            f"{file.path.name} changes nothing in Gemma: {tell_contents(file.entries)}. Choose a LoRA that was made "
            "for the text encoder."
        )
    return lora


def read_lora(file: TensorFile, find: FindParameter = find_parameter) -> Lora | None:
    """Return the LoRA in ``file``, of whatever model; None if it holds something else.

    ``find`` knows the layers that are looked for: those of LTX-2, or with ``find_text_parameter`` those of Gemma.

    Raises CheckpointError for settings that cannot be.
    """
    if is_of_library(file.entries):
        return None
    settings = _peft_settings(file)
    deltas: dict[str, dict[str, Delta]] = defaultdict(dict)
    unknown = {key for key in file.entries if not _is_note(key)}
    is_lora = False
    for layer, keys in _layers(file).items():
        for form, parts, ends in _deltas_of(keys, {part: file.shape(key) for part, key in keys.items()}):
            is_lora = True
            if ".weight" in ends:
                _check_alone(file.path.name, layer, form, keys.keys() - parts.keys())
            place = next(filter(None, (find(f"{layer}{end}") for end in ends)), None)
            if place and place[1] not in deltas[place[0]]:
                delta = deltas[place[0]][place[1]] = Delta(file, layer, form, parts, settings)
                delta.check()
                unknown -= set(delta.stored_keys)
    return Lora(file, deltas, tuple(sorted(unknown))) if is_lora else None


def _layers(file: TensorFile) -> dict[str, dict[str, str]]:
    """The layers that are changed, by their names in the file, and for each its parts and their keys."""
    layers: dict[str, dict[str, str]] = defaultdict(dict)
    found = ((key, _PART.fullmatch(key)) for key in file.entries if len(key) <= _LONGEST_NAME)
    for key, part in found:
        if part and (other := layers[part[1]].setdefault(str(part.lastgroup), key)) != key:
            raise CheckpointError(
                f"{file.path.name} holds several adapters: {other} and {key} are of one layer, and nothing says which "
                "of them is meant. Save each in a file of its own."
            )
    return layers


def _deltas_of(
    keys: Mapping[str, str], shapes: Mapping[str, Shape]
) -> Iterable[tuple[Form, dict[str, str], tuple[str, ...]]]:
    """The form of a layer's changes, their parts, and how the changed parameter may end."""
    if "bias" in keys:
        yield DIFFERENCE, {"difference": keys["bias"]}, (".bias",)
    if BIAS.fits(shapes):
        yield BIAS, {part: key for part, key in keys.items() if part in (*BIAS.parts, "alpha")}, (".bias",)
    form = next((form for form in FORMS if form.fits(shapes)), None)
    if form is not None:
        parts = {part: key for part, key in keys.items() if part in (*form.parts, "alpha", "magnitude")}
        yield form, parts, (".weight", "")


def _is_note(key: str) -> bool:
    """Whether a tensor of this name says only what others say, too."""
    return is_file_marker(key) or _NOTES.fullmatch(key) is not None


def _check_alone(file: str, layer: str, form: Form, others: Set[str]) -> None:
    """CheckpointError if a layer is turned beside what ``form`` says of it, of which one would be lost."""
    if "rotation" in others:
        raise CheckpointError(
            f"{file} changes {layer} by {form.name} and turns it by OFT, of which a layer may have one here. Train it "
            "with one of them, or merge it into the model."
        )


def files_of_lora(path: Path) -> list[Path]:
    """Return what a LoRA is read from: its file, and the settings of PEFT beside it, if there are any."""
    return [each for each in (path, path.with_name(_PEFT_SETTINGS)) if each == path or each.is_file()]


def _peft_settings(file: TensorFile) -> dict[str, Any]:
    """What PEFT was told: diffusers writes it into the header, PEFT itself into a file beside the weights."""
    title, config = f"The settings of {file.path.name}", file.path.with_name(_PEFT_SETTINGS)
    if (stated := file.metadata.get("lora_adapter_metadata")) is not None:
        found = parse_json(stated, title)
    elif not config.is_file():
        return {}
    elif file.path.name == _PEFT_FILE:
        found = parse_json(read_file(config), title)
    else:
        found = _settings_of_renamed(file, config)
    # diffusers puts the name of the network in front.
    settings = {name.removeprefix("transformer."): value for name, value in found.items() if value is not None}
    fields = Fields(settings, title)
    if (began := str(settings.get("init_lora_weights"))).lower().startswith(_CHANGE_MODEL):
        raise CheckpointError(
            f"{title} say init_lora_weights = {shown(began)}: that changes the model itself before the training, and "
            "the file alone does not say how. Save it as a plain LoRA (PEFT: path_initial_model_for_weight_conversion)."
        )
    fields.whole("r", 1, least=0 if settings.get("peft_type") == "OFT" else 1)
    fields.whole("num_cayley_neumann_terms", 5, least=3, most=100)
    fields.number("eps", 1.0)
    for name in ("use_rslora", "use_cayley_neumann", "coft"):
        fields.flag(name, False)
    for name in ("lora_alpha", "alpha"):
        fields.number(name, 1.0, -_LARGEST_ALPHA, _LARGEST_ALPHA)
    if "alpha_pattern" in fields:
        settings["alpha_pattern"] = _layer_patterns(fields.section("alpha_pattern"))
    return settings


def _settings_of_renamed(file: TensorFile, config: Path) -> dict[str, Any]:
    """The settings in ``config`` if they are those of ``file``, which PEFT has written and somebody has renamed.

    The log says what is done.
    """
    if config.with_name(_PEFT_FILE).exists() or not any(_OF_PEFT.search(key) for key in file.entries):
        return {}
    try:
        settings = read_json(config)
    except LTX2Error:  # whosever they are
        settings = {}
    agrees = _agrees(settings, file)
    _log.info(
        "The adapter_config.json beside %s is %s.",
        file.path.name,
        "read, and counts" if agrees else "not its own, since ranks or layers differ, and is not read",
    )
    return settings if agrees else {}


def _agrees(settings: Mapping[str, Any], file: TensorFile) -> bool:
    """Whether the ranks (of OFT the blocks) and layers of a renamed file are among those of the settings beside it."""
    patterns, targets = settings.get("rank_pattern"), settings.get("target_modules")
    known = [settings.get("r"), *(patterns.values() if isinstance(patterns, Mapping) else ())]
    factors = {key: entry.shape for key, entry in file.entries.items() if _OF_PEFT.search(key) and entry.shape}
    block = settings.get("oft_block_size")
    if not all(shape[0] in known or 0 < block_size(shape) == block for shape in factors.values()):
        return False
    if not isinstance(targets, list):  # an expression, or all layers
        return True
    names = {str(name) for name in targets}
    return all(names.intersection(_ends(_OF_PEFT.split(key)[0])) for key in factors)


def _ends(layer: str) -> list[str]:
    """The name of a layer from each of its parts on, by any of which PEFT is told to change it."""
    parts = layer.split(".")
    return [".".join(parts[first:]) for first in range(len(parts))]


def _layer_patterns(fields: Fields) -> LayerPatterns:
    values = {pattern: fields.number(pattern, None, -_LARGEST_ALPHA, _LARGEST_ALPHA) for pattern in fields.content}
    return LayerPatterns(values, fields.where)
