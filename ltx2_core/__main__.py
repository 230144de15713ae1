"""The command line: generate a clip, look into a file, plan a clip, write a miniature model."""

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from .checkpoint import Models
from .checkpoint.upscaler import find_upscaler, open_upscaler
from .checkpoint.versions import VERSIONS
from .disk_cache import cache_folder
from .flags import add_flags, joined, read_material
from .generate import generate, recipe_of
from .geometry import ClipShape, exact_fps
from .inspect import inspect
from .lora import compare, open_lora
from .lora.stack import parse_lora_argument
from .memory import best_device, compute_dtype
from .memory.machine import GIB, Machine, machine_named, pinnable, this_machine
from .memory.pinned import ram
from .memory.plan import plan
from .memory.stages import FORMATS, PASSES, Blueprint
from .quantization import CASTS
from .refine import SecondStage, find_distilled_lora
from .sampling import SAMPLERS, SCHEDULES, Guidance, Recipe, Tiles, passes_needed, recipe_for


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. Errors are one sentence on stderr."""
    options = _parser().parse_args(joined(sys.argv[1:] if arguments is None else arguments))
    try:
        options.run(options)
    except KeyboardInterrupt:
        print("Stopped; nothing was written.", file=sys.stderr)
        return 130
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ltx2_core", description="LTX-2: a prompt becomes a clip with sound."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    clip = commands.add_parser("generate", help="make a clip from a prompt")
    clip.set_defaults(run=_generate)
    clip.add_argument("--prompt", help="needed, unless there are --segments")
    clip.add_argument("--negative", help="what to avoid; default: the recipe of the model")
    clip.add_argument(
        "--output", type=Path, required=True, help="clip.mp4, sound.wav, sound.flac or a folder for pictures"
    )
    clip.add_argument(
        "--checkpoint", nargs="+", help="the LTX-2 checkpoint, or several split files; default: the built-in miniature"
    )
    clip.add_argument("--text-encoder", help="Gemma 3 12B: a folder or a safetensors file")
    clip.add_argument("--width", type=int)
    clip.add_argument("--height", type=int)
    length = clip.add_mutually_exclusive_group()
    length.add_argument("--frames", type=int, help="8 k + 1")
    length.add_argument("--seconds", type=float, help="rounded to the nearest possible number of frames")
    clip.add_argument("--fps", help="a number or a fraction such as 24000/1001; default: as what is given, or 24")
    add_flags(clip)
    clip.add_argument("--steps", type=int)
    clip.add_argument("--schedule", choices=SCHEDULES)
    clip.add_argument("--sampler", choices=SAMPLERS, help="default: that of the recipe, mostly euler")
    clip.add_argument("--seed", type=int, default=0)
    for scale, meaning in _SCALES.items():
        flag = scale.replace("_", "-")
        clip.add_argument(f"--{flag}", type=float, help=f"{meaning}, both streams")
        for stream in ("video", "audio"):
            clip.add_argument(f"--{stream}-{flag}", type=float, help=f"the same for {stream}")
    clip.add_argument("--stg-blocks", type=int, nargs="*", help="blocks whose self-attention the STG pass leaves out")
    clip.add_argument(
        "--format",
        choices=CASTS,
        help="of the transformer's weights in memory: fp8 takes a third less than bf16; default: as stored",
    )
    clip.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="PATH[:STRENGTH]",
        help="a LoRA, repeatable; also PATH:STRENGTH:video=1,audio=0.5 with audio_to_video, video_to_audio, text",
    )
    clip.add_argument("--hq", action="store_true", help="few, precise steps; for the dev model of LTX-2.3")
    clip.add_argument(
        "--upscale",
        type=float,
        choices=(1.5, 2),
        help="make the clip so many times smaller and enlarge its latent; width and height are those of the result",
    )
    clip.add_argument(
        "--upscaler", type=Path, metavar="FILE", help="what enlarges it; default: found by name beside the checkpoint"
    )
    clip.add_argument(
        "--temporal-upscaler", type=Path, metavar="FILE", help="twice as many frames per second, at the same speed"
    )
    clip.add_argument("--refine", action="store_true", help="a second stage, which puts detail into what was enlarged")
    clip.add_argument(
        "--tiles", type=_tiles, metavar="FxHxW", help="refine in so many tiles in time, down and across; default: auto"
    )
    clip.add_argument(
        "--distilled-lora",
        type=Path,
        metavar="FILE",
        help="for --refine and --hq with a dev model; default: found by name beside the checkpoint",
    )
    clip.add_argument("--device", help="cuda, cpu, mps; default: the fastest")
    clip.add_argument("--vram", type=float, metavar="GB", help="the most to take of the card; default: what is free")
    clip.add_argument("--ram", type=float, metavar="GB", help="the most RAM to pin for streaming; default: half of it")
    clip.add_argument("--no-cache", action="store_true", help="encode the prompt even if it was encoded before")

    files = commands.add_parser("inspect", help="say what files are, and what they still need")
    files.set_defaults(run=lambda options: print("\n\n".join(inspect(path) for path in options.files)))
    files.add_argument("files", nargs="+", type=Path, metavar="FILE")

    ahead = commands.add_parser("plan", help="say where the weights will be and how long a clip takes; loads nothing")
    ahead.set_defaults(run=_plan)
    ahead.add_argument("--checkpoint", nargs="+", help="as for generate")
    ahead.add_argument("--text-encoder", help="as for generate")
    ahead.add_argument("--version", choices=VERSIONS, help="plan for this release instead of files")
    ahead.add_argument(
        "--format", choices=FORMATS, help="of the release, or what files are cast to; default: bf16, as stored"
    )
    ahead.add_argument("--distilled", action="store_true", help="plan for the distilled release")
    ahead.add_argument("--width", type=int)
    ahead.add_argument("--height", type=int)
    ahead.add_argument("--frames", type=int, help="8 k + 1")
    ahead.add_argument("--fps", default="24")
    ahead.add_argument("--steps", type=int)
    ahead.add_argument(
        "--passes", type=int, choices=range(1, 5), help="of a step, 1 to 4 (default: the recipe of the model)"
    )
    ahead.add_argument("--card", help='for example "RTX 4090"; default: this machine, which is measured for 0.3 s')
    ahead.add_argument("--vram", type=float, metavar="GB", help="of the card; default: what it has")
    ahead.add_argument("--ram", type=float, metavar="GB", help="of the machine; default: what this one has")

    tiny = commands.add_parser("tiny", help="write a complete miniature model with random weights")
    tiny.set_defaults(run=_tiny)
    tiny.add_argument("folder", type=Path, metavar="DIR")
    tiny.add_argument("--version", default="2.3")
    return parser


_SCALES = {
    "text_scale": "how closely to follow the prompt (1 = neutral)",
    "cross_modal_scale": "how closely picture and sound follow each other (1 = neutral)",
    "stg_scale": "spatio-temporal guidance (0 = off)",
    "rescale": "0..1: how much of the contrast that guidance adds is taken back",
    "nag_scale": "a negative prompt inside the attention, for distilled models (1 = off)",
    "apg_parallel": "0..1: how much of the text guidance that only strengthens is kept (1 = all)",
}


def _generate(options: argparse.Namespace) -> None:
    from .checkpoint import open_models
    from .media import check_target, write_clip
    from .progress import Bars

    logging.basicConfig(format="%(message)s")
    logging.getLogger(__package__).setLevel(logging.INFO)
    check_target(options.output)
    models = open_models(options.checkpoint or "miniature", options.text_encoder)
    if options.text_encoder is None and models.text_encoder is None:
        raise ValueError("--checkpoint needs --text-encoder: Gemma 3 12B, as a folder or a safetensors file.")
    loras = tuple((open_lora(path), strengths) for path, strengths in map(parse_lora_argument, options.lora))
    for lora, _ in loras:
        print(compare(lora, models).line, file=sys.stderr)
    recipe = recipe_of(models, options.hq)
    material = read_material(options, loras)
    if options.prompt is None and not material.segments:
        raise ValueError("There is no prompt: say what is to be seen and heard with --prompt, or with --segments FILE.")
    with Bars() as bars:
        clip = generate(
            models,
            options.prompt or material.segments[0].prompt,
            options.negative,
            width=material.width,
            height=material.height,
            frames=material.frames,
            fps=material.fps,
            conditions=material.conditions,
            sound_only=options.sound_only,
            windowing=material.windowing,
            segments=material.segments,
            resume=options.resume,
            second=_second(options, models, recipe),
            hq=options.hq,
            steps=options.steps,
            schedule=options.schedule,
            video=_guidance(options, "video", recipe.video),
            audio=_guidance(options, "audio", recipe.audio),
            sampler=options.sampler,
            seed=options.seed,
            format=options.format,
            device=options.device,
            vram=None if options.vram is None else int(options.vram * GIB),
            ram=None if options.ram is None else int(options.ram * GIB),
            cache=not options.no_cache,
            on_progress=bars.report,
            on_finding=bars.say,
            loras=loras,
        )
        path = write_clip(options.output, clip.chunks, clip.fps, clip.waveform, clip.sample_rate)
    print(path)


def _tiles(text: str) -> Tiles | None:
    """From "2x2x3"; None for "auto"."""
    if text == "auto":
        return None
    counts = [int(word) for word in text.lower().split("x")]
    if len(counts) != 3:
        raise ValueError
    return Tiles(tuple(counts))


def _second(options: argparse.Namespace, models: Models, recipe: Recipe) -> SecondStage:
    """What is to happen after sampling."""
    space = options.upscaler and open_upscaler(options.upscaler)
    if space is None and options.upscale is not None:
        space = find_upscaler(models, options.upscale)
    if space is not None and options.upscale not in (None, space.config.space):
        raise ValueError(
            f"{space.file.path.name} enlarges by {float(space.config.space):g}, but --upscale is {options.upscale:g}."
        )
    time = options.temporal_upscaler and open_upscaler(options.temporal_upscaler)
    needs_lora = recipe.lora or (options.refine and recipe.refine.lora)
    lora = open_lora(options.distilled_lora or find_distilled_lora(models)) if needs_lora else None
    upscalers = tuple(file for file in (space, time) if file is not None)
    return SecondStage(upscalers, options.refine, options.tiles, lora)


def _plan(options: argparse.Namespace) -> None:
    from .checkpoint import open_models
    from .checkpoint.text_encoder import open_text_encoder

    machine, dtype, pinned = _machine(options)
    if options.version:
        blueprint = Blueprint.of_version(options.version, options.format or "bf16", dtype)
        recipe = recipe_for(options.version, 48, options.distilled)
    else:
        models = open_models(options.checkpoint or "miniature", options.text_encoder)
        encoder = open_text_encoder(models.text_encoder) if models.text_encoder else None
        cast_to = options.format if options.format in CASTS else None
        blueprint, recipe = Blueprint.of_files(models, encoder, dtype, cast_to), recipe_of(models)
    size = options.width or recipe.width, options.height or recipe.height, options.frames or recipe.frames
    found = plan(
        blueprint,
        ClipShape(*size, exact_fps(options.fps)),
        machine=machine,
        passes=PASSES[: options.passes] if options.passes else passes_needed([recipe.video, recipe.audio]),
        steps=len(recipe.sigmas(options.steps)) - 1,
        stg_block=min(recipe.video.stg_blocks, default=0),
        ram=pinned,
    )
    print(found.explain())


def _machine(options: argparse.Namespace) -> tuple[Machine, torch.dtype, int]:
    """The machine to plan for, what it computes in, and how much of its RAM may be pinned."""
    total, available = ram()
    if options.ram is not None:
        total = available = int(options.ram * GIB)
    if options.card is not None:
        machine, dtype = machine_named(options.card), torch.bfloat16
    else:
        device = best_device()
        file = Path(options.checkpoint[0]) if options.checkpoint else None
        machine, dtype = this_machine(device, file, cache_folder()), compute_dtype(device)
    if options.vram is not None:
        machine = replace(machine, memory=int(options.vram * GIB))
    return machine, dtype, pinnable(total, available)


def _guidance(options: argparse.Namespace, stream: str, recipe: Guidance) -> Guidance:
    """The recipe's guidance with what the user asked for, the stream's own flag before the common one."""
    changes = {}
    for scale in _SCALES:
        for flag in (scale, f"{stream}_{scale}"):
            if (value := getattr(options, flag)) is not None:
                changes[scale] = value
    if options.stg_blocks is not None:
        changes["stg_blocks"] = tuple(options.stg_blocks)
    return replace(recipe, **changes)


def _tiny(options: argparse.Namespace) -> None:
    from .tiny import write

    for path in write(options.folder, options.version):
        print(path)


if __name__ == "__main__":
    sys.exit(main())
