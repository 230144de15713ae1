"""A small job that is always the same, timed and remembered: has an update made this machine slower?

The job is a clip of noise for random prompts: what is computed depends on sizes alone. Loading is not counted: all
parts run once until their weights are where they work, then twice more, and the faster time counts.
"""

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError, UnreadableFileError, counted
from ..errors.atomic import write_atomically
from ..errors.foreign import parse_json
from ..geometry import ClipShape
from ..latents import AVLatent, empty
from ..quantization import library_version
from ..sampling import Step
from ..text import Contexts
from .decode_audio import audio_stages
from .decode_video import DecodeVideo
from .engine import Engine
from .long import Script
from .needs.blueprint import Blueprint
from .needs.passes import passes_on_meta
from .sample import Sample, Sampling
from .stage import TRANSFORMER, LatentSize

SHAPE = ClipShape(512, 320, 33, Fraction(24))
SIGMAS = (1.0, 0.9, 0.7, 0.4, 0.0)
JOB = f"{SHAPE.width} x {SHAPE.height}, {SHAPE.frames} frames"
REPEATS = 3  # of which the first one brings the weights
SLOWER = 1.1  # times as long as before: less is noise
MOST_KEPT = 200  # timings in the file

Clock = Callable[[], float]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Timing:
    """How long the job took.

    Attributes:
        machine: the card, or the CPU.
        model: version, weights and what they compute in.
        software: what an update may change, such as {"torch": "2.11.0"}.
        seconds: of each part: "a step" of sampling, "decoding" and "sound".
        date: as YYYY-MM-DD.
    """

    machine: str
    model: str
    software: Mapping[str, str]
    seconds: Mapping[str, float]
    date: str = field(default_factory=lambda: date.today().isoformat())
    job: str = JOB

    def compares_with(self, other: "Timing") -> bool:
        """Return whether ``other`` did the same with the same on the same."""
        return (self.job, self.machine, self.model) == (other.job, other.machine, other.model)

    def describe(self) -> str:
        """Say the times in one line."""
        times = ", ".join(f"{part} {seconds:.3g} s" for part, seconds in self.seconds.items())
        return f"{self.job} on {self.machine}: {times}"


def software_versions() -> dict[str, str]:
    """Return the versions of PyTorch, of the card's driver, and of the libraries whose kernels we take."""
    driver = getattr(torch._C, "_cuda_getDriverVersion", lambda: 0)() if torch.cuda.is_available() else 0
    cuda = f"{driver // 1000}.{driver % 1000 // 10}" if driver else "none"
    return {"torch": torch.__version__, "CUDA of the driver": cuda, "comfy-kitchen": library_version()}


def time_job(engine: Engine, machine: str, software: Mapping[str, str], clock: Clock = time.perf_counter) -> Timing:
    """Run the job on ``engine``, and return how long its parts took.

    Args:
        engine: runs the networks; one that keeps them between stages.
        machine: what the engine runs on, for the record.
        software: versions of what may be updated.
        clock: tells the time, in seconds.

    Raises:
        DoesNotFitError: the machine has no room for it.
    """
    latent, script = empty(SHAPE).to(engine.device(TRANSFORMER)), _script(engine.blueprint)
    assert latent.video is not None and latent.audio is not None
    quiet, sampling = copy(engine), Sampling(SIGMAS)
    quiet.events = replace(engine.events, on_finding=lambda finding: None)  # of noise
    seconds: dict[str, list[float]] = {}
    for _ in range(REPEATS):
        seconds.setdefault("a step", []).append(_step_seconds(quiet, sampling, latent, script, clock))
        for part, run in _decoders(quiet, latent):
            begun = clock()
            run()
            seconds.setdefault(part, []).append(clock() - begun)
    dtype, loras = str(engine.dtype(TRANSFORMER)).removeprefix("torch."), len(engine.loras)
    model = f"{engine.blueprint.title}, {dtype}{f', {loras} LoRAs' if loras else ''}"
    return Timing(machine, model, dict(software), {part: min(times[1:]) for part, times in seconds.items()})


def _step_seconds(engine: Engine, sampling: Sampling, latent: AVLatent, script: Script, clock: Clock) -> float:
    """Seconds from the end of the first step to that of the last one, for each."""
    moments: list[float] = []

    def on_step(done: int, total: int, step: Step) -> None:
        moments.append(clock())

    watched = copy(engine)
    watched.events = replace(engine.events, on_step=on_step)
    Sample(sampling, LatentSize.of_clip(SHAPE)).run(watched, latent, SHAPE.fps, script)
    return (moments[-1] - moments[0]) / (len(moments) - 1)


def _decoders(engine: Engine, latent: AVLatent) -> Iterable[tuple[str, Callable[[], object]]]:
    """What turns the latent into frames and sound, as far as the model has it."""
    video, audio = latent.video, latent.audio
    assert video is not None and audio is not None
    if engine.blueprint.has("video_decoder"):
        yield "decoding", lambda: DecodeVideo(SHAPE.video_latent).collect(engine, video)
    if (sound := audio_stages(engine.blueprint, SHAPE.audio_latents)) is not None:
        yield "sound", lambda: sound.run(engine, audio, SHAPE)


def _script(blueprint: Blueprint) -> Script:
    """Random contexts of the size that the transformer reads."""
    (asked,) = passes_on_meta(blueprint, LatentSize.of_clip(SHAPE), ("cond",))
    assert asked.video is not None and asked.audio is not None
    generator = torch.Generator().manual_seed(0)
    video, audio = (torch.randn(each.context.shape, generator=generator) for each in (asked.video, asked.audio))
    return Script.of(Contexts(video, audio))


def remember(timing: Timing, path: Path | None) -> list[Timing]:
    """Keep ``timing`` in a file, and return those that were there before and compare with it, oldest first.

    A file that is damaged is begun anew; one that cannot be written is logged. ``path`` None keeps nothing.
    """
    if path is None:
        return []
    known = _read(path)
    kept = [asdict(each) for each in (*known, timing)][-MOST_KEPT:]
    try:
        write_atomically(path, json.dumps({"timings": kept}, indent=1).encode())
    except UnreadableFileError as error:
        _log.warning("This timing is not kept for the next update: %s", error)
    return [each for each in known if timing.compares_with(each)]


def _read(path: Path) -> list[Timing]:
    try:
        entries: Any = parse_json(path.read_bytes(), path.name).get("timings")
        timings = [Timing(**each) for each in entries]
        return [each for each in timings if all(float(value) > 0 for value in each.seconds.values())]
    except (OSError, CheckpointError, TypeError, ValueError, AttributeError):
        return []


def verdict(timing: Timing, before: list[Timing]) -> str:
    """Say whether something has become slower than it was at its fastest, and what has changed since."""
    if not before:
        return "There is nothing to compare with yet: run it again after the next update."
    sentences = [_slower(part, timing, before) for part in timing.seconds]
    slower = [each for each in sentences if each]
    return "\n".join(slower) or f"As fast as before ({counted(len(before), 'earlier run')} since {before[0].date})."


def _slower(part: str, timing: Timing, before: list[Timing]) -> str:
    known = [each for each in before if part in each.seconds]
    if not known:
        return ""
    best = min(known, key=lambda each: each.seconds[part])
    times = timing.seconds[part] / best.seconds[part]
    if times < SLOWER:
        return ""
    pairs = ((name, best.software.get(name, new), new) for name, new in timing.software.items())
    changes = [f"{name} {old} -> {new}" for name, old, new in pairs if old != new]
    since = f"since then {', '.join(changes)}" if changes else "nothing that is known here has changed since"
    return f"{part} takes {timing.seconds[part]:.3g} s, {times:.2f} times as long as on {best.date}: {since}."
