"""The second stage: how large is the first, what enlarges it, and in which tiles is it refined?"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import prod
from pathlib import Path

from .checkpoint import Models
from .checkpoint.upscaler import UpscalerFile, video_statistics
from .geometry import SPACE_SCALE, ClipShape, nearest_size
from .latents import AVLatent
from .lora import Lora, Stack, Strengths
from .memory import stages
from .memory.machine import Machine
from .memory.plan import place, refusal
from .memory.stages import PASSES, Blueprint, Extent, Need
from .run import Run
from .sampling import SAMPLERS, Refine, Tiles, passes_needed
from .upscaler import upscale

# Tokens of a tile that is chosen here. They are those of 10 s in 1080p; in larger ones, attention costs more time than
# the overlaps of smaller ones.
MOST = 2**16
_FEWEST = 256


@dataclass(frozen=True)
class SecondStage:
    """What is done to a finished latent: enlarged by each upscaler in turn, then refined."""

    upscalers: tuple[UpscalerFile, ...] = ()
    refine: bool = True
    tiles: Tiles | None = None  # None: as few as the memory allows
    lora: Lora | None = None  # the distilled LoRA, which the recipes of dev models ask for

    def first(self, width: int, height: int, frames: int, fps: Fraction) -> ClipShape:
        """The clip of the first stage, if ``width`` and ``height`` are to come out; it has that length and rate.

        Raises ValueError for sizes that nothing becomes.
        """
        space = prod((file.config.space for file in self.upscalers), start=Fraction(1))
        step = SPACE_SCALE * space.numerator
        for name, value in (("width", width), ("height", height)):
            if space != 1 and value % step:
                raise ValueError(
                    f"{name} is {value}; what is enlarged by {float(space):g} must be a multiple of {step}, for "
                    f"example {nearest_size(value, step)}."
                )
        return ClipShape(int(width / space), int(height / space), frames, fps)

    def last(self, clip: ClipShape) -> ClipShape:
        """What becomes of the clip of the first stage."""
        for file in self.upscalers:
            clip = file.config.upscaled_shape(clip)
        return clip

    def with_lora(self, loras: Stack, strength: float) -> Stack:
        """``loras``, and the distilled LoRA of this strength; it was made for the transformer alone."""
        if self.lora is None or not strength:
            return loras
        return (*loras, (self.lora, Strengths(strength, text=0)))


def find_distilled_lora(models: Models) -> Path:
    """The distilled LoRA of these models, found by its official name beside their transformer or in a folder next to
    it. Raises FileNotFoundError where there is none."""
    name = f"ltx-{models.version.removesuffix('.0')}-*-distilled-lora-*.safetensors"
    folder = models.source("transformer").file.path.parent
    found = [path for each in (".", "../loras") for path in sorted((folder / each).glob(name))]
    if not found:
        raise FileNotFoundError(
            f"The second stage of a dev model needs the distilled LoRA, and there is no {name} in {folder}; give its "
            "file with --distilled-lora."
        )
    return found[-1]


def enlarged(run: Run, latent: AVLatent, fps: Fraction, upscalers: Sequence[UpscalerFile]) -> AVLatent:
    """The latent after all ``upscalers``."""
    for file in upscalers:
        with run.use(file, stage=f"upscaling {file.config.enlarges}") as (upscaler,):
            latent, fps = upscale(upscaler, latent, fps, video_statistics(run.models).to(run.device))
            del upscaler
    return latent


def foresee(
    run: Run, second: SecondStage, clip: ClipShape, sampled: Extent, recipe: Refine
) -> tuple[Tiles | None, list[Need]]:
    """The tiles to refine in, and what is needed after ``clip`` was sampled; ``sampled`` is what is refined."""
    if sampled.video is None and (second.refine or second.upscalers):
        raise ValueError("Sound alone has no second stage: leave out the upscalers, and do not refine.")
    needs = []
    for file in second.upscalers:
        needs.append(stages.upscaling(file.config, run.dtype, Extent.of_clip(clip)))
        clip = file.config.upscaled_shape(clip)
    if not second.refine:
        return None, needs
    tiles, budget = second.tiles, run.residency.budget
    passes = tuple(passes_needed((recipe.video, recipe.audio), sampled.audio is not None))
    if tiles is None and budget is None:
        tiles = Tiles.within(clip.video_latent, MOST)
    elif tiles is None and budget is not None:
        tiles = tiles_for(run.blueprint, sampled, run.residency.machine, budget, run.residency.ram, passes=passes)
    assert tiles is not None
    steps = (len(recipe.sigmas) - 1) * SAMPLERS[recipe.sampler].calls
    return tiles, [*needs, refining(run.blueprint, sampled, tiles, passes, steps)]


def refining(
    blueprint: Blueprint,
    extent: Extent,
    tiles: Tiles,
    passes: tuple[str, ...] = PASSES[:1],
    steps: int = 3,
    hears: bool = True,
) -> Need:
    """What refining in ``tiles`` needs; ``hears`` if sound is made, too."""
    assert extent.video is not None
    count = tiles.count
    sweeps = count + int(count > 1 and hears and extent.audio is not None)
    return stages.refining(blueprint, extent, tiles.largest(extent.video), sweeps, passes, steps)


def tiles_for(
    blueprint: Blueprint,
    extent: Extent,
    machine: Machine,
    budget: int,
    ram: int = 0,
    *,
    passes: tuple[str, ...] = PASSES[:1],
    overlap: Sequence[int] = Tiles.overlap,
    local: bool = False,
) -> Tiles:
    """As few tiles as fit ``budget``, of at most ``MOST`` tokens. Raises ValueError if none do."""
    assert extent.video is not None
    most = MOST
    while True:
        tiles = Tiles.within(extent.video, most, overlap, local)
        need = refining(blueprint, extent, tiles, passes)
        if place(need, machine, budget, ram) is not None:
            return tiles
        most = 3 * most // 4
        if most < _FEWEST:
            raise ValueError(refusal(need, budget))
