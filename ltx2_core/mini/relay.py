"""Does a prompt hold in its part of the time? python -m ltx2_core.mini.relay

Makes clips of two captions each, of which the second begins in the middle of the clip and names another colour
(``text/relay.py``), and looks which colour the ball has in the frames before and behind the transition. Needs scipy.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..text import Contexts, relay_prompts
from . import measure, world
from .evaluate import HELD_OUT, Miniature, Setting

HALF = world.FRAMES / world.FPS / 2  # seconds
TRANSITION = 0.2


@dataclass(frozen=True)
class Pair:
    """Two colours, and the captions that name them."""

    colours: tuple[str, str]
    captions: tuple[str, str]


def pairs(count: int, seed: int = HELD_OUT) -> list[Pair]:
    """Return ``count`` pairs that differ in colour alone, all orders of two colours equally often."""
    rng = np.random.default_rng(seed)
    every = [(a, b) for a in world.COLOURS for b in world.COLOURS if a != b]
    found = []
    for number in rng.permutation(count):
        first, then = every[number % len(every)]
        caption = world.caption(world.sample_scene(rng, first), rng)
        found.append(Pair((first, then), (caption, caption.replace(first, then))))
    return found


def shares_right(clips: Sequence[np.ndarray], wanted: Sequence[Pair]) -> dict[str, float]:
    """Return in which share of ``clips`` (F, H, W, 3) the colour is right before, behind, and in both parts."""
    rows = []
    for pictures, pair in zip(clips, wanted):
        times = (np.arange(len(pictures)) + 0.5) / world.FPS
        parts = pictures[times < HALF - TRANSITION / 2], pictures[times > HALF + TRANSITION / 2]
        rows.append([measure.look(part).colour == colour for part, colour in zip(parts, pair.colours)])
    right = np.array(rows)
    first, then = right.mean(0)
    return {"first": float(first), "then": float(then), "both": float(right.all(1).mean())}


def relayed(miniature: Miniature, wanted: Sequence[Pair]) -> tuple[list[Contexts], Contexts]:
    """Return what the transformer reads of each pair, and of no prompt."""
    *contexts, negative = miniature.contexts([*(text for pair in wanted for text in pair.captions), ""])
    halves = zip(contexts[::2], contexts[1::2])
    return [relay_prompts(both, (0.0, HALF), TRANSITION) for both in halves], negative


@torch.inference_mode()
def evaluate(miniature: Miniature, wanted: Sequence[Pair], setting: Setting) -> dict[str, float]:
    """Make a clip of each pair, and return the shares of right colours."""
    contexts, negative = relayed(miniature, wanted)
    clips = [pictures for pictures, _ in miniature.clips(contexts, negative, setting, HELD_OUT)]
    return shares_right(clips, wanted)


def main() -> None:
    """Print how often colours are right in their time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--text-scale", type=float, default=3.0)
    parser.add_argument("--steps", type=int, default=30)
    options = parser.parse_args()
    setting = Setting(options.text_scale, 1.0, steps=options.steps)
    print(setting, evaluate(Miniature(), pairs(options.prompts), setting))


if __name__ == "__main__":
    main()
