"""What the step cache leaves out, and what it changes at equal seed, on the miniature: python -m benchmarks.step_cache

Four prompts by its own recipe, whole and with each limit. An error is the norm of the difference of two latents beside
that of the whole one; CPU seconds are those of the whole job.
"""

import argparse
import time
from statistics import mean
from typing import Any

import torch
from torch import Tensor

import ltx2_core as ltx2

from .markdown import markdown

PROMPTS = (
    "a red ball bounces twice on the left",
    "a blue ball bounces once in the middle",
    "a green ball bounces once on the right",
    "a red ball bounces once on the right",
)
LIMITS = (0.05, 0.1, 0.2)
COLUMNS = ("steps", "step_cache", "error of the picture", "error of the sound", "CPU time beside whole clips")


def main(arguments: list[str] | None = None) -> str:
    """Print the table, and return it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=lambda text: [*map(int, text.split(","))], default=[20, 40])
    parser.add_argument("--prompts", type=int, default=len(PROMPTS), help="how many of them")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    models, rows = ltx2.open_models("miniature"), list[list[str]]()
    for steps in options.steps:
        whole, usual = latents(models, options.prompts, steps=steps)
        for limit in LIMITS:
            made, spent = latents(models, options.prompts, steps=steps, step_cache=limit)
            errors = [[error(a, b) for a, b in zip(*pair)] for pair in zip(made, whole)]
            picture, sound = (f"{mean(each):.2f} (at most {max(each):.2f})" for each in zip(*errors))
            rows.append([str(steps), f"{limit:g}", picture, sound, f"{spent / usual:.2f}"])
    print(table := markdown(COLUMNS, rows))
    return table


def latents(models: ltx2.Models, count: int, **settings: Any) -> tuple[list[tuple[Tensor, Tensor]], float]:
    """Return the latents of picture and sound of so many prompts, and the CPU seconds that they took."""
    start, made = time.process_time(), list[tuple[Tensor, Tensor]]()
    for prompt in PROMPTS[:count]:
        latent = ltx2.generate(models, prompt, seed=3, cache=None, **settings).latent
        assert latent.video is not None and latent.audio is not None
        made.append((latent.video, latent.audio))
    return made, time.process_time() - start


def error(made: Tensor, whole: Tensor) -> float:
    """Return the norm of the difference, as a share of that of the whole one."""
    return float((made - whole).norm() / whole.norm())


if __name__ == "__main__":
    main()
