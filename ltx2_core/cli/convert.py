"""Files written anew, in another format or with a lower rank: a line for each matrix, and what is worst."""

import argparse

import torch

from ..checkpoint.convert import Conversion, Layer, convert
from ..errors import counted, plain_text
from ..lora.shrink import Shrinking, ShrunkLayer, shrink_lora
from .inspect import shown_size

_WORST = 5  # that are named at the end
_ENERGY = 0.9  # of a LoRA, where nothing else is asked for


def run_convert(options: argparse.Namespace) -> None:
    """Write a transformer or a text encoder in another format, and print how far each matrix is off."""
    done = convert(
        options.source,
        options.target,
        options.format,
        options.keep,
        overwrite=options.overwrite,
        device=torch.device("cuda") if torch.cuda.is_available() else None,
        report=_print_layer,
    )
    print(plain_text(_summary(done, str(options.target))))


def _print_layer(layer: Layer) -> None:
    print(plain_text(_line(layer)), flush=True)


def _line(layer: Layer) -> str:
    shape = "x".join(map(str, layer.shape))
    return f"{layer.error:>8.3%}, worst row {layer.worst_row:>8.3%}  {layer.format:<6} {shape:>11}  {layer.name}"


def _summary(done: Conversion, target: str) -> str:
    """Sizes, how far matrices are off, and which of them most."""
    before, after = (shown_size([nbytes]) for nbytes in done.nbytes)
    lines = [f"{target}: {after}, it was {before}; {counted(done.changed, 'tensor')} changed."]
    if done.layers:
        ordered = sorted(done.layers, key=lambda layer: layer.error, reverse=True)
        lines.append(f"Weights are off by {ordered[len(ordered) // 2].error:.3%} (median). The worst:")
        lines += map(_line, ordered[:_WORST])
        row = max(done.layers, key=lambda layer: layer.worst_row)
        lines.append(f"The worst row of any matrix is off by {row.worst_row:.3%}, in {row.name}.")
    return "\n".join(lines)


def run_lora(options: argparse.Namespace) -> None:
    """Write a LoRA with lower ranks, and print what each layer loses."""
    done = shrink_lora(
        options.source,
        options.target,
        _energy(options),
        options.rank,
        overwrite=options.overwrite,
        report=lambda layer: print(plain_text(_shrunk_line(layer)), flush=True),
    )
    print(plain_text(_shrunk_summary(done, str(options.target))))


def _energy(options: argparse.Namespace) -> float:
    """What is said; without anything a rank alone is the limit, and without that the usual energy."""
    if options.energy is not None:
        return float(options.energy)
    return _ENERGY if options.rank is None else 1.0


def _shrunk_line(layer: ShrunkLayer) -> str:
    return f"{layer.error:>8.2%} lost, rank {layer.rank[0]:>4} -> {layer.rank[1]:>4}  {layer.name}"


def _shrunk_summary(done: Shrinking, target: str) -> str:
    before, after = (shown_size([nbytes]) for nbytes in done.nbytes)
    ranks = sorted(layer.rank[1] for layer in done.layers)
    lines = [
        f"{target}: {after}, it was {before}; ranks from {ranks[0]} to {ranks[-1]}, {ranks[len(ranks) // 2]} in the "
        "middle.",
        f"Of all changes together {done.error:.2%} is lost, as norms count. The worst:",
    ]
    worst = sorted(done.layers, key=lambda layer: layer.error, reverse=True)[:_WORST]
    return "\n".join([*lines, *map(_shrunk_line, worst)])
