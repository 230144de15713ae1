"""Stand-ins for what other branches bring; deleted at the merge, when imports name the real ones.

``Tiling`` carries the fields, limits and texts that its room is about to declare; ``generate`` runs a request through
the old front door.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from .checkpoint import Models
from .errors import SettingError
from .fields import Whole
from .sampling import TileSettings

# Rooms raise these until each of their errors is an LTX2Error.
NOT_YET_OURS = (ValueError, FloatingPointError)


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
        conditions=request.conditions,
        sound_only=clip.streams == "sound only",
        windowing=None if long is None else long.windowing,
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


def _old_second(second: Any) -> Any:
    from .refine import SecondStage as Old

    if second is None:
        return None
    tiles = second.tiles.chosen() if isinstance(second.tiles, TileSettings) else second.tiles
    return Old(second.upscalers, second.refine, tiles, second.lora)


def _old_tiling(tiling: Any) -> Any:
    from .video_vae import Tiling as Old

    if not isinstance(tiling, Tiling):
        return tiling
    return Old(tiling.tile_size, tiling.tile_overlap, tiling.tile_frames, tiling.frame_overlap)
