"""Weights of half a byte: numbers of four bits, a float8 scale for every 16 of them, and one for all (see README.md,
"nvfp4")."""

from dataclasses import replace
from types import ModuleType

import torch
from torch import Tensor
from torch.nn.functional import pad

from .block_scales import count_scales, round_up, scales_of_picked, scales_of_rows, tile_scales
from .kitchen import KitchenFormat
from .nibbles import as_e4m3, look_up, pack, unpack, unpacked_shape
from .stored import Shape, StoredWeight, Writer, marker_of

_BLOCK = 16  # columns with one scale; rows and columns are padded to as many, too
_LARGEST = 6 * 448  # number that a block of largest scale holds
_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_OF_ALL = "weight_scale_2", "weight_global_scale"  # the scale of all; its reciprocal, with the first number lower
_TABLE = (*_VALUES, *(-value for value in _VALUES))  # the fourth bit is the sign


# Between two neighbours of _VALUES, those to which a number exactly in the middle is rounded up: to the even code.
_MIDDLES = tuple((low + high) / 2 for low, high in zip(_VALUES, _VALUES[1:]))
_UP = _MIDDLES[1::2]


def _encode(rows: Tensor, largest: Tensor) -> dict[str, Tensor]:
    """Rows in blocks, whose scale makes their largest number a 6; that of all makes the largest scale 448."""
    rows = pad(rows, (0, -rows.shape[1] % _BLOCK, 0, -rows.shape[0] % _BLOCK))
    of_all = (largest / (_VALUES[-1] * torch.finfo(torch.float8_e4m3fn).max)).clamp(min=torch.finfo(torch.float32).tiny)
    blocks = rows.unflatten(1, (-1, _BLOCK))
    scales = torch.linalg.vector_norm(blocks, torch.inf, dim=2) / _VALUES[-1] / of_all
    # Of a matrix of zeros they are 1: readers, this one among them, take scales that are all zero for damaged ones.
    scales = (scales + (largest == 0)).clamp(max=torch.finfo(torch.float8_e4m3fn).max).to(torch.float8_e4m3fn)
    steps = (scales.float() * of_all).unsqueeze(2)
    codes = _nearest(torch.where(steps > 0, blocks / steps, 0).flatten(1))
    return {
        "weight": pack(codes, high_first=True),
        "weight_scale": tile_scales(scales.view(torch.uint8)).view(torch.float8_e4m3fn),
        "weight_scale_2": of_all,
        "comfy_quant": marker_of(format="nvfp4"),
    }


def _nearest(numbers: Tensor) -> Tensor:
    """The codes of the nearest values, uint8; of two that are as near, the even one."""
    size = numbers.abs()
    codes = torch.zeros_like(size, dtype=torch.uint8)
    for middle in _MIDDLES:
        codes += size >= middle if middle in _UP else size > middle
    return codes | torch.signbit(numbers).to(torch.uint8) << 3


_WRITERS = {"nvfp4": Writer(_encode)}


class Nvfp4Format(KitchenFormat):
    """The row of nvfp4 in the table of formats, as the official files and ComfyUI have it."""

    name = "nvfp4"
    reads = "nvfp4"
    markers = ("nvfp4",)
    scale_suffixes = ("weight_scale", *_OF_ALL)
    other_suffixes = ("pre_quant_scale",)
    input_suffixes = ("input_scale", "input_absmax")
    tolerance = 0.2
    writers = _WRITERS

    def stores(self, stored: StoredWeight) -> bool:
        """Return whether a weight is bytes with both scales."""
        has_scales = "weight_scale" in stored.companions and stored.companion(*_OF_ALL) is not None
        return stored.weight.dtype == torch.uint8 and has_scales

    def matrix_shape(self, stored: StoredWeight) -> Shape:
        """Return the shape of the matrix, of which two columns share a byte, with its padding."""
        return unpacked_shape(stored.weight)

    def padded(self, shape: Shape) -> Shape:
        """Return ``shape`` with both sides rounded up to whole blocks."""
        return tuple(round_up(side, _BLOCK) for side in shape)

    def find_problem(self, stored: StoredWeight) -> str:
        """Name scales that do not fit the weight."""
        shape = self.matrix_shape(stored)
        scale, of_all = stored.companions["weight_scale"], stored.companion(*_OF_ALL)
        assert of_all is not None
        smooth = stored.companions.get("pre_quant_scale")
        if len(shape) != 2 or shape[1] % _BLOCK:
            return f"nvfp4 of shape {shape}, which has no whole blocks of {_BLOCK} columns"
        if scale.dtype not in (torch.float8_e4m3fn, torch.uint8) or scale.numel() != count_scales(
            shape[0], shape[1] // _BLOCK
        ):
            kind = str(scale.dtype).removeprefix("torch.")
            return f"nvfp4 of shape {shape} with {kind} scales of shape {tuple(scale.shape)}"
        if of_all.numel() != 1 or not of_all.is_floating_point() or (smooth is not None and smooth.ndim != 1):
            name = next(suffix for suffix in _OF_ALL if suffix in stored.companions)
            return f"nvfp4 with a {name} of shape {tuple(of_all.shape)}"
        return ""

    def kept_companions(self, stored: StoredWeight) -> StoredWeight:
        """Return a weight with those companions alone that a layer holds, scales of blocks as what they are."""
        kept = super().kept_companions(stored)
        companions = {**kept.companions, "weight_scale": as_e4m3(kept.companions["weight_scale"])}
        return replace(kept, companions=companions)

    def expand_rows(self, stored: StoredWeight, shape: Shape, start: int, stop: int) -> Tensor:
        """Return rows of the matrix in float32."""
        scales = scales_of_rows(as_e4m3(stored.companions["weight_scale"]), _blocks(stored), start, stop)
        return _expand(stored, stored.weight[start:stop], scales, shape[1])

    def expand_picked(self, stored: StoredWeight, shape: Shape, rows: Tensor) -> Tensor:
        """Return some rows of the matrix in float32."""
        scales = scales_of_picked(as_e4m3(stored.companions["weight_scale"]), _blocks(stored), rows)
        return _expand(stored, stored.weight[rows], scales, shape[1])

    def used_scales(self, stored: StoredWeight, suffix: str, shape: Shape) -> Tensor | None:
        """Return the numbers of a scale that a matrix of ``shape`` needs: not those that only fill up tiles."""
        scale = stored.companions[suffix]
        if suffix != "weight_scale":
            return scale
        return scales_of_rows(as_e4m3(scale), _blocks(stored), 0, shape[0])[:, : round_up(shape[1], _BLOCK) // _BLOCK]

    def outline(self, shape: Shape) -> dict[str, Tensor]:
        """Return what a matrix of ``shape`` becomes in this format, by suffix, on the meta device."""
        rows, columns = self.padded(shape)
        scales = torch.empty(count_scales(rows, columns // _BLOCK), dtype=torch.float8_e4m3fn, device="meta")
        weight = torch.empty(rows, columns // 2, dtype=torch.uint8, device="meta")
        return {"weight": weight, "weight_scale": scales, "weight_scale_2": torch.empty((), device="meta")}

    def round_input(self, library: ModuleType, x: Tensor, stored: StoredWeight) -> tuple[Tensor, ...]:
        """Round x to nvfp4, with the scale of all that its largest number asks for."""
        of_all = _scale_of_all(x)
        return (of_all, *library.quantize_nvfp4(x, of_all))

    def count_rounding(self, x: Tensor) -> Tensor:
        """Stand in for ``round_input`` on the meta device: x (tokens, in) is read twice, a byte written for a pair."""
        _scale_of_all(x)
        pairs = torch.float32 if x.itemsize == 2 else torch.float64
        return x.view(pairs).to(torch.float8_e4m3fn)

    def multiply(
        self, library: ModuleType, rounded: tuple[Tensor, ...], stored: StoredWeight, bias: Tensor | None, like: Tensor
    ) -> Tensor:
        """Multiply nvfp4 by nvfp4."""
        of_all, numbers, scales = rounded
        own = as_e4m3(stored.companions["weight_scale"]).reshape(-1, round_up(_blocks(stored), 4))
        of_weight = stored.companions["weight_scale_2"].float().reshape(())
        return library.scaled_mm_nvfp4(numbers, stored.weight, of_all, of_weight, scales, own, bias, like.dtype)

    def make_sample(self, shape: Shape) -> StoredWeight:
        """Return a weight of ``shape`` with scales of several sizes."""
        draw = torch.Generator().manual_seed(1)
        weight = torch.randint(0, 256, (shape[0], shape[1] // 2), generator=draw).byte()
        scales = torch.randint(4, 9, (count_scales(shape[0], shape[1] // _BLOCK),), generator=draw)
        companions = {"weight_scale": scales.to(torch.float8_e4m3fn), "weight_scale_2": torch.tensor(2e-3)}
        return StoredWeight("weight", weight, companions)

    def can_multiply(self, stored: StoredWeight, shape: Shape) -> bool:
        """Return whether a weight is without padding, in the usual order, and its inputs need no scales of columns."""
        usual = "weight_scale_2" in stored.companions and "pre_quant_scale" not in stored.companions
        return usual and super().can_multiply(stored, shape)


def _scale_of_all(x: Tensor) -> Tensor:
    """The scale that the largest number of x asks for, ()."""
    largest = torch.linalg.vector_norm(x, torch.inf, dtype=torch.float32)
    return (largest / _LARGEST).clamp(min=torch.finfo(torch.float32).tiny)


def _blocks(stored: StoredWeight) -> int:
    """How many blocks a row has, padding included."""
    return 2 * stored.weight.shape[1] // _BLOCK


def _expand(stored: StoredWeight, packed: Tensor, scales: Tensor, columns: int) -> Tensor:
    """Rows in float32, of their bytes and the scales of their blocks."""
    of_all = stored.companions.get("weight_scale_2")
    numbers = look_up(unpack(packed, high_first=of_all is not None), _TABLE).unflatten(1, (-1, _BLOCK))
    if of_all is None:
        scales = scales.float() / stored.companions["weight_global_scale"].float().reshape(())
    else:
        scales = scales.float() * of_all.float().reshape(())
    numbers = numbers.mul_(scales[..., None]).flatten(1)[:, :columns]
    smooth = stored.companions.get("pre_quant_scale")
    return numbers if smooth is None else numbers * smooth.float()[:columns]


NVFP4 = Nvfp4Format()
