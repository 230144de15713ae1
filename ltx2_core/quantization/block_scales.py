"""Scales of blocks of 16 or 32 columns, in the order in which cards read them (see README.md, "Scales of blocks").

Source: the layout of block scaling factors in the documentation of cuBLAS.
"""

from torch import Tensor
from torch.nn.functional import pad

from .stored import pick

_ROWS, _COLUMNS = 128, 4  # of a tile, in which scales lie together
_LANES = 32


def round_up(number: int, step: int) -> int:
    """Return the smallest multiple of ``step`` that is not less than ``number``."""
    return -(-number // step) * step


def count_scales(rows: int, blocks: int) -> int:
    """Return how many scales are stored for a matrix of so many rows and blocks in a row, whole tiles of them."""
    return round_up(rows, _ROWS) * round_up(blocks, _COLUMNS)


def scales_of_picked(scales: Tensor, blocks: int, rows: Tensor) -> Tensor:
    """Return the scales of rows with these numbers, (len(rows), blocks); arguments as for ``scales_of_rows``."""
    some = pick(_tiles(scales, blocks), rows // _ROWS, slice(None), rows % _LANES, rows % _ROWS // _LANES)
    return some.flatten(1)[:, :blocks]


def scales_of_rows(scales: Tensor, blocks: int, start: int, stop: int) -> Tensor:
    """Return the scales of rows ``start`` to ``stop`` in the order of rows and blocks, (stop - start, blocks).

    Args:
        scales: as stored, of whole tiles; the shape does not matter.
        blocks: in a row.
        start: the first row, a multiple of 128.
        stop: the row behind the last.
    """
    some = _tiles(scales, blocks)[start // _ROWS : round_up(stop, _ROWS) // _ROWS]
    return some.permute(0, 3, 2, 1, 4).flatten(3, 4).flatten(0, 2)[: stop - start, :blocks]


def _tiles(scales: Tensor, blocks: int) -> Tensor:
    """The tiles: (tiles of rows, tiles of columns, 32, 4, 4)."""
    return scales.reshape(-1, round_up(blocks, _COLUMNS) // _COLUMNS, _LANES, _ROWS // _LANES, _COLUMNS)


def tile_scales(scales: Tensor) -> Tensor:
    """Return scales (rows, blocks), one byte each, as they are stored: whole tiles, both sides rounded up.

    The inverse of ``scales_of_rows``.
    """
    rows, blocks = (round_up(side, step) for side, step in zip(scales.shape, (_ROWS, _COLUMNS)))
    whole = pad(scales, (0, blocks - scales.shape[1], 0, rows - scales.shape[0]))
    tiles = whole.view(rows // _ROWS, _ROWS // _LANES, _LANES, blocks // _COLUMNS, _COLUMNS)
    return tiles.permute(0, 3, 2, 1, 4).reshape(rows, blocks)
