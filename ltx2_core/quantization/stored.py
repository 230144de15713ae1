"""A weight as a file holds it, and what every format of such weights can do (see README.md, "Formats")."""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, ClassVar, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import CheckpointError
from ..errors.foreign import Fields, parse_json

Shape = tuple[int, ...]
ExpandRows = Callable[["StoredWeight", Shape, int, int], Tensor]
Rounded = TypeVar("Rounded")

# Tensors beside a weight that hold JSON as bytes, which says how the weight is stored.
MARKERS = ("comfy_quant", "weight_quant_state")

_NUMBERS = 2**22  # that are expanded together: what that takes beside the result is small then
_TILE = 128  # rows, of which every piece that is expanded has a multiple


@dataclass(frozen=True)
class StoredWeight:
    """A weight as a file holds it, or as a layer does; on the meta device it has shapes alone.

    Attributes:
        name: of the weight, for errors.
        weight: the stored tensor, whose shape and dtype need not be those of the matrix.
        companions: the tensors beside it, by their suffix.
        marker: JSON as bytes, wherever the file had it; None without one.
    """

    name: str
    weight: Tensor
    companions: Mapping[str, Tensor] = field(default_factory=dict)
    marker: Tensor | None = None

    @cached_property
    def options(self) -> Mapping[str, Any]:
        """What the marker says. Raises CheckpointError if it says nothing that can be read."""
        if self.marker is None:
            return {}
        title = f"The marker beside {self.name}"
        if self.marker.dtype != torch.uint8:
            raise CheckpointError(f"{title} is not valid JSON in bytes; download the file again.")
        marker = parse_json(self.marker.contiguous().numpy().tobytes(), title)
        params = Fields(marker, title).section("params").content
        for option in params.keys() & marker.keys():
            if params[option] != marker[option]:
                raise CheckpointError(
                    f"{title} contradicts itself: {option} is {marker[option]} and {params[option]}; download the file "
                    "again."
                )
        return marker | dict(params)

    @property
    def format_name(self) -> str | None:
        """The format that the marker names; None if there is no marker."""
        if self.marker is None:
            return None
        return str(self.options.get("format", self.options.get("quant_type")))

    def companion(self, *suffixes: str) -> Tensor | None:
        """Return the companion with the first of these suffixes that is there, None if none is."""
        return next((self.companions[suffix] for suffix in suffixes if suffix in self.companions), None)

    def whole(self, option: str, default: int) -> int:
        """Return a whole number of the marker from 1 to 65,536. Raises CheckpointError for anything else."""
        return Fields(self.options, f"The marker beside {self.name}").whole(option, default, 1, 2**16)


@dataclass(frozen=True)
class Writer:
    """How matrices are written into files in a format, some rows at a time.

    Attributes:
        encode: takes rows (n, in) in float32, a multiple of 128 of them unless they are the last ones, and the largest
            absolute number of the whole matrix, (); returns "weight" and its companions, by suffix. Of companions with
            two axes each piece has its own rows, all others are those of the whole matrix.
        columns: a matrix must have a multiple of so many.
    """

    encode: Callable[[Tensor, Tensor], dict[str, Tensor]]
    columns: int = 1


def marker_of(**options: Any) -> Tensor:
    """Return the marker ``comfy_quant`` that says ``options``; on the CPU, whatever device the weight is on."""
    return torch.tensor(list(json.dumps(options).encode()), dtype=torch.uint8, device="cpu")


def pick(x: Tensor, *places: Tensor | slice) -> Tensor:
    """Return ``x[places]``; of float8, which older PyTorch does not pick from on a CPU, by its bytes."""
    bits = x.view(torch.uint8) if x.itemsize == 1 else x
    return bits[places].view(x.dtype)


def round_once(x: Tensor, how: str, round_input: Callable[[], Rounded]) -> Rounded:
    """Return what ``round_input`` makes of ``x``: once for all layers that share it, as ``layers.shared_input`` says.

    Args:
        x: the input of a layer.
        how: names the rounding, which must depend on nothing else than ``x``.
        round_input: rounds it.
    """
    if (kept := vars(x).get("rounded")) is None:
        return round_input()
    if how not in kept:
        kept[how] = round_input()
    return kept[how]


class QuantizedLinear(nn.Module):
    """A linear layer whose weight is stored in fewer bits: it expands the weight at use and computes in the dtype of
    its input; or, after ``use_scaled_products``, it rounds the input too and multiplies in the format of the weight.

    Move it with ``.to(device)``; ``.to(dtype)`` would convert the stored bytes.

    Attributes:
        format: what the weight is stored in.
        shape: of the matrix, (out, in), whatever the shape of the stored tensor.
        exact: whether the file asks that inputs are never rounded.
        scaled_on: the types of device on which it multiplies in its format, if they can.
    """

    weight: nn.Parameter
    exact: bool = False
    scaled_on: Collection[str] = ()

    def __init__(self, format: "Format", shape: Shape, stored: StoredWeight, bias: Tensor | None = None):
        """Hold the stored tensors as parameters without gradients, under their suffixes.

        Args:
            format: of the weight.
            shape: of the matrix, (out, in).
            stored: the weight with the companions that the layer needs.
            bias: (out,), in the dtype that the network computes in.
        """
        super().__init__()
        self.format, self.shape, self._marker = format, shape, stored.marker
        self._suffixes = tuple(stored.companions)
        for name, tensor in {"weight": stored.weight, **stored.companions}.items():
            self.register_parameter(name, nn.Parameter(tensor, requires_grad=False))
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.exact = bool(stored.options.get("full_precision_matrix_mult", False))

    @property
    def stored(self) -> StoredWeight:
        """The weight as it lies in this layer now."""
        companions = {suffix: self.get_parameter(suffix) for suffix in self._suffixes}
        return StoredWeight("weight", self.get_parameter("weight"), companions, self._marker)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., in) to (..., out) in the dtype of ``x``."""
        return self.expanded(x.dtype)(x)

    def expanded(self, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        """Return this layer for several calls with inputs of ``dtype``: the product in its format, if it may and can.

        It may hold the expanded weight, so drop it soon.
        """
        return self.find_product(dtype) or self.widened(dtype)

    def find_product(self, dtype: torch.dtype) -> Callable[[Tensor], Tensor] | None:
        """Return the product in the format of the weight, for inputs of ``dtype``; None if the weight is expanded."""
        return self.format.find_product(self, dtype) if self.weight.device.type in self.scaled_on else None

    def find_gelu_product(self, dtype: torch.dtype) -> Callable[[Tensor], Tensor] | None:
        """Return the product with the GELU, in its tanh form, of inputs of ``dtype``; None if that is made before."""
        return self.format.find_gelu_product(self, dtype) if self.weight.device.type in self.scaled_on else None

    def float8_input(self, dtype: torch.dtype) -> tuple[str, Tensor | None] | None:
        """Return how it takes inputs of ``dtype`` in float8, as ``layers.sharing`` says: the name of their rounding and
        the scale of all tokens, None for one of each; None if it takes them as they are."""
        return self.format.float8_input(self, dtype) if self.weight.device.type in self.scaled_on else None

    def widened(self, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        """Return the product with the expanded weight."""
        return partial(F.linear, weight=self.expand_weight(dtype), bias=self.bias)

    def expand_weight(self, dtype: torch.dtype) -> Tensor:
        """Return the weight (out, in) as a new tensor of ``dtype``."""
        return self.format.dequantize(self.stored, self.shape, dtype)


class Format:
    """How weights are stored in fewer bits: recognised, expanded, multiplied, made, and counted by shapes.

    One object per format is a row of ``formats.FORMATS``. A weight has companions: tensors whose names differ from its
    own by the last part, the suffix. What a format does not say is as here.

    Attributes:
        name: the word by which people choose it.
        reads: what of it can be read, as a refusal lists it.
        markers: the names that markers give it.
        scale_suffixes: the suffixes of scales, in all spellings; a plain weight has none.
        other_suffixes: those of other companions that are needed to expand it.
        input_suffixes: those of companions about a layer's inputs, in all spellings, which expanding does not need.
        file_marker: the suffix of a tensor that says something about a file as a whole; empty if there is none.
        is_cast_to: whether ``cast`` may choose it, for which it has ``quantize``.
        writers: how files are written, by the words that choose it.
        file_end: the end of the names of such files.
        scaled_on: the types of device on which its layers multiply without expanding their weight, if those can and
            nobody chooses others.
        operation: the operation of torch by which they do so on every card that has it; None if only others have one.
        rate: the rate of a machine that such products have.
    """

    name: ClassVar[str]
    reads: ClassVar[str]
    markers: ClassVar[Collection[str]] = ()
    scale_suffixes: ClassVar[tuple[str, ...]] = ()
    other_suffixes: ClassVar[tuple[str, ...]] = ()
    input_suffixes: ClassVar[tuple[str, ...]] = ()
    file_marker: ClassVar[str] = ""
    is_cast_to: ClassVar[bool] = False
    writers: ClassVar[Mapping[str, Writer]] = {}
    file_end: ClassVar[str] = ".safetensors"
    scaled_on: ClassVar[Collection[str]] = ("cuda",)
    operation: ClassVar[Any] = None
    rate: ClassVar[str] = ""

    def stores(self, stored: StoredWeight) -> bool:
        """Return whether a weight is in this format, by its dtype, its companions and its marker."""
        raise NotImplementedError

    def matrix_shape(self, stored: StoredWeight) -> Shape:
        """Return the shape of the matrix that is stored, padding included."""
        return tuple(stored.weight.shape)

    def padded(self, shape: Shape) -> Shape:
        """Return the shape that a matrix of ``shape`` has with the padding of this format."""
        return shape

    def find_problem(self, stored: StoredWeight) -> str:
        """Name what cannot be read of a weight that is in this format; empty if all can."""
        return ""

    def dequantize(
        self, stored: StoredWeight, shape: Shape, dtype: torch.dtype, expand_rows: "ExpandRows | None" = None
    ) -> Tensor:
        """Return the numbers that a weight stands for, without padding; computed in float32, in pieces, and rounded
        once.

        Args:
            stored: the weight.
            shape: of the matrix, (out, in).
            dtype: of the result.
            expand_rows: another function in place of this format's own.
        """
        expand_rows = expand_rows or self.expand_rows
        rows = max(1, _NUMBERS // max(1, shape[1]) // _TILE) * _TILE
        if shape[0] <= rows:
            return expand_rows(stored, shape, 0, shape[0]).to(dtype)
        result = torch.empty(shape, dtype=dtype, device=stored.weight.device)
        for start in range(0, shape[0], rows):
            stop = min(start + rows, shape[0])
            result[start:stop] = expand_rows(stored, shape, start, stop)
        return result

    def expand_rows(self, stored: StoredWeight, shape: Shape, start: int, stop: int) -> Tensor:
        """Return the rows ``start`` to ``stop`` of the matrix in float32, a new tensor; ``start`` is a multiple of
        128."""
        raise NotImplementedError

    def expand_picked(self, stored: StoredWeight, shape: Shape, rows: Tensor) -> Tensor:
        """Return some rows of the matrix in float32, (n, in); nothing else of it is expanded.

        As it stands here, a companion has an entry for each row, or holds for all of them.

        Args:
            stored: the weight.
            shape: of the matrix, (out, in).
            rows: their numbers, (n,).
        """
        count = len(stored.weight)
        companions = {
            suffix: pick(each, rows) if each.ndim and len(each) == count > 1 else each
            for suffix, each in stored.companions.items()
        }
        picked = replace(stored, weight=pick(stored.weight, rows), companions=companions)
        return self.expand_rows(picked, (len(rows), shape[1]), 0, len(rows))

    def used_scales(self, stored: StoredWeight, suffix: str, shape: Shape) -> Tensor | None:
        """Return the numbers of a scale that a matrix of ``shape`` needs, without padding; None if there are none."""
        scale = stored.companions.get(suffix)
        return scale if scale is not None and scale.is_floating_point() else None

    def quantize(self, weight: Tensor) -> dict[str, Tensor]:
        """Return a plain matrix (out, in) in this format: "weight" and its companions, by suffix.

        Asked only of formats that weights are cast to (``is_cast_to``).
        """
        raise NotImplementedError

    def outline(self, shape: Shape) -> dict[str, Tensor]:
        """Return what a matrix of ``shape`` becomes in this format, by suffix, on the meta device."""
        return self.quantize(torch.empty(shape, device="meta"))

    def make_linear(self, linear: nn.Linear, stored: StoredWeight) -> QuantizedLinear:
        """Return the layer in place of ``linear``, filled with the stored tensors that ``kept_companions`` names."""
        return QuantizedLinear(self, tuple(linear.weight.shape), self.kept_companions(stored), linear.bias)

    def kept_companions(self, stored: StoredWeight) -> StoredWeight:
        """Return a weight with those companions alone that a layer holds."""
        wanted = self.scale_suffixes + self.other_suffixes
        companions = {suffix: tensor for suffix, tensor in stored.companions.items() if suffix in wanted}
        return replace(stored, companions=companions)

    def is_large_enough(self, shape: Shape, device: torch.device) -> bool:
        """Return whether a matrix of ``shape`` is worth a product of its own on ``device``."""
        return True

    def multiplies(self, device: torch.device, dtype: torch.dtype) -> bool:
        """Return whether ``device`` multiplies inputs of ``dtype`` in this format; asked of the device once."""
        return False

    def find_product(self, layer: QuantizedLinear, dtype: torch.dtype) -> Callable[[Tensor], Tensor] | None:
        """Return the product of a layer in this format, for inputs of ``dtype``; None if its weight is expanded."""
        return None

    def find_gelu_product(self, layer: QuantizedLinear, dtype: torch.dtype) -> Callable[[Tensor], Tensor] | None:
        """Return the product of a layer that makes the GELU of its input itself; None if there is none."""
        return None

    def float8_input(self, layer: QuantizedLinear, dtype: torch.dtype) -> tuple[str, Tensor | None] | None:
        """Return how the product of a layer takes inputs of ``dtype`` in float8, as ``QuantizedLinear`` does."""
        return None

    def wants_exact_products(self, shape: Shape) -> bool:
        """Return whether a file marker of ``shape`` asks that inputs of layers are not rounded."""
        return False

    def scaled_product(self, matrix: Tensor) -> Callable[[], Tensor] | None:
        """Return the product of a square matrix with itself in this format, to time a device; None if it has none."""
        return None
