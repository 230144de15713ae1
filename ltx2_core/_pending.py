"""Stand-ins for values of other rooms; deleted at the merge, when imports name the real ones.

Classes carry the fields, limits and texts that their rooms are about to declare; aliases have the new names of old
classes; ``generate`` runs a request through the old front door.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any

from .checkpoint import Models
from .conditioning.given import Beginning as InitClip
from .conditioning.given import Film as KeepVideo
from .conditioning.given import Footage as VideoSource
from .conditioning.given import Given as Condition
from .conditioning.given import Picture, RetakeRange
from .conditioning.given import Recording as AudioSource
from .conditioning.given import ReferenceClip as ReferenceVideo
from .conditioning.given import Region as InpaintMask
from .conditioning.given import Sound as KeepAudio
from .conditioning.given import Voice as ReferenceAudio
from .conditioning.given import whole as floor_frames
from .errors import SettingError
from .fields import Choice, Number, Slider, Switch, Whole, Words
from .sampling import SCHEDULES, AnyGuidance, Tiles
from .sampling.guidance import Guidance as OldGuidance
from .sampling.windows import Window, cover

__all__ = [
    "NOT_YET_OURS",
    "AudioSource",
    "Condition",
    "Guidance",
    "InitClip",
    "InpaintMask",
    "KeepAudio",
    "KeepVideo",
    "Picture",
    "ReferenceAudio",
    "ReferenceVideo",
    "RetakeRange",
    "ScheduleSettings",
    "StreamGuidance",
    "TileSettings",
    "Tiling",
    "VideoSource",
    "Windowing",
    "floor_frames",
    "generate",
]

# Rooms raise these until each of their errors is an LTX2Error.
NOT_YET_OURS = (ValueError, FloatingPointError)


@dataclass(frozen=True)
class Guidance(OldGuidance):
    """How strongly one stream follows its text, the other stream, and itself."""

    text_scale: Annotated[
        float,
        Slider(1, 10, 0.1, label="text CFG", shown=3.0),
        "How closely picture and sound follow the prompt. Higher follows it more closely, at the cost of motion and "
        "natural colours. 1 follows it plainly, ignores the negative prompt and saves a pass; distilled models need "
        "1. (The paper's s_t is this minus 1.)",
    ] = 1.0
    cross_modal_scale: Annotated[
        float,
        Slider(1, 10, 0.1, label="cross-modal CFG", shown=3.0),
        "How closely picture and sound follow each other. Higher makes lips and impacts meet their sounds. 1 leaves "
        "it to the model and saves a pass; distilled models need 1. (The paper's s_m is this minus 1.)",
    ] = 1.0
    stg_scale: Annotated[
        float,
        Number(0, 5, 0.1, advanced=True, shown=1.0),
        "Spatio-temporal guidance: steers away from what the model makes with parts of its attention off. Higher "
        "holds bodies and objects together better, too high stiffens them. 0 saves a pass; distilled models need 0.",
    ] = 0.0
    stg_blocks: Annotated[
        tuple[int, ...],
        Words(advanced=True, shown="auto"),
        "Numbers of the blocks whose attention is off for this guidance (28 for 2.3, 29 for 2.0).",
    ] = ()
    rescale: Annotated[
        float,
        Number(0, 1, 0.05, advanced=True, shown=0.7),
        "How much of the contrast that guidance adds is taken back. Higher prevents burnt colours and clipped sound, "
        "at 1 things may look flat.",
    ] = 0.0
    cfg_star: Annotated[
        bool,
        Switch(advanced=True),
        "Fits the strength of the negative prediction to the positive one before it is subtracted (CFG*). Calmer "
        "colours in the first steps.",
    ] = False
    apg_parallel: Annotated[
        float,
        Number(0, 2, 0.05, advanced=True),
        "How much of the text guidance that only makes things stronger is kept (APG). Towards 0, high text scales "
        "burn colours less; 1 is plain guidance.",
    ] = 1.0
    apg_limit: Annotated[
        float,
        Number(0, 1000, 0.5, advanced=True),
        "The text guidance is cut to this size (APG's norm threshold). 0 does not cut it.",
    ] = 0.0
    nag_scale: Annotated[
        float,
        Number(1, 20, 0.1, advanced=True),
        "Negative prompt inside the attention (NAG): works where the text scale is 1, so for distilled models, and "
        "costs little. 5 is a beginning; 1 is off. Needs a negative prompt.",
    ] = 1.0
    nag_limit: Annotated[
        float, Number(0, 10, 0.1, advanced=True), "How much larger NAG may make what the prompt says."
    ] = 2.5
    nag_blend: Annotated[
        float, Number(0, 1, 0.05, advanced=True), "How much of NAG's result is taken; higher is stronger."
    ] = 0.25
    skip_steps: Annotated[
        int,
        Whole(0, 10, advanced=True),
        "After each computed step, so many steps reuse its result for this stream. Faster, and rougher; where both "
        "streams skip, a step costs nothing.",
    ] = 0


@dataclass(frozen=True)
class StreamGuidance:
    """How each stream is guided."""

    video: AnyGuidance
    audio: AnyGuidance


@dataclass(frozen=True)
class ScheduleSettings:
    """The noise levels of a run."""

    steps: Annotated[
        int | None,
        Whole(1, 200, shown=20),
        "How many steps. More take longer and give cleaner detail; the official models use 40 (2.0) and 30 (2.3). The "
        "distilled schedules have their own number.",
    ] = None
    schedule: Annotated[
        str | None,
        Choice((*SCHEDULES, "custom"), shown="ltx2"),
        "ltx2 for the dev models and the miniature; distilled for distilled models (8 steps, with all scales at 1); "
        "distilled_refine for a second pass over a finished latent (3 steps); linear_quadratic, beta and simple for "
        "comparison with other workflows; custom takes a list of noise levels.",
    ] = None
    max_shift: Annotated[
        float,
        Number(0, 10, advanced=True),
        "How long a large clip (4096 tokens) stays at high noise. Higher gives calmer composition and less detail. "
        "Only for ltx2.",
    ] = 2.05
    base_shift: Annotated[
        float, Number(0, 10, advanced=True), "The same for a small clip (1024 tokens). Only for ltx2."
    ] = 0.95
    terminal: Annotated[
        float,
        Number(0, 0.99, advanced=True),
        "The last noise level before 0. Higher leaves more to the last step. Only for ltx2.",
    ] = 0.1
    denoise: Annotated[
        float,
        Number(0, 1, advanced=True),
        "How much is made anew. Below 1 the steps are those at the end of a longer schedule, so that what is given is "
        "kept the more, the lower this is.",
    ] = 1.0
    custom_sigmas: Annotated[
        str,
        Words(advanced=True, shown="1.0, 0.9, 0.75, 0.5, 0.25, 0"),
        "Noise levels of your own, from at most 1 down to 0; used when the schedule is custom.",
    ] = ""


@dataclass(frozen=True)
class TileSettings:
    """In which tiles a large clip is refined."""

    columns: Annotated[
        int,
        Whole(0, 64, advanced=True),
        "Tiles side by side. With 0 here and in the next two, as few are chosen as the memory allows. 1 in all three "
        "is the whole clip at once.",
    ] = 0
    rows: Annotated[
        int, Whole(0, 64, advanced=True), "Tiles one above the other. 0 as above, or 1 if another one is set."
    ] = 0
    intervals: Annotated[
        int, Whole(0, 64, advanced=True), "Tiles one after the other in time. 0 as above, or 1 if another one is set."
    ] = 0
    overlap: Annotated[
        int,
        Whole(0, 1024, 32, unit="pixels", advanced=True),
        "Pixels that neighbouring tiles share. More hides their seams better, and takes longer.",
    ] = 128
    frame_overlap: Annotated[
        int,
        Whole(0, 256, 8, unit="frames", advanced=True),
        "Frames that two intervals share. More hides their seams better, and takes longer.",
    ] = 32
    mode: Annotated[
        str,
        Choice(("together", "one by one"), advanced=True),
        "together blends the tiles at every step, so that they cannot drift apart. one by one finishes each tile "
        "before the next and blends them once, as other tools do: neighbours may disagree.",
    ] = "together"
    positions: Annotated[
        str,
        Choice(("absolute", "local"), advanced=True),
        "absolute tells each tile where in the clip it is. local tells each that it is a clip by itself: for clips "
        "wider than 2048 pixels or longer than 20 seconds, which the models have not seen.",
    ] = "absolute"


@dataclass(frozen=True)
class Windowing:
    """How a long clip is divided into windows."""

    window: Annotated[
        int,
        Whole(17, 2881, 8, unit="frames"),
        "Frames that are made at once, 8 k + 1: as many as the model does well and the card has room for.",
    ] = 121
    overlap: Annotated[
        int,
        Whole(8, 512, 8, unit="frames"),
        "Frames that a window sees of the one before it. More keep motion and voices going, and take longer.",
    ] = 24
    overlap_strength: Annotated[
        float,
        Number(0, 1, 0.05, advanced=True),
        "How firmly a window keeps the frames that it sees. Lower lets it repaint them a little, and fade over.",
    ] = 1.0
    drift_control: Annotated[
        float,
        Number(0, 1, 0.05, flag="drift"),
        "Draws colours, contrast and loudness of every window to those of the first one. Raise it if a long clip "
        "grows garish; too much hides changes that you want.",
    ] = 0.0

    def windows(self, frames: int, fps: Fraction) -> list[Window]:
        """The windows of a clip."""
        return cover(frames, fps, self.window, self.overlap)


@dataclass(frozen=True)
class Tiling:
    """In which pieces a clip is decoded."""

    tile_size: Annotated[
        int,
        Whole(0, 4096, 32, unit="pixels", advanced=True, shown=0),
        "Pixels of a tile along the clip's longer side. 0 takes the largest tiles that the card has room for, up to "
        "768, and chooses the three numbers below as well. Smaller needs less memory and takes longer.",
    ] = 768
    tile_overlap: Annotated[
        int,
        Whole(0, 1024, 32, unit="pixels", advanced=True),
        "Pixels that neighbouring tiles share. More hides their seams better, and takes longer.",
    ] = 64
    tile_frames: Annotated[
        int,
        Whole(16, 4096, 8, unit="frames", advanced=True),
        "Frames that are decoded at once. Smaller needs less memory and takes longer.",
    ] = 80
    frame_overlap: Annotated[
        int,
        Whole(0, 1024, 8, unit="frames", advanced=True),
        "Frames that two such pieces share. More hides their seams better, and takes longer.",
    ] = 24


def generate(
    models: Models,
    request: Any,
    *,
    on_progress: Callable[[str, int, int], None] | None = None,
    on_finding: Callable[[Any], None] | None = None,
) -> Any:
    """Run ``request`` through the old front door, which knows only some of its settings."""
    from .generate import generate as old
    from .generate import recipe_of

    _refuse_what_is_new(request)
    whole, clip = request.completed(recipe_of(models, request.hq)), request.clip
    frames = None if clip.frames is None and clip.seconds is None else whole.shape.frames
    long, resources = request.long, request.resources
    return old(
        models,
        request.prompt,
        request.negative,
        width=clip.width,
        height=clip.height,
        frames=frames,
        fps=clip.fps,
        given=request.conditions,
        sound_only=clip.streams == "sound only",
        windowing=_old_windowing(long),
        segments=() if long is None else long.segments,
        resume=None if long is None else long.resume,
        second=_old_second(request.second),
        hq=request.hq,
        sigmas=list(whole.sigmas),
        video=whole.guidance.video,
        audio=whole.guidance.audio,
        sampler=whole.sampler,
        seed=request.sampling.seed,
        tiling=_old_tiling(request.tiling),
        dtype=resources.dtype,
        format=resources.format,
        device=resources.device,
        vram=resources.vram,
        ram=resources.ram,
        cache=resources.cache,
        on_progress=on_progress,
        on_finding=on_finding,
        loras=request.loras,
    )


def _refuse_what_is_new(request: Any) -> None:
    second, sampling, tiles = request.second, request.sampling, request.second and request.second.tiles
    new = {
        "picture only": request.clip.streams == "picture only",
        "batch_size": request.clip.batch_size != 1,
        "noise_order": sampling.noise_order != "official",
        "add_noise": not sampling.add_noise,
        "batched_passes": sampling.batched_passes,
        "a setting of the second stage": second is not None
        and (second.sound, second.noise_scale, second.sigmas, second.guidance) != ("as the recipe", 0, None, None),
        "a strength of the distilled LoRA": second is not None
        and (second.distilled_lora_strength, second.distilled_lora_refine_strength) != (None, None),
        "the mode of tiles": isinstance(tiles, TileSettings) and tiles.mode != "together",
    }
    for name, is_asked in new.items():
        if is_asked:
            raise SettingError(f"{name} cannot be chosen until the new pipeline is merged.")


def _old_windowing(long: Any) -> Any:
    from .long import Windowing as Old

    if long is None:
        return None
    own = long.windowing
    return Old(own.window, own.overlap, own.overlap_strength, own.drift_control)


def _old_second(second: Any) -> Any:
    from .refine import SecondStage as Old

    if second is None:
        return None
    tiles = second.tiles
    if isinstance(tiles, TileSettings):
        counts = (tiles.intervals, tiles.rows, tiles.columns)
        cells = (tiles.frame_overlap // 8, tiles.overlap // 32, tiles.overlap // 32)
        one_or_more = tuple(max(1, count) for count in counts)
        tiles = Tiles(one_or_more, cells, tiles.positions == "local") if any(counts) else None
    return Old(second.upscalers, second.refine, tiles, second.lora)


def _old_tiling(tiling: Any) -> Any:
    from .video_vae import Tiling as Old

    if not isinstance(tiling, Tiling):
        return tiling
    return Old(tiling.tile_size, tiling.tile_overlap, tiling.tile_frames, tiling.frame_overlap)
