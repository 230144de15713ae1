"""Rotations of a weight's rows or columns, in blocks: what OFT and BOFT do (see README.md, "Forms").

A ``..._shape`` function takes the shapes of the parts of a form. A ``rotate_...`` function takes a weight (out, in),
the parts and the facts of the form, and returns the change at strength 1, (out, in): what rotating adds to the weight.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]  # of the parts of a form
WeightShape = tuple[int | None, ...]  # None for a side that the parts do not say; () if they do not go together
Parts = Mapping[str, Tensor]
Facts = Mapping[str, Any]  # what a form must know beside its tensors (parse.py), PEFT's settings among it

_TERMS = 5  # of the series, where nothing says how many


def outputs_shape(shapes: Shapes) -> WeightShape:
    """Return the shape of a weight whose rows are turned, at once or in stages."""
    stages, blocks, size, _ = (1, *shapes["oft_blocks"])[-4:]
    return (blocks * size, None) if _pairs(stages, blocks) else ()


def inputs_shape(shapes: Shapes) -> WeightShape:
    """Return the shape of a weight whose columns PEFT turns, all by the same block if there is one."""
    blocks, size = shapes["rotation"][0], block_size(shapes["rotation"])
    return (None, blocks * size if blocks > 1 else None) if size else ()


def staged_inputs_shape(shapes: Shapes) -> WeightShape:
    """Return the shape of a weight whose columns PEFT turns in stages."""
    stages, blocks, size, _ = shapes["boft_R"]
    return (math.prod(shapes["boft_s"]), blocks * size) if _pairs(stages, blocks) else ()


def _pairs(stages: int, blocks: int) -> bool:
    """Whether so many stages can each pair halves of so many blocks."""
    return 1 <= stages <= blocks.bit_length()


def rotate_outputs(weight: Tensor, parts: Parts, facts: Facts) -> Tensor:
    """Return what a rotation of the rows changes: OFT of LyCORIS and ComfyUI, one block after the other."""
    turns = _turns_of_outputs(weight, parts, facts)
    change = (turns.mT @ weight.unflatten(0, turns.shape[:2])).flatten(0, 1)
    return _rescale(weight, change, parts.get("rescale"))


def rotate_outputs_in_stages(weight: Tensor, parts: Parts, facts: Facts) -> Tensor:
    """Return what a rotation of the rows in stages changes: BOFT of LyCORIS."""
    turns = _turns_of_outputs(weight, parts, facts)
    return _rescale(weight, _turn_in_stages(weight, turns, together=False) - weight, parts.get("rescale"))


def rotate_inputs(weight: Tensor, parts: Parts, facts: Facts) -> Tensor:
    """Return what a rotation of the columns changes: OFT of PEFT and OneTrainer; a single block is that of all."""
    turns = _turn_of_peft(_skew_of_peft(parts["rotation"], facts), facts)
    blocks = weight.unflatten(1, (-1, turns.shape[-1]))
    return torch.einsum("orc,rkc->ork", blocks, turns.expand(blocks.shape[1], -1, -1)).flatten(1)


def rotate_inputs_in_stages(weight: Tensor, parts: Parts, facts: Facts) -> Tensor:
    """Return what a rotation of the columns in stages changes: BOFT of PEFT."""
    turns = _turn(_skew(parts["boft_R"]) / -2)
    return _rescale(weight, _turn_in_stages(weight.T, turns, together=True).T - weight, parts["boft_s"])


def block_size(entries: Shape) -> int:
    """Return how large blocks are of which PEFT keeps the numbers above the diagonal (blocks, numbers); 0 if none."""
    numbers = entries[1] if len(entries) == 2 else 0
    size = (1 + math.isqrt(1 + 8 * numbers)) // 2
    return size if size * (size - 1) == 2 * numbers > 0 else 0


def _turns_of_outputs(weight: Tensor, parts: Parts, facts: Facts) -> Tensor:
    limit = facts["limit"] * (len(weight) if facts["for_each"] else 1)
    return _turn(_limit(_skew(parts["oft_blocks"]), limit))


def _skew(blocks: Tensor) -> Tensor:
    return blocks - blocks.mT


def _skew_of_peft(entries: Tensor, facts: Facts) -> Tensor:
    size = block_size(entries.shape)
    rows, columns = torch.triu_indices(size, size, 1, device=entries.device)
    upper = entries.new_zeros(len(entries), size, size)
    upper[:, rows, columns] = entries
    return _skew(upper / (2 * math.sqrt(size - 1) if facts["scaled"] else 1))


def _limit(skew: Tensor, limit: float, dims: tuple[int, ...] | None = None) -> Tensor:
    """``skew``, whose norm over ``dims`` is at most ``limit``; 0 is no limit."""
    if not limit > 0:
        return skew
    return skew * (limit / torch.linalg.vector_norm(skew, dim=dims, keepdim=True).clamp(min=limit))


def _turn(skew: Tensor) -> Tensor:
    """(I + Q)(I - Q)^-1 - I, Cayley's rotation without what stays; I - Q has an inverse for every skew Q."""
    one = torch.eye(skew.shape[-1], device=skew.device)
    return torch.linalg.solve_ex(one - skew, 2 * skew).result


def _turn_of_peft(skew: Tensor, facts: Facts) -> Tensor:
    """Cayley's rotation as PEFT's settings say: the other way round, or by the beginning of its series."""
    if facts.get("coft"):
        skew = _limit(skew, facts.get("eps", 6e-5) / math.sqrt(len(skew)), (1, 2))
    if not facts.get("use_cayley_neumann", True):
        return _turn(-skew)
    turn = skew  # 2 Q + 2 Q^2 + ... and the last power once
    for _ in range(max(2, facts.get("num_cayley_neumann_terms", _TERMS) - 2)):
        turn = 2 * skew + skew @ turn
    return turn


def _turn_in_stages(matrix: Tensor, turns: Tensor, together: bool) -> Tensor:
    """``matrix``, whose rows are turned in blocks, stage after stage (stages, blocks, size, size).

    A block takes half of its rows from each of two places, which are twice as far apart in each stage: alternating, or
    in PEFT runs of half a block that stay ``together``.
    """
    for stage, turn in enumerate(turns):
        size = turn.shape[-1]
        run = size // 2 if together else 1
        halves = matrix.unflatten(0, (-1, 2, size // 2 * 2**stage // run, run)).transpose(1, 2)
        blocks = halves.flatten(0, 3).unflatten(0, (-1, size))
        matrix = (blocks + turn @ blocks).reshape(halves.shape).transpose(1, 2).flatten(0, 3)
    return matrix


def _rescale(weight: Tensor, change: Tensor, lengths: Tensor | None) -> Tensor:
    """``change``, whose sum with ``weight`` becomes so many times as long."""
    return change if lengths is None else (weight + change) * lengths.reshape(-1, 1) - weight
