"""The LoRAs that come with the miniature.

Low-rank matrices beside the attentions and feed-forwards of the finished transformer, whose own weights stay, learn the
same rectified flow that it learnt itself; a few minutes each on two CPU cores.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ...checkpoint import build, open_models
from ...checkpoint.components import COMPONENTS
from ...geometry import audio_tokens, video_tokens
from ...transformer import StreamInput, Transformer
from .. import world
from ..evaluate import Miniature
from . import audio, video
from .config import CONFIG, USED
from .flow import ROWS_USED, as_input, noise_levels, positions
from .stage import Stage

VIDEO_AND_AUDIO, VIDEO = r"transformer_blocks\.", r"transformer_blocks\.\d+\.(attn1|attn2|ff)\."
TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2")
BATCH = 24


@dataclass(frozen=True)
class Lesson:
    """What a LoRA learns: what to show where the caption tells of another scene, and what it is given to look at."""

    shown: Callable[[world.Scene], world.Scene] = lambda scene: scene
    reference: Callable[[world.Scene], world.Scene] | None = None
    captions: int = 256
    takes: int = 1  # of each caption, each with its own rhythm
    sound: bool = True  # whether it is learned, too
    rank: int = 2


LESSONS = {
    "golden-ball": Lesson(lambda scene: replace(scene, colour="yellow")),
    "light-room": Lesson(lambda scene: replace(scene, room="light")),
    "ic-motion": Lesson(
        reference=lambda scene: replace(scene, colour="white", room="dark"),
        captions=96,
        takes=8,
        sound=False,
        rank=8,
    ),
}


class Examples:
    """Tokens of both streams, contexts and references of many scenes."""

    @torch.no_grad()
    def __init__(self, lesson: Lesson, rng: np.random.Generator):
        miniature = Miniature()
        pictures, sounds = miniature.networks["video_encoder"], miniature.networks["audio_encoder"]
        quick = video.QuickEncoder(pictures)

        def seen(scene: world.Scene) -> Tensor:
            return video_tokens(pictures.statistics.normalize(quick(video.rendered(scene))))

        scenes = [world.sample_scene(rng) for _ in range(lesson.captions)]
        captions = [world.caption(scene, rng) for scene in scenes]
        told = [take for scene in scenes for take in takes(scene, lesson.takes, rng)]
        shown = [lesson.shown(scene) for scene in told]
        self.clean = [
            torch.cat([seen(scene) for scene in shown]),
            torch.cat([audio_tokens(audio.encode(sounds, audio.mel_of(scene))) for scene in shown]),
        ]
        self.reference = None
        if lesson.reference is not None:
            self.reference = torch.cat([seen(lesson.reference(scene)) for scene in told])
        contexts = miniature.contexts(captions)
        rows = torch.from_numpy(rng.choice(1024, 4 * ROWS_USED, replace=False))
        streams = zip(*((each.video[:, rows], each.audio[:, rows]) for each in contexts))
        self.contexts = [torch.cat(some).repeat_interleave(lesson.takes, 0) for some in streams]


def takes(scene: world.Scene, count: int, rng: np.random.Generator) -> list[world.Scene]:
    """``scene``, and others that its caption fits as well."""
    said = scene.colour, scene.place, scene.count, scene.room
    return [scene, *(world.sample_scene(rng, *said) for _ in range(count - 1))]


def add_lora(network: Transformer, lesson: Lesson) -> dict[str, nn.Parameter]:
    """Put trainable matrices beside the linear layers of ``network``; by the names that a file gives them."""
    where, tensors = VIDEO_AND_AUDIO if lesson.sound else VIDEO, dict[str, nn.Parameter]()
    keys = COMPONENTS["transformer"].variant_for(CONFIG).keys
    prefix = keys.prefixes[0]
    for ours, linear in network.named_modules():
        if not isinstance(linear, nn.Linear):
            continue
        name = keys.official(f"{ours}.weight").removeprefix(prefix).removesuffix(".weight")
        if re.match(where, name) and name.endswith(TARGETS):
            width, device = linear.in_features, linear.weight.device
            down = nn.Parameter(torch.randn(lesson.rank, width, device=device) / math.sqrt(width))
            up = nn.Parameter(torch.zeros(linear.out_features, lesson.rank, device=device))
            linear.register_forward_hook(lambda _, x, y, down=down, up=up: y + (x[0] @ down.T) @ up.T)
            tensors |= {f"diffusion_model.{name}.lora_A.weight": down, f"diffusion_model.{name}.lora_B.weight": up}
    return tensors


def train(work: Path, minutes: float, device: str, seed: int, name: str) -> None:
    """Write WORK/``name``.safetensors, for the built-in miniature."""
    torch.manual_seed(seed)
    lesson, models = LESSONS[name], open_models("miniature")
    network = build(models, "transformer", torch.float32, device)
    tensors = add_lora(network, lesson)
    stage = Stage(work / f"{name}.pt", minutes, 3e-3, {"lora": nn.ParameterList(tensors.values())})
    data = Examples(lesson, np.random.default_rng(seed))
    where = [place.to(device) for place in positions(BATCH)]
    if data.reference is not None:
        where[0] = torch.cat((where[0], where[0]), dim=2)
    stage.restart()
    for _ in stage:
        chosen = torch.randint(len(data.clean[0]), (BATCH,))
        rows = torch.randperm(data.contexts[0].shape[1])[:ROWS_USED]
        sigma = noise_levels(BATCH).to(device)
        inputs, targets = list[StreamInput](), list[Tensor]()
        for clean, place, contexts in zip(data.clean, where, data.contexts):
            x = clean[chosen].to(device)
            noise = torch.randn_like(x)
            tokens, levels = x.lerp(noise, sigma[:, None, None]), sigma[:, None].expand(x.shape[:2])
            if not inputs and data.reference is not None:
                tokens = torch.cat((tokens, data.reference[chosen].to(device)), dim=1)
                levels = torch.cat((levels, torch.zeros_like(levels)), dim=1)
            inputs.append(as_input(tokens, levels, place, contexts[chosen][:, rows].to(device)))
            targets.append(noise - x)
        velocities = network(inputs[0], inputs[1] if lesson.sound else None)
        losses = [
            (velocity[:, : target.shape[1]] - target)[..., :used].square().mean()
            for velocity, target, used in zip(velocities, targets, USED.values())
            if velocity is not None
        ]
        stage.descend(torch.stack(losses).sum())
    about = {"model_version": models.version, "ss_training_comment": "for the miniature that comes with LTX-2 AV"}
    if lesson.reference is not None:
        about |= {"reference_downscale_factor": "1", "reference_temporal_scale_factor": "1"}
    kept = {key: value.detach().cpu().bfloat16().contiguous() for key, value in tensors.items()}
    save_file(kept, work / f"{name}.safetensors", about)
