"""The second stage: noise is added to an enlarged latent and taken away again, in tiles that fit the card."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from ..conditioning import AVState, LatentCondition
from ..errors import DoesNotFitError, counted
from ..geometry import SPACE_SCALE, VIDEO_CHANNELS, pixel_frames
from ..health import Seams, latent_findings
from ..latents import AVLatent
from ..lora import Stack
from ..memory.machine import Machine
from ..memory.placement import Room, StageNeed, explain_refusal, least_bytes
from ..sampling import Refine as RefineRecipe
from ..sampling import Tiles, TileSettings
from ..settings import SamplingSettings
from .engine import Engine
from .long import SampleInputs, Script, sampled_size
from .needs.blueprint import FLOAT32, Blueprint
from .needs.passes import latent_bytes, need_of_passes
from .needs.products import describe_products
from .sample import Sampling, hooks_of, sample
from .stage import NO_LOAD, TRANSFORMER, LatentSize, Load, Stage, need_of

# Tokens of a tile that is chosen here. They are those of 10 s in 1080p; in larger ones, attention costs more time than
# the overlaps of smaller ones.
MAX_TILE_TOKENS = 2**16
MIN_TILE_TOKENS = 256

KEPT = ("seed", "noise_order", "step_noise", "eta", "motion_speed")  # settings of the first stage that both have


@dataclass(frozen=True)
class Refine(Stage):
    """Refine a latent.

    Attributes:
        sampling: how; its ``tiles`` None takes as few as fit.
        size: of the whole latent.
        refines_sound: whether the sound is generated, too.
        whole: one tile, which is split until it fits where ``sampling`` names no tiles.
        loras: in place of those of the model.
    """

    sampling: Sampling
    size: LatentSize
    refines_sound: bool = True
    whole: Tiles = Tiles((1, 1, 1))
    loras: Stack | None = None
    name = "refining"
    networks = (TRANSFORMER,)

    @classmethod
    def of(
        cls,
        recipe: RefineRecipe,
        first: SamplingSettings,
        tiles: TileSettings | Tiles | None,
        state: AVState,
        loras: Stack | None = None,
        drawn: tuple[int, ...] = (),
    ) -> "Refine":
        """Lay out the second stage of a clip.

        Args:
            recipe: how it is sampled.
            first: how the first stage was: this one has its seed, and goes on with its random numbers.
            tiles: None, or settings without counts, for as few as fit.
            state: what is given, at the size of this stage.
            loras: in place of those of the model.
            drawn: sizes of the draws of random numbers in the stages before.

        Raises:
            SettingError: for more tiles than the latent has cells.
        """
        asked, size = tiles if isinstance(tiles, TileSettings) else TileSettings(), sampled_size(state, ())
        chosen = tiles if isinstance(tiles, Tiles) else asked.chosen()
        if chosen is not None and size.video is not None:
            chosen.spans(size.video)
        sampling = Sampling(
            tuple(recipe.sigmas),
            recipe.guidance,
            replace(SamplingSettings(), **{name: getattr(first, name) for name in KEPT}, sampler=recipe.sampler),
            chosen,
            asked.together,
            drawn,
        ).for_streams(state.free)
        return cls(sampling, size, "audio" in state.free, asked.whole, loras)

    @property
    def tiles(self) -> Tiles:
        """The tiles; of a stage that was fitted."""
        assert self.sampling.tiles is not None
        return self.sampling.tiles

    @property
    def tile(self) -> LatentSize:
        """The size of the largest tile; of a stage that was fitted."""
        assert self.size.video is not None
        return replace(self.size, video=self.tiles.largest(self.size.video))

    def fit(self, blueprint: Blueprint, room: Room, load: Load = NO_LOAD) -> "Refine":
        """Choose as few tiles as fit, of at most MAX_TILE_TOKENS tokens.

        Raises:
            DoesNotFitError: if none do.
        """
        assert self.size.video is not None
        if self.sampling.tiles is not None:
            return self
        tokens = MAX_TILE_TOKENS
        while True:
            tiles = self.whole.within(self.size.video, tokens)
            stage = replace(self, sampling=replace(self.sampling, tiles=tiles))
            if room.budget is None:
                return stage
            need = load(stage, need_of(stage, blueprint))
            if least_bytes(need) <= room.budget:
                return stage
            tokens = 3 * tokens // 4
            if tokens < MIN_TILE_TOKENS:
                raise DoesNotFitError(explain_refusal(need, room))

    def remarks(self, blueprint: Blueprint, machine: Machine) -> Sequence[str]:
        """Say in which formats it multiplies, and what it costs to expand others."""
        passes = self.sampling.passes_of(self.size)
        return describe_products(blueprint, need_of(self, blueprint), len(passes), machine)

    def need(self, blueprint: Blueprint) -> StageNeed:
        """Measure the work of one tile, beside the latents of the whole; of a stage that was fitted."""
        assert self.size.video is not None
        tiles, passes = self.tiles, self.sampling.passes_of(self.size)
        sweeps = tiles.count + (1 if tiles.count > 1 and self.refines_sound and self.size.audio is not None else 0)
        steps = self.sampling.steps * self.sampling.sampler.calls
        one = need_of_passes(blueprint, self.tile, passes, steps, name=self.name)
        if sweeps > 1:
            blended = len(passes) * FLOAT32 * self.size.batch * VIDEO_CHANNELS * math.prod(self.size.video)
            one = one.with_inputs(latent_bytes(blueprint, self.size, passes) + blended)
        return replace(one, runs=steps * sweeps)

    def describe(self, refined: AVLatent) -> list[str]:
        """Say in which tiles a latent was made, and whether they show; of a stage that was fitted."""
        assert self.size.video is not None and refined.video is not None
        tiles, size = self.tiles, self.size.video
        frames, height, width = tiles.largest(size)
        largest = f"{width * SPACE_SCALE} x {height * SPACE_SCALE} pixels and {counted(pixel_frames(frames), 'frame')}"
        if tiles.count == 1:
            return [f"In one piece of {largest}"]
        seams = Seams(*tiles.edges(size), beside=2)
        seams.see(refined.video.movedim(1, -1))
        counts = " x ".join(map(str, tiles.counts))
        return [
            f"{tiles.count} tiles (in time, down, across: {counts}), at most {largest}",
            f"Across their seams the latent changes {seams.measure():.2f} times as much as beside them",
            *map(str, seams.findings()),
        ]

    def run(
        self,
        engine: Engine,
        latent: AVLatent,
        fps: Fraction,
        script: Script,
        conditions: Sequence[LatentCondition] = (),
    ) -> AVLatent:
        """Return the refined latent, where the transformer is.

        Args:
            engine: runs the transformer.
            latent: at the size that is wanted.
            fps: frames per second.
            script: contexts of the prompt.
            conditions: what is given, at this size.
        """
        script.check_batch(latent)
        stage, device = engine.fit(self), engine.device(TRANSFORMER)
        negative = script.negative if stage.sampling.needs_negative else None
        inputs = SampleInputs(latent.to(device), fps, script.first, negative, conditions)
        with engine.use(stage, self.loras) as networks:
            network, dtype = networks[TRANSFORMER], engine.dtype(TRANSFORMER)
            refined = sample(network, inputs, stage.sampling, dtype, hooks_of(engine, self.name))
        engine.events.report_findings(latent_findings(refined, self.name))
        return refined
