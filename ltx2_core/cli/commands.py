"""The commands: make clips, look into files, plan, convert, shrink LoRAs, compare and sign clips, write a miniature."""

import argparse
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from ..checkpoint import Models, open_models
from ..checkpoint.text_encoder import open_text_encoder
from ..errors import LTX2Error, MissingFileError, SettingError, UnreadableFileError, plain_text
from ..errors.atomic import check_place
from ..lora import Lora, Report, compare
from ..lora.report import compare_with_release
from ..media import check_target
from ..media.write import check_name
from ..memory.machine import GIB, machine_named, shares_ram, usable
from ..memory.placement import Room
from ..memory.ram import free_ram, pinnable, ram
from ..pipeline.engines.gain import describe_gain
from ..pipeline.engines.hardware import best_device, compute_dtype, current_machine, width_of
from ..pipeline.engines.prepare import RunLoad
from ..pipeline.engines.processes import Launch
from ..pipeline.finish import decode_take
from ..pipeline.generate import check_decoders, completed, recipe_of, run_batch
from ..pipeline.needs.blueprint import Blueprint
from ..pipeline.plan import plan_stages
from ..pipeline.sample import Sampling
from ..pipeline.stage import Events
from ..pipeline.stages import guidance_of_passes, stages_of_clip
from ..pipeline.takes import Take, save_take
from ..sampling import Recipe, ScheduleSettings, recipe_for
from ..settings import Resources
from ..tiny import write
from .arguments import decoding_of, open_loras, planned_shape, request_of
from .batch import make_batch
from .clips import batch_size_of, models_of, numbered, rescued, tagged, write_clips
from .compare import run_compare
from .convert import run_convert, run_lora
from .files import check_not_read, check_still_there, digest_of
from .flags import given
from .inspect import for_each, inspect, matching
from .lines import generate_command
from .progress import Bars
from .sign import run_check, run_sign
from .values import LATENTS, Notes

_log = logging.getLogger(__name__)


def run_generate(options: argparse.Namespace) -> None:
    """Make a clip or several at once, write them, and print where they are; of several processes the first does so."""
    try:
        _make(options)
    except MissingFileError:
        if options.like is not None:
            others = {name: value for name, value in options.values.items() if name not in options.asked}
            check_still_there(options.like, others, generate_command())
        raise


def _make(options: argparse.Namespace) -> None:
    leads, targets = Launch.of_environment().leads, targets_of(options)
    for target in targets if leads else ():
        check_target(target)
    kept, digest = kept_target(options), digest_of(options.values, generate_command())
    check_not_read([*targets, *([kept] if kept else [])], options.values, generate_command())
    models, lost, takes = models_of(options), list[LTX2Error](), list[Take]()
    notes = Notes(options.values, models.kind, digest)
    with Bars() as bars, _rescuing(takes, options.output, notes):
        events = Events(on_progress=bars.report, on_finding=bars.say, on_words=bars.show_words)
        if options.latent is not None:
            clips = decode_take(models, options.take, decoding_of(options, models, generate_command()), events)
        else:
            request = request_of(options, models)
            check_decoders(models, completed(models, request))
            if leads:
                keep = takes.append if kept is None else partial(_keep, options, notes, kept, lost)
                events = replace(events, on_latent=keep)
            clips = run_batch(models, request, events=events)
        if leads and not options.overwrite and any(map(_is_taken, targets)):  # by another run, meanwhile
            targets = targets_of(options)
        paths = write_clips(targets, clips, notes, options.overwrite) if leads else []
    _show(paths, lost)


def _show(paths: Iterable[Path], lost: list[LTX2Error]) -> None:
    """Print where clips are, and then raise why what was to be kept beside them is not."""
    for path in paths:
        print(str(path).encode(errors="replace").decode())
    for error in lost:
        raise error


def _keep(options: argparse.Namespace, notes: Notes, target: Path, lost: list[LTX2Error], take: Take) -> None:
    """Write a finished latent with the settings that a clip would have; a disk that refuses costs no clip: ``lost``."""
    if not options.overwrite and _is_taken(target):  # by another run, meanwhile
        target = kept_target(options) or target
    try:
        path = save_take(target, tagged(take, notes), overwrite=options.overwrite)
        _log.info("The latent is in %s.", path)
    except UnreadableFileError as error:
        _log.warning("%s The clip is made all the same.", error)
        lost.append(error)


@contextmanager
def _rescuing(takes: Sequence[Take], output: Path, notes: Notes) -> Iterator[None]:
    """Keep the latents of clips that cannot be decoded or written, whatever the error."""
    try:
        yield
    except Exception:
        for take in takes:
            if kept := rescued(tagged(take, notes), output):
                _log.warning("%s", kept)
        raise


def targets_of(options: argparse.Namespace) -> list[Path]:
    """Return where each clip is written: as --output says, or numbered, such as ball_1.mp4, if there are several.

    Without --overwrite nothing is replaced: the first number behind the name is taken for which nothing is there.
    """
    count = len(options.take.content.clips()) if options.latent is not None else batch_size_of(options)
    return _free(options.output, count, options.overwrite)


def kept_target(options: argparse.Namespace) -> Path | None:
    """Return where the latent is kept, if it is: as --save-latent says, or numbered likewise.

    Raises SettingError for another kind of file, and beside --latent.
    """
    if options.save_latent is None:
        return None
    if options.latent is not None:
        raise SettingError(f"{options.latent.name} is kept already: leave --save-latent out.")
    if options.save_latent.suffix.lower() != LATENTS:
        raise SettingError(f"--save-latent is {options.save_latent.name}; latents are kept as .safetensors files.")
    (target,) = _free(options.save_latent, 1, options.overwrite)
    check_place(target)
    return target


def _free(output: Path, count: int, overwrite: bool) -> list[Path]:
    targets = numbered(check_name(output), count)
    if overwrite or not any(map(_is_taken, targets)):
        return targets
    others = (output.with_name(f"{output.stem}_{number}{output.suffix}") for number in itertools.count(2))
    free = next(found for each in others if not any(map(_is_taken, found := numbered(each, count))))
    _log.info("%s is there already, so this will be %s; --overwrite replaces it.", output.name, free[0].name)
    return free


def _is_taken(target: Path) -> bool:
    try:
        return target.is_file() or (target.is_dir() and any(target.iterdir()))
    except OSError:  # of a name that cannot be, which is refused later
        return False


def run_batch_file(options: argparse.Namespace) -> None:
    """Make a clip for each line of a file."""
    with Bars() as bars:
        make_batch(options, bars)


def run_inspect(options: argparse.Namespace) -> None:
    """Print what files are, and what they still need."""
    files = matching(options.files)
    end = "\n\n" if len(files) > 1 else "\n"
    for_each(files, lambda path: print(plain_text(inspect(path)), end=end, flush=True))


def _planned_models(options: argparse.Namespace) -> Models | None:
    """The files that are planned with; None for a release that is not here. Raises SettingError for both at once."""
    if options.version and options.checkpoint:
        raise SettingError("--version plans a release that is not here, --checkpoint files that are: give one of them.")
    if options.version:
        return None
    return open_models(options.checkpoint or "miniature", options.text_encoder, distilled=options.distilled or None)


def run_plan(options: argparse.Namespace) -> None:
    """Print where the weights will be, and how long a clip takes."""
    cards = cards_of(options)
    models = _planned_models(options)
    rooms = [room_of(options, card, models) for card in cards]
    room, dtype = rooms[0]
    tables, own = not (room.in_ram and dtype == torch.float32), None if cards[0] else best_device()
    blueprint, recipe = _blueprint(options, models, dtype, tables, own)
    shape, steps = planned_shape(options, recipe), given(options, ScheduleSettings).get("steps")
    guidance = guidance_of_passes(options.passes, recipe) if options.passes else recipe.guidance
    sampling = Sampling(tuple(recipe.sigmas(steps)), guidance)
    blueprint = blueprint.among(len(rooms))
    loras = open_loras(options.lora, blueprint.layers, lambda lora: _fit(lora, models, options.version))
    how, device = Resources(**given(options, Resources)), own if own and room.in_ram else torch.device("cuda")
    load = RunLoad(loras, device, blueprint, how)
    plan = plan_stages(stages_of_clip(blueprint, shape, sampling), blueprint, room, shape, load)
    print("\n".join([plan.explain(), *describe_gain(plan, blueprint, [each for each, _ in rooms], load)]))


def _fit(lora: Lora, models: Models | None, version: str) -> Report:
    """How a LoRA fits the files to plan for, else the release. Raises CheckpointError if it changes nothing there."""
    return compare_with_release(lora, version).checked() if models is None else compare(lora, models)


def cards_of(options: argparse.Namespace) -> list[str | None]:
    """Return the cards to plan for; None is that of this machine.

    Raises:
        SettingError: for cards that are chosen in two ways, and for no card.
    """
    if options.devices is not None:
        if options.card is not None or options.gpus is not None:
            raise SettingError("--devices names all cards: leave --card and --gpus out.")
        return [name.strip() for name in options.devices.split(",")]
    if options.gpus is None:
        return [options.card]
    if options.card is None:
        raise SettingError("--gpus says how many of --card there are: give that, too.")
    if not 1 <= options.gpus <= 64:
        raise SettingError(f"--gpus is {options.gpus}; a plan can be made for 1 to 64 cards.")
    return [options.card] * options.gpus


def _blueprint(
    options: argparse.Namespace, models: Models | None, dtype: torch.dtype, tables: bool, device: torch.device | None
) -> tuple[Blueprint, Recipe]:
    """The networks of a release or of files as shapes, and their recipe."""
    if models is None:
        recipe = recipe_for(options.version, 48, options.distilled)
        return Blueprint.of_version(options.version, options.format or "bf16", dtype, tables, device), recipe
    encoder = open_text_encoder(models.text_encoder) if models.text_encoder else None
    cast_to = None if options.format == "bf16" else options.format
    dtypes = dict.fromkeys((*models.sources, "text_encoder"), dtype)
    return Blueprint.of_files(models, encoder, dtypes, cast_to, tables, device), recipe_of(models)


def room_of(options: argparse.Namespace, card: str | None, models: Models | None) -> tuple[Room, torch.dtype]:
    """Return what may be taken of the machine to plan for, and what it computes in.

    Args:
        options: name limits.
        card: to plan for; None is that of this machine.
        models: the files; None for a release.
    """
    total, available = ram()
    if options.ram is not None:
        total = available = int(options.ram * GIB)
    device = best_device()
    if card is not None:
        machine, dtype = machine_named(card), torch.bfloat16
    else:
        file = Path(options.checkpoint[0]) if options.checkpoint else None
        dtype = compute_dtype(device, width_of(options.version) if models is None else models.width)
        machine = current_machine(device, file, dtype)
    if options.vram is not None:
        machine = replace(machine, memory=int(options.vram * GIB))
    elif card is None and shares_ram(device):
        return Room(machine, free_ram(total, available), in_ram=True).within(usable(device), None), dtype
    return Room(machine, machine.budget, pinnable(total, available), free=free_ram(total, available)), dtype


def run_tiny(options: argparse.Namespace) -> None:
    """Write a miniature model, and print its files."""
    for path in write(options.folder, options.version):
        print(path)


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "generate": run_generate,
    "batch": run_batch_file,
    "inspect": run_inspect,
    "plan": run_plan,
    "convert": run_convert,
    "lora": run_lora,
    "compare": run_compare,
    "sign": run_sign,
    "check": run_check,
    "tiny": run_tiny,
}
