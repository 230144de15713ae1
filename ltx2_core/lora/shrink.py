"""A LoRA of a lower rank in every layer: of all such changes the nearest to its own (see README.md, "Shrinking")."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..checkpoint.files import TensorFile
from ..checkpoint.write import Piece, check_new, safetensors_layout, write_tensors
from ..errors import CheckpointError, SettingError
from ..errors.kinds import arguments_checked
from .parse import Delta, open_lora, read_lora

SHRUNK = "ltx2av_shrunk"  # of the header: bytes before, and the share of all changes that was lost, as JSON

_PEFT_SETTINGS = "lora_adapter_metadata"  # of the header, which name the rank that the file had


class ShrunkLayer(NamedTuple):
    """What became of one layer: its rank before and after, the norm of its change at strength 1, and the norm of what
    was lost over it."""

    name: str
    rank: tuple[int, int]
    norm: float
    error: float


@dataclass(frozen=True)
class Shrinking:
    """What was done to a file: every layer that is a product of two matrices, and bytes before and after."""

    layers: tuple[ShrunkLayer, ...]
    nbytes: tuple[int, int]

    @property
    def error(self) -> float:
        """The norm of all that was lost, over that of all changes."""
        return _error(self.layers)


@arguments_checked
def shrink_lora(
    source: str | Path,
    target: str | Path,
    energy: float = 1.0,
    rank: int | None = None,
    *,
    overwrite: bool = False,
    report: Callable[[ShrunkLayer], object] = lambda layer: None,
    on_layer: Callable[[int, int], object] = lambda done, total: None,
) -> Shrinking:
    """Write a LoRA anew whose layers have the lowest rank that keeps ``energy``, and at most ``rank``.

    Layers of other forms, names and metadata stay. Two layers are in memory at a time.

    Args:
        source: a LoRA of any trainer.
        target: the new file.
        energy: the share of the Frobenius norm of each layer's change that is kept, above 0 and up to 1.
        rank: the highest; None sets no limit.
        overwrite: whether a file may be there already.
        report: is told about each layer when it is written.
        on_layer: called with (done, total), twice for each layer; it may raise to interrupt.

    Raises:
        SettingError: an energy or a rank that cannot be, or a name of another kind of file.
        CheckpointError: the source is no LoRA, has nothing that could be shrunk, holds NaN, or has too large numbers.
        TargetExistsError: the new file is there already.
        UnreadableFileError: the disk has no room for it, or refuses.
    """
    source, target = Path(source), Path(target)
    _check_wish(energy, rank, target)
    check_new(target, source, overwrite)
    file = open_lora(source).file
    deltas = low_rank_layers(file)
    changed = {key for delta in deltas for key in delta.stored_keys}
    layers, planned = [], {key: file.outline(key) for key in file.entries if key not in changed}
    with torch.no_grad():
        for done, delta in enumerate(deltas, 1):
            layers.append(_plan_layer(delta, energy, rank))
            planned |= _shrunk_tensors(delta, layers[-1].rank[1], meta=True)
            on_layer(done, 2 * len(deltas))
        layout = safetensors_layout(planned, _metadata(file, layers))

        def pieces() -> Iterator[Piece]:
            yield from ((key, file.get(key)) for key in file.entries if key not in changed)
            for done, (delta, layer) in enumerate(zip(deltas, layers, strict=True), 1):
                made = _shrunk_tensors(delta, layer.rank[1])
                _check_fits(delta, made.values())
                yield from made.items()
                report(layer)
                on_layer(len(deltas) + done, 2 * len(deltas))

        write_tensors(target, layout, pieces())
    return Shrinking(tuple(layers), (file.nbytes, layout.size))


def low_rank_layers(file: TensorFile) -> list[Delta]:
    """Return the layers that are a product of two matrices, of whatever network; CheckpointError if there are none."""
    every = read_lora(file, lambda name: ("", name))
    deltas = [] if every is None else [delta for _, _, delta in every.layers if _has_factors(delta)]
    if not deltas:
        raise CheckpointError(
            f"{file.path.name} has no layer that is a product of two matrices: nothing can be shrunk. Take it as it is."
        )
    return deltas


def _has_factors(delta: Delta) -> bool:
    return delta.is_low_rank and bool(delta.shape) and 0 not in (*delta.shape, delta.rank)


def _metadata(file: TensorFile, layers: Sequence[ShrunkLayer]) -> dict[str, str]:
    """What the header says of the file, and from how many bytes it was shrunk, with which error."""
    kept = {name: text for name, text in file.metadata.items() if name != _PEFT_SETTINGS}
    return kept | {SHRUNK: json.dumps({"before": file.nbytes, "error": _error(layers)})}


def _error(layers: Sequence[ShrunkLayer]) -> float:
    norm = math.hypot(*(layer.norm for layer in layers))
    return math.hypot(*(layer.norm * layer.error for layer in layers)) / norm if norm else 0.0


def _check_wish(energy: float, rank: int | None, target: Path) -> None:
    if not 0 < energy <= 1:
        raise SettingError(f"energy is {energy}; it must be above 0 and at most 1, such as 0.9.")
    if rank is not None and rank < 1:
        raise SettingError(f"rank is {rank}; it must be at least 1.")
    if target.suffix.lower() != ".safetensors":
        raise SettingError(f"{target} is to be a LoRA, which .safetensors files hold; give it a name ending so.")


def _plan_layer(delta: Delta, energy: float, limit: int | None) -> ShrunkLayer:
    """Choose the rank of a layer by its singular values."""
    delta.check_numbers()
    up, down = _factors(delta)
    middle = _r(up) @ _r(down.T).T
    if not middle.isfinite().all():
        raise CheckpointError(
            f"{delta.file.path.name} has numbers in {delta.name} whose product is beyond all that a model computes "
            "with: it is damaged; download it again, or take another LoRA."
        )
    squares = torch.linalg.svdvals(middle).double().square()
    before, total = int(delta.rank or 0), squares.sum()
    kept = squares.cumsum(0)
    wanted = 1 + int((kept < energy**2 * total).sum()) if energy < 1 else before
    after = max(1, min(wanted, len(squares), limit or before))  # a product has no more directions than its sides
    lost = 0.0 if after >= len(squares) else (squares[after:].sum() / total.clamp(min=1e-300)).sqrt().item()
    return ShrunkLayer(delta.name, (before, after), abs(delta.scale) * total.sqrt().item(), lost)


def _shrunk_tensors(delta: Delta, rank: int, meta: bool = False) -> Mapping[str, Tensor]:
    """The tensors of a layer with another rank, by their names in the file; a rank that stays changes nothing.

    The scale of the layer is alpha / rank, so an alpha shrinks with the rank. A scale that PEFT's settings say, by the
    rank that the file had, goes into the numbers, and an alpha that is the rank says so.
    """
    keys = delta.keys
    if rank == delta.rank and not delta.settings and not delta.is_any_quantized:
        return {key: delta.file.outline(key) if meta else delta.file.get(key) for key in keys.values()}
    scale = 1.0 if "alpha" in keys else delta.scale
    alpha = delta.scale * rank if "alpha" in keys else float(rank)
    out, into = delta.file.shape(keys["up"])[0], delta.file.shape(keys["down"])[1]
    empty = torch.empty(out, rank, device="meta"), torch.empty(rank, into, device="meta")
    factors = dict(zip(("up", "down"), empty if meta else _nearest(delta, rank)))
    factors["up"] = factors["up"] * scale
    made = {keys[part]: factor.to(delta.dtype(part)) for part, factor in factors.items()}
    if "alpha" in keys or delta.settings:
        made[keys.get("alpha", f"{delta.name}.alpha")] = torch.tensor(alpha)
    return made


def _check_fits(delta: Delta, made: Iterable[Tensor]) -> None:
    """Raise CheckpointError if new numbers of a layer are beyond what the dtype of its old ones holds."""
    if not all(each.float().isfinite().all() for each in made):
        stored = str(delta.dtype("up")).removeprefix("torch.")
        raise CheckpointError(
            f"{delta.file.path.name} has such large numbers in {delta.name} that those of a lower rank do not fit into "
            f"the {stored} of the file: take it as it is, or save it as BF16 first."
        )


def _nearest(delta: Delta, rank: int) -> tuple[Tensor, Tensor]:
    """Factors (out, rank) and (rank, in) whose product is the nearest to that of the layer; the large matrix (out, in)
    is never made.

    With up = Q1 R1 and down' = Q2 R2 the product is Q1 (R1 R2') Q2', and its singular values are those of the small
    matrix in the middle (Eckart and Young 1936).
    """
    up, down = _factors(delta)
    (first, small_up), (second, small_down) = torch.linalg.qr(up), torch.linalg.qr(down.T)
    left, values, right = torch.linalg.svd(small_up @ small_down.T, full_matrices=False)
    roots = values[:rank].sqrt()
    return first @ (left[:, :rank] * roots), (roots[:, None] * right[:rank]) @ second.T


def _factors(delta: Delta) -> tuple[Tensor, Tensor]:
    return delta.tensor("up").float(), delta.tensor("down").float()


def _r(matrix: Tensor) -> Tensor:
    return torch.linalg.qr(matrix, mode="r").R
