"""Weights of half a byte: numbers of four bits, a float8 scale for every 16 of them, and one for all (see README.md,
"nvfp4")."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from .block_scales import count_scales, round_up, scales_of_rows, tile_scales
from .nibbles import look_up, pack, unpack
from .stored import Format, Shape, StoredWeight, Writer, marker_of

_BLOCK = 16  # columns with one scale; rows and columns are padded to as many, too
_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
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
    scales = scales.clamp(max=torch.finfo(torch.float8_e4m3fn).max).to(torch.float8_e4m3fn)
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


class Nvfp4Format(Format):
    """The row of nvfp4 in the table of formats, as the official files and ComfyUI have it."""

    name = "nvfp4"
    reads = "nvfp4"
    markers = ("nvfp4",)
    scale_suffixes = ("weight_scale", "weight_scale_2")
    other_suffixes = ("pre_quant_scale",)
    input_suffixes = ("input_scale",)
    writers = _WRITERS

    def stores(self, stored: StoredWeight) -> bool:
        """Return whether a weight is bytes with both scales."""
        return stored.weight.dtype == torch.uint8 and all(name in stored.companions for name in self.scale_suffixes)

    def matrix_shape(self, stored: StoredWeight) -> Shape:
        """Return the shape of the matrix, of which two columns share a byte, with its padding."""
        rows, *columns = stored.weight.shape
        return rows, *(2 * each for each in columns)

    def padded(self, shape: Shape) -> Shape:
        """Return ``shape`` with both sides rounded up to whole blocks."""
        return tuple(round_up(side, _BLOCK) for side in shape)

    def find_problem(self, stored: StoredWeight) -> str:
        """Name scales that do not fit the weight."""
        shape = self.matrix_shape(stored)
        scale, of_all = (stored.companions[suffix] for suffix in self.scale_suffixes)
        smooth = stored.companions.get("pre_quant_scale")
        if len(shape) != 2 or shape[1] % _BLOCK:
            return f"nvfp4 of shape {shape}, which has no whole blocks of {_BLOCK} columns"
        if scale.dtype not in (torch.float8_e4m3fn, torch.uint8) or scale.numel() != count_scales(
            shape[0], shape[1] // _BLOCK
        ):
            kind = str(scale.dtype).removeprefix("torch.")
            return f"nvfp4 of shape {shape} with {kind} scales of shape {tuple(scale.shape)}"
        if of_all.numel() != 1 or not of_all.is_floating_point() or (smooth is not None and smooth.ndim != 1):
            return f"nvfp4 with a weight_scale_2 of shape {tuple(of_all.shape)}"
        return ""

    def kept_companions(self, stored: StoredWeight) -> StoredWeight:
        """Return a weight with those companions alone that a layer holds, scales of blocks as what they are."""
        kept = super().kept_companions(stored)
        companions = {**kept.companions, "weight_scale": as_e4m3(kept.companions["weight_scale"])}
        return StoredWeight(kept.name, kept.weight, companions, kept.marker)

    def expand_rows(self, stored: StoredWeight, shape: Shape, start: int, stop: int) -> Tensor:
        """Return rows of the matrix in float32."""
        numbers = look_up(unpack(stored.weight[start:stop], high_first=True), _TABLE)
        blocks = numbers.shape[1] // _BLOCK
        scales = scales_of_rows(as_e4m3(stored.companions["weight_scale"]), blocks, start, stop).float()
        scales = scales * stored.companions["weight_scale_2"].float().reshape(())
        numbers = numbers.unflatten(1, (blocks, _BLOCK)).mul_(scales[..., None]).flatten(1)[:, : shape[1]]
        smooth = stored.companions.get("pre_quant_scale")
        return numbers if smooth is None else numbers * smooth.float()[: shape[1]]


def as_e4m3(scales: Tensor) -> Tensor:
    """Return bytes as the float8 that they are; whatever else arrives on a device stays."""
    return scales.view(torch.float8_e4m3fn) if scales.dtype == torch.uint8 else scales


NVFP4 = Nvfp4Format()
