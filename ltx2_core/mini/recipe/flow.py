"""The transformer: encoded scenes, and the rectified flow that is learnt from them."""

import copy
import time
from dataclasses import dataclass
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ...geometry import (
    AUDIO_RATE,
    SPACE_SCALE,
    audio_positions,
    audio_tokens,
    latent_frames,
    pixel_frames,
    video_positions,
    video_tokens,
)
from ...transformer import UNPERTURBED, Perturbation, StreamInput, Transformer
from .. import world
from . import audio, video
from .config import USED, new
from .stage import Stage, keep
from .text import ROWS, UNSAID, VARIANTS, meaning

BATCH = 48
ROWS_USED = 48  # context rows that a step looks at
STD_FLOOR = 0.4  # latent features that hardly vary are not blown up to unit variance
APART = Perturbation(audio_to_video=False, video_to_audio=False)
LATENT_FRAMES, CELLS = latent_frames(world.FRAMES), world.SIZE // SPACE_SCALE
TASKS = {  # shares of the steps
    "text": 0.6,
    "first frame": 0.08,
    "last frame": 0.03,
    "first and last frame": 0.06,
    "extend": 0.07,
    "retake": 0.06,
    "inpaint": 0.04,
    "video to audio": 0.03,
    "audio to video": 0.03,
}


def encode_scenes(work: Path, minutes: float, device: str, seed: int, workers: int = 0) -> None:
    """Encode scenes until the time is over, and add them to those that are there (WORK/scenes.pt).

    The first ones also fix mean and deviation of every latent channel (WORK/statistics.pt) where these are unknown.
    """
    parts = [torch.load(path, weights_only=True, map_location="cpu")] if (path := work / "scenes.pt").exists() else []
    begun, end = sum(len(part["meanings"]) for part in parts), time.time() + 60 * minutes
    workers = workers or torch.get_num_threads()
    with get_context("spawn").Pool(workers) as pool:
        seeds = ((seed, 1, begun, number) for number in range(workers))
        parts += pool.starmap(_encode_until, ((end, work, device, each) for each in seeds))
    scenes = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    keep(scenes, path)
    known = torch.load(path, weights_only=True, map_location="cpu") if (path := work / "statistics.pt").exists() else {}
    keep({name: measured(scenes[name]) for name in USED} | known, path)
    print(f"{len(scenes['meanings'])} scenes")


@torch.no_grad()
def _encode_until(end: float, work: Path, device: str, seed: tuple[int, ...]) -> dict[str, Tensor]:
    """What one worker does: the used channels of scenes' tokens, (n, N, C), and what captions may say, (n, 2).

    ``last`` are the tokens of the last picture by itself.
    """
    torch.set_num_threads(1)
    rng, networks = np.random.default_rng(seed), (video.load_encoder(work, device), audio.load_encoder(work, device))
    parts: list[dict[str, Tensor]] = []
    while time.time() < end or not parts:
        scene = world.sample_scene(rng)
        frames = video.rendered(scene).to(device)
        sound = audio.encode(networks[1], audio.mel_of(scene).to(device))
        tokens = {"video": video_tokens(networks[0](frames)), "audio": audio_tokens(sound)}
        part = {name: each[..., : USED[name]].half().cpu() for name, each in tokens.items()}
        last = video_tokens(networks[0](frames[:, :, -1:]))
        part["last"] = last[..., : USED["video"]].half().cpu()
        parts.append(part | {"meanings": torch.tensor([[meaning(scene, UNSAID), meaning(scene, scene.room)]])})
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def measured(tokens: Tensor) -> dict[str, Tensor]:
    """Mean and deviation of all 128 features, of which ``tokens`` (n, N, C) has the first."""
    flat = tokens.float().flatten(0, 1)
    missing = 128 - flat.shape[1]
    return {
        "mean": nn.functional.pad(flat.mean(0), (0, missing)).bfloat16().float(),
        "std": nn.functional.pad(flat.std(0).clamp(min=STD_FLOOR), (0, missing), value=1.0).bfloat16().float(),
    }


@dataclass(frozen=True)
class Examples:
    """What the transformer learns from, on the training device."""

    tokens: dict[str, Tensor]  # of both streams, normalised, (n, N, 128)
    last: Tensor  # tokens of the last picture, likewise, (n, N, 128)
    meanings: Tensor  # (n, 2), an index into ``contexts``
    contexts: Tensor  # (meanings, 2, VARIANTS, ROWS, D)
    nothing: int  # the meaning of captions that say nothing

    @classmethod
    def load(cls, work: Path, device: str) -> "Examples":
        """Read what the stages before wrote into the folder ``work``."""
        scenes, statistics, captions = (
            torch.load(work / f"{name}.pt", weights_only=True, map_location="cpu")
            for name in ("scenes", "statistics", "captions")
        )

        def normal(name: str, stream: str) -> Tensor:
            mean, std = (statistics[stream][key][: USED[stream]] for key in ("mean", "std"))
            tokens = (scenes[name].float() - mean) / std
            return nn.functional.pad(tokens, (0, 128 - USED[stream])).to(device)

        known = torch.tensor(sorted(captions["banks"]))
        contexts = torch.stack([captions["banks"][number] for number in known.tolist()]).float()
        meanings = torch.searchsorted(known, scenes["meanings"])
        nothing = torch.searchsorted(known, captions["nothing"])
        tokens = {name: normal(name, name) for name in USED}
        return cls(tokens, normal("last", "video"), meanings.to(device), contexts.to(device), int(nothing))

    def draw(self, count: int) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Clean tokens (B, N, 128) of both streams and of the last picture, and contexts (2, B, ROWS_USED, D).

        Every tenth clip goes unnamed.
        """
        device = self.meanings.device
        chosen = torch.randint(len(self.meanings), (count,), device=device)
        said = self.meanings[chosen, torch.randint(2, (count,), device=device)]
        said = said.where(torch.rand(count, device=device) > 0.1, self.nothing)
        rows = torch.randperm(ROWS, device=device)[:ROWS_USED]
        contexts = self.contexts[said, :, torch.randint(VARIANTS, (count,), device=device)]
        clean = {name: tokens[chosen] for name, tokens in self.tokens.items()}
        return clean, self.last[chosen], contexts[:, :, rows].transpose(0, 1)


def new_transformer() -> Transformer:
    """Make a transformer before training: every branch is open, the velocity is zero."""
    network: Transformer = new("transformer")
    for name, parameter in network.named_parameters():
        if "modulation" in name:
            nn.init.zeros_(parameter)
            for row in {6: (2, 5), 5: (4,)}.get(len(parameter), ()):  # the gates
                nn.init.constant_(parameter.data[row], 0.7)
        elif "norm" in name:
            nn.init.ones_(parameter)
        elif name.endswith("bias") or "project_out" in name:
            nn.init.zeros_(parameter)
        elif name.endswith("project.weight"):  # what noise levels do, to begin with
            nn.init.normal_(parameter, std=0.01)
        else:
            nn.init.xavier_uniform_(parameter)
    return network


def train_transformer(work: Path, minutes: float, device: str, seed: int, batch: int = BATCH) -> None:
    """Rectified flow on both latents at one noise level, of which some tokens may be given.

    Every tenth step the streams do not see each other, which cross-modal guidance needs.
    """
    torch.manual_seed(seed)
    network = new_transformer().to(device)
    average = copy.deepcopy(network).requires_grad_(False)
    stage = Stage(work / "transformer.pt", minutes, 2e-3, {"network": network, "average": average})
    torch.manual_seed(seed + stage.step)
    examples = Examples.load(work, device)
    where = [place.to(device) for place in positions(batch)]
    where_with_last = torch.cat((where[0], place_of_last_frame().expand(batch, -1, -1, -1).to(device)), dim=2)
    stage.restart()
    for step in stage:
        clean, last, contexts = examples.draw(batch)
        sigma, apart = noise_levels(batch).to(device), step % 10 == 9
        task = Task.draw("text" if apart else None)
        inputs, targets = [], {}
        for (name, tokens), place, context in zip(clean.items(), where, contexts):
            noise, levels = torch.randn_like(tokens), sigma[:, None] * task.made[name].to(device)
            noisy, targets[name] = tokens.lerp(noise, levels[..., None]), noise - tokens
            if name == "video" and task.last_frame:
                noisy = torch.cat((noisy, last), dim=1)
                levels = nn.functional.pad(levels, (0, last.shape[1]))
                place = where_with_last
            inputs.append(as_input(noisy, levels, place, context))
        velocities = dict(zip(USED, network(*inputs, APART if apart else UNPERTURBED)))
        losses = {}
        for name, made in task.made.items():
            if made.any():
                error = velocities[name][:, : len(made)] - targets[name]
                losses[name] = _off(error[:, made > 0], USED[name])
        stage.descend(torch.stack([*losses.values()]).sum(), **{name: loss.detach() for name, loss in losses.items()})
        follow(average, network, stage.step)


@dataclass(frozen=True)
class Task:
    """What of a clip is made, 1 for a token that begins as noise, and what is given."""

    made: dict[str, Tensor]
    last_frame: bool = False  # whether this picture is given in tokens of its own

    @classmethod
    def draw(cls, name: str | None = None) -> "Task":
        """Draw a task: one of TASKS, by default any, with places and times at random."""
        name = name or list(TASKS)[int(torch.multinomial(torch.tensor(list(TASKS.values())), 1))]
        frames, sounds = torch.ones(LATENT_FRAMES, CELLS, CELLS), torch.ones(audio.FRAMES)
        first, last = sorted(torch.randperm(LATENT_FRAMES - 1)[:2].tolist())
        if name in ("first frame", "first and last frame"):
            frames[0] = 0
        elif name == "extend":
            frames[: first + 1] = 0
            sounds[: _sounds(first + 1)] = 0
        elif name == "retake":
            frames[: first + 1], frames[last + 1 :] = 0, 0
            sounds[: _sounds(first + 1)], sounds[_sounds(last + 1) :] = 0, 0
        elif name == "inpaint":
            frames[..., torch.randperm(CELLS)[: 1 + first % 2]] = 0
            sounds *= torch.rand(()) < 0.5
        elif name == "video to audio":
            frames.zero_()
        elif name == "audio to video":
            sounds.zero_()
        return cls({"video": frames.flatten(), "audio": sounds}, last_frame=name.endswith("last frame"))


def _sounds(frames: int) -> int:
    """How many audio latents are as long as ``frames`` video latents."""
    return round(pixel_frames(frames) / world.FPS * AUDIO_RATE)


def as_input(tokens: Tensor, levels: Tensor, places: Tensor, context: Tensor) -> StreamInput:
    """Return a stream whose tokens (B, N, C) have these noise levels (B, N), as the sampler makes it."""
    sigma, lowest = levels.amax(1), levels.amin(1)
    return StreamInput(tokens, sigma, places, context, None if torch.equal(sigma, lowest) else levels)


def positions(count: int) -> tuple[Tensor, Tensor]:
    """Return the positions of the tokens of ``count`` clips, video and audio."""
    grid = video_positions((LATENT_FRAMES, CELLS, CELLS), Fraction(world.FPS))
    return grid.expand(count, -1, -1, -1), audio_positions(audio.FRAMES).expand(count, -1, -1, -1)


def place_of_last_frame() -> Tensor:
    """Return the positions (1, 3, N, 2) of the tokens of the last picture, where it is given beside the clip's own."""
    place = video_positions((1, CELLS, CELLS), Fraction(world.FPS))
    place[:, 0] += (world.FRAMES - 1) / world.FPS
    return place


def noise_levels(count: int) -> Tensor:
    """Draw noise levels (B,): mostly where the schedules are slow, some anywhere."""
    return torch.where(torch.rand(count) < 0.1, torch.rand(count), torch.sigmoid(1 + 1.3 * torch.randn(count)))


def _off(error: Tensor, used: int) -> Tensor:
    """The mean square; channels that carry nothing count little, but should come out near zero."""
    square = error.square().mean((0, 1))
    return square[:used].mean() + 0.02 * square[used:].mean()


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, step: int) -> None:
    """Let ``average`` follow ``network`` as a running mean over some hundred steps, fewer in the beginning."""
    decay = min(0.995, (step + 1) / (step + 10))
    for slow, fast in zip(average.parameters(), network.parameters()):
        slow.lerp_(fast, 1 - decay)
