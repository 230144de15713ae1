"""All formats in which weights may be stored, and what can be asked of any of them (see README.md, "Formats").

A further format is one file beside this one, with a class that has the members of ``Format``, and one row of FORMATS.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..errors.foreign import Fields, parse_json
from .fp8 import FP8


class QuantizedLinear(Protocol):
    """What a format's linear layer can do beside being an ``nn.Module``."""

    exact: bool  # whether the file asks that inputs are never rounded
    scaled_on: Collection[str]  # the types of device on which it multiplies in its format, if they can

    def expanded(self, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        """Return this layer for several calls with inputs of ``dtype``; it may hold the expanded weight."""

    def expand_weight(self, dtype: torch.dtype) -> Tensor:
        """Return the weight (out, in) as a new tensor of ``dtype``."""


class Format(Protocol):
    """How weights are stored in fewer bits: recognised, expanded, multiplied, made, and counted by shapes.

    A weight has companions: tensors whose names differ from its own by the last part, the suffix.
    """

    @property
    def name(self) -> str:
        """The word by which people choose it."""

    @property
    def reads(self) -> str:
        """What of it can be read, as a refusal lists it."""

    @property
    def markers(self) -> Collection[str]:
        """The names that ComfyUI's marker ``comfy_quant`` gives it."""

    @property
    def scale_suffixes(self) -> tuple[str, ...]:
        """The suffixes of scales, in all spellings; a plain weight has none."""

    @property
    def input_suffixes(self) -> tuple[str, ...]:
        """The suffixes of companions that are about the layer's input, in all spellings."""

    @property
    def file_marker(self) -> str:
        """The suffix of a tensor that says something about a file as a whole."""

    @property
    def linear(self) -> type[nn.Module]:
        """The class of its linear layers, a ``QuantizedLinear``."""

    @property
    def kept(self) -> Mapping[str, str] | None:
        """Patterns of the transformer's matrices that a cast leaves alone, each with its reason; ``{last}`` is the
        number of the last block. None if nothing is cast to this format."""

    @property
    def operation(self) -> torch._ops.OpOverloadPacket:
        """The operation of torch by which its layers multiply without expanding their weight."""

    @property
    def rate(self) -> str:
        """The rate of a machine that such products have."""

    def stores(self, dtype: torch.dtype, companions: Collection[str]) -> bool:
        """Return whether a tensor of ``dtype`` that has companions of these suffixes is in this format."""

    def find_problem(self, weight: Tensor, companions: Mapping[str, Tensor]) -> str:
        """Name what cannot be read of a weight that is in this format; empty if all can."""

    def dequantize(self, weight: Tensor, companions: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        """Return the numbers that ``weight`` stands for, in ``dtype``."""

    def quantize(self, weight: Tensor) -> dict[str, Tensor]:
        """Return a plain matrix (out, in) in this format: "weight" and its companions, by suffix."""

    def make_linear(
        self, linear: nn.Linear, weight: Tensor, companions: Mapping[str, Tensor], options: Mapping[str, Any]
    ) -> nn.Module:
        """Return the layer in place of ``linear``: companions filled, weight and bias still to be loaded.

        ``options`` are those of the marker of the weight.
        """

    def lay_out(
        self, shape: tuple[int, ...], dtype: torch.dtype = ..., companions: Mapping[str, tuple[int, ...]] | None = None
    ) -> dict[str, Tensor]:
        """Return a weight of ``shape`` as it is loaded, with its companions by suffix, on the meta device.

        ``dtype`` is the stored one, ``companions`` are the shapes in a file; both default to a usual file's.
        """

    def wants_exact_products(self, shape: tuple[int, ...]) -> bool:
        """Return whether a file marker of ``shape`` asks that inputs of layers are not rounded."""

    def scaled_product(self, matrix: Tensor) -> Callable[[], Tensor] | None:
        """Return the product of a square matrix with itself in this format, to time a device; None if it has none."""


FORMATS: dict[str, Format] = {format.name: format for format in (FP8,)}

# Those to which the weights of a transformer can be cast.
CASTS = {name: format for name, format in FORMATS.items() if format.kept is not None}

# By the operation that is called, the rate of a machine that counts.
SCALED_PRODUCTS = {format.operation: format.rate for format in FORMATS.values()}

_MARKER = "comfy_quant"
_FOREIGN_SUFFIXES = {"weight_scale_2": "nvfp4"}
# How tensors end that other libraries write instead of a weight. Quanto packs two or four numbers into a byte, where it
# has a second ``_data``; else its numbers are of the tensor's own kind.
_FOREIGN_ENDS = {".weight._data._data": "quanto int4 or int2", ".weight._data": "quanto {stored}",
                 ".weight.absmax": "bitsandbytes", ".weight.quant_map": "bitsandbytes",
                 ".qweight": "GPTQ or AWQ"}  # fmt: skip

# What may stand next to ``<module>.weight`` in a quantised file, in all spellings.
SCALE_SUFFIXES = frozenset(
    [
        *(suffix for format in FORMATS.values() for suffix in format.scale_suffixes + format.input_suffixes),
        *_FOREIGN_SUFFIXES,
        _MARKER,
    ]
)


def find_format(dtype: torch.dtype, companions: Collection[str] = ()) -> Format | None:
    """Return the format of a tensor of ``dtype`` with companions of these suffixes; None if it is stored plainly."""
    return next((format for format in FORMATS.values() if format.stores(dtype, companions)), None)


def format_of(module: nn.Module) -> Format | None:
    """Return the format that the weight of a linear layer is stored in; None for layers that are not quantised."""
    return next((format for format in FORMATS.values() if isinstance(module, format.linear)), None)


def is_linear(module: nn.Module) -> bool:
    """Return whether ``module`` is a linear layer, quantised or not."""
    return isinstance(module, nn.Linear) or format_of(module) is not None


def expand_weight(linear: nn.Module, dtype: torch.dtype) -> Tensor:
    """Return a copy of a linear layer's weight (out, in) in ``dtype``, whatever its format."""
    if format_of(linear) is not None:
        return linear.expand_weight(dtype)  # type: ignore[operator]
    return linear.get_parameter("weight").to(dtype, copy=True)


def plain_dtype(network: nn.Module) -> torch.dtype:
    """Return the dtype of the parameters that are not quantised: what the network computes in."""
    return next(
        parameter.dtype
        for name, parameter in network.named_parameters()
        if find_format(parameter.dtype) is None and name.rpartition(".")[2] not in SCALE_SUFFIXES
    )


def split_companion(key: str) -> tuple[str, str]:
    """Return the name of the weight that a tensor belongs to, and the tensor's suffix; for any other its own name, and
    an empty suffix."""
    module, _, suffix = key.rpartition(".")
    return (f"{module}.weight", suffix) if suffix in SCALE_SUFFIXES else (key, "")


def is_file_marker(key: str) -> bool:
    """Return whether ``key`` is that of a tensor that only says something about a file as a whole."""
    return any(key.endswith(format.file_marker) for format in FORMATS.values())


def check_stored(dtypes: Mapping[str, torch.dtype]) -> None:
    """Refuse, from a header alone, weights that no row of FORMATS reads.

    Args:
        dtypes: By the name of a tensor, companions included.

    Raises:
        CheckpointError: Names the first of them and how it is stored.
    """
    companions = defaultdict[str, set[str]](set)
    for name in dtypes:
        weight, suffix = split_companion(name)
        if suffix in _FOREIGN_SUFFIXES:
            raise _unreadable(weight, _FOREIGN_SUFFIXES[suffix])
        if suffix:
            companions[weight].add(suffix)
    check_library(dtypes)
    for name, dtype in dtypes.items():
        if not split_companion(name)[1] and find_format(dtype, companions[name]) is None:
            _refuse_quantized(name, dtype, companions[name])


def check_library(dtypes: Mapping[str, torch.dtype]) -> None:
    """Refuse weights that a library has stored in its own way: no tensor has the name that it would have otherwise.

    Args:
        dtypes: By the name of a tensor.

    Raises:
        CheckpointError: Names the first of them and how it is stored.
    """
    for name, dtype in dtypes.items():
        for end, library in _FOREIGN_ENDS.items():
            if name.endswith(end):
                stored = str(dtype).removeprefix("torch.").partition("_")[0]
                weight = name.removesuffix(end) + (".weight" if end.startswith(".weight") else end)
                raise _unreadable(weight, library.format(stored=stored))


def wants_exact_products(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Return whether a file, given the shapes of its tensors, asks that inputs of layers are not rounded."""
    return any(
        key.endswith(format.file_marker) and format.wants_exact_products(shape)
        for key, shape in shapes.items()
        for format in FORMATS.values()
    )


def use_scaled_products(network: nn.Module, devices: Collection[str] = ("cuda",)) -> None:
    """Let quantised layers multiply in their format on these types of device where they can; () is never.

    By default on cards alone, whose datasheets promise twice the rate of bfloat16 for float8, about a quarter of a step
    at 720p; a CPU would be slower. The price is that inputs are rounded as weights are: a layer in fp8 errs by 3.7 %
    instead of 2.65 %. That suits a transformer, where what must be fine is not quantised anyway (``Format.kept``). A
    network that runs once for a prompt, Gemma above all, gains no time worth it, so a new layer is exact until this is
    called.
    """
    for module in network.modules():
        if format_of(module) is not None and not module.exact:
            module.scaled_on = devices  # type: ignore[assignment]


def install_quantized_layers(
    network: nn.Module,
    state: dict[str, Tensor],
    dtype: torch.dtype | None = None,
    deferred: Collection[torch.dtype] = (),
) -> None:
    """Put a quantised layer wherever ``state`` holds a quantised weight for an nn.Linear; changes both arguments.

    Other quantised tensors are expanded, to bfloat16 by default. Afterwards ``state`` is what ``network`` loads.

    Args:
        network: Usually on the meta device, without weights yet.
        state: Tensors by our names; scales and markers stand next to their weights as they do in the file. A missing
            scale is 1.
        dtype: What everything becomes that is not quantised; None leaves it as stored.
        deferred: What is stored so is left as it is, too, because somebody else converts it when it is used.

    Raises:
        CheckpointError: A weight is in a format that is no row of FORMATS.
    """
    companions, modules = _take_companions(state), dict(network.named_modules())
    for name, value in list(state.items()):
        module, _, leaf = name.rpartition(".")
        linear, about = modules.get(module), companions[name]
        format = find_format(value.dtype, about.tensors)
        if format is None:
            _refuse_quantized(name, value.dtype, about.tensors)
            if dtype is not None and value.dtype not in deferred:
                state[name] = value.to(dtype)
        elif problem := format.find_problem(value, about.tensors):
            raise _unreadable(name, problem)
        elif leaf == "weight" and isinstance(linear, nn.Linear):
            layer = format.make_linear(linear, value, about.tensors, about.options)
            network.set_submodule(module, layer)
            scales = {key: tensor for key, tensor in layer.state_dict().items() if key not in ("weight", "bias")}
            state |= {f"{module}.{suffix}": tensor for suffix, tensor in scales.items()}
        else:
            state[name] = format.dequantize(value, about.tensors, dtype or torch.bfloat16)


@dataclass
class _Companions:
    """What a file says about a weight."""

    tensors: dict[str, Tensor] = field(default_factory=dict)  # by suffix
    options: Mapping[str, Any] = field(default_factory=dict)  # of its marker


def _take_companions(state: dict[str, Tensor]) -> defaultdict[str, _Companions]:
    """Remove what stands beside weights from ``state``; return it under the names of the weights."""
    companions = defaultdict[str, _Companions](_Companions)
    for name in list(state):
        weight, suffix = split_companion(name)
        if not suffix:
            continue
        value = state.pop(name)
        if suffix in _FOREIGN_SUFFIXES:
            raise _unreadable(weight, _FOREIGN_SUFFIXES[suffix])
        if suffix == _MARKER:
            companions[weight].options = _read_marker(weight, value)
        else:
            companions[weight].tensors[suffix] = value
    return companions


def _read_marker(weight: str, value: Tensor) -> dict[str, Any]:
    """The options in a marker, which holds JSON as bytes."""
    if value.dtype != torch.uint8:
        raise CheckpointError(f"The marker beside {weight} is not valid JSON in bytes; download the file again.")
    title = f"The marker beside {weight}"
    marker = parse_json(value.contiguous().numpy().tobytes(), title)
    options = marker | dict(Fields(marker, title).section("params").content)
    if not any((stated := marker.get("format")) in format.markers for format in FORMATS.values()):
        raise _unreadable(weight, str(stated))
    return options


def _refuse_quantized(name: str, dtype: torch.dtype, companions: Collection[str]) -> None:
    """CheckpointError if a tensor that is in no format of ours is quantised all the same, or holds no decimals."""
    scaled = any(suffix in format.scale_suffixes for suffix in companions for format in FORMATS.values())
    if scaled or not dtype.is_floating_point:
        stored = str(dtype).removeprefix("torch.")
        raise _unreadable(name, f"{stored} with a scale" if scaled else stored)


def _unreadable(name: str, stored: str) -> CheckpointError:
    reads, names = " and ".join(format.reads for format in FORMATS.values()), " or ".join(FORMATS)
    return CheckpointError(
        f"{name} is stored as {stored}; this version of the pack reads bf16, fp16, fp32 and {reads}. Choose the bf16 "
        f"or {names} file."
    )
