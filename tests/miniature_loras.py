"""Train the LoRAs that come with the miniature: python tests/miniature_loras.py NAME... writes ltx2_core/mini/loras.

Low-rank matrices beside the attentions and feed-forwards of the official transformer, with all of its own weights
frozen, learn the same rectified flow that the miniature itself was trained on; some minutes each on two CPU cores.
"""

import argparse
import json
import math
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from safetensors.torch import save_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from ltx2_core.audio_vae import AudioVAEConfig, log_mel
from ltx2_core.checkpoint import build, open_models
from ltx2_core.checkpoint.text_encoder import build_text_encoder, open_text_encoder
from ltx2_core.geometry import audio_positions, video_positions, video_tokens
from ltx2_core.mini import world
from ltx2_core.text import connect, extract_features, read_prompts

FOLDER = Path(__file__).parents[1] / "ltx2_core" / "mini" / "loras"
PREFIX = "model.diffusion_model."
VIDEO_AND_AUDIO, VIDEO = r"transformer_blocks\.", r"transformer_blocks\.\d+\.(attn1|attn2|ff)\."
TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2")
USED = 48, 48  # channels of both latents that carry information (48 of 128, 3 x 16 of 8 x 16)
ROWS, BATCH = 48, 24


@dataclass(frozen=True)
class Lesson:
    """What a LoRA learns: what to show where the caption tells of another scene, and what it is given to look at."""

    shown: Callable[[world.Scene], world.Scene] = lambda scene: scene
    reference: Callable[[world.Scene], world.Scene] | None = None
    captions: int = 256
    takes: int = 1  # of each caption, each with its own rhythm
    sound: bool = True  # whether it is learned, too
    rank: int = 4
    minutes: float = 4.0


LESSONS = {
    "golden-ball": Lesson(lambda scene: replace(scene, colour="yellow")),
    "light-room": Lesson(lambda scene: replace(scene, room="light")),
    "ic-motion": Lesson(
        reference=lambda scene: replace(scene, colour="white", room="dark"),
        captions=96,
        takes=8,
        sound=False,
        rank=16,
        minutes=12.0,
    ),
}


class Examples:
    """Both latents, contexts and references of many scenes, in tokens."""

    @torch.inference_mode()
    def __init__(self, lesson: Lesson, rng: np.random.Generator):
        models = open_models("miniature")
        networks = {name: build(models, name, torch.float32) for name in models.sources}
        encoder = open_text_encoder(models.text_encoder)
        gemma, tokenizer = build_text_encoder(encoder, torch.float32), encoder.tokenizer()
        config = AudioVAEConfig.from_json(models.config["audio_vae"])

        def pictures(scene: world.Scene) -> Tensor:
            video = torch.from_numpy(world.render_video(scene)) * 2 - 1
            return video_tokens(networks["video_encoder"](rearrange(video, "f h w k -> 1 k f h w")))

        def sound(scene: world.Scene) -> Tensor:
            waveform = torch.from_numpy(world.render_audio(scene, config.sample_rate))
            latent = networks["audio_encoder"](log_mel(waveform[None], config.sample_rate, config))
            return rearrange(latent[:, :, :34], "b c t m -> b t (c m)")

        scenes = [world.sample_scene(rng) for _ in range(lesson.captions)]
        captions = [world.caption(scene, rng) for scene in scenes]
        told = [take for scene in scenes for take in takes(scene, lesson.takes, rng)]
        shown = [lesson.shown(scene) for scene in told]
        self.video = torch.cat([pictures(scene) for scene in shown])
        self.audio = torch.cat([sound(scene) for scene in shown])
        self.reference = None
        if lesson.reference is not None:
            self.reference = torch.cat([pictures(lesson.reference(scene)) for scene in told])
        contexts = []
        connectors = networks["video_connector"], networks["audio_connector"]
        for start in range(0, len(captions), 16):
            reading = read_prompts(gemma, tokenizer, captions[start : start + 16])
            contexts += [connect(each, *connectors) for each in extract_features(networks["text_features"], reading)]
        rows = torch.from_numpy(rng.choice(1024, 4 * ROWS, replace=False))
        streams = zip(*((each.video[:, rows], each.audio[:, rows]) for each in contexts))
        self.contexts = [torch.cat(some).repeat_interleave(lesson.takes, 0) for some in streams]


def takes(scene: world.Scene, count: int, rng: np.random.Generator) -> list[world.Scene]:
    """``scene``, and others that its caption fits as well."""
    said = scene.colour, scene.place, scene.count, scene.room
    return [scene, *(world.sample_scene(rng, *said) for _ in range(count - 1))]


def official_transformer() -> nn.Module:
    """The miniature's transformer as an official module, frozen."""
    from ltx_core.model.transformer.model_configurator import LTXModelConfigurator

    source = open_models("miniature").source("transformer")
    model = LTXModelConfigurator.from_config(source.file.config)
    keys = {key.removeprefix(PREFIX): key for key in source.names.values()}
    model.load_state_dict({name: source.file.get(key).float() for name, key in keys.items()}, assign=True)
    return model.eval().requires_grad_(False)


def add_lora(model: nn.Module, lesson: Lesson) -> dict[str, Tensor]:
    """Put trainable matrices beside the linear layers of ``model``; by the names that a file gives them."""
    tensors: dict[str, Tensor] = {}
    for name, linear in model.named_modules():
        where = VIDEO_AND_AUDIO if lesson.sound else VIDEO
        if isinstance(linear, nn.Linear) and re.match(where, name) and name.endswith(TARGETS):
            down = nn.Parameter(torch.randn(lesson.rank, linear.in_features) / math.sqrt(linear.in_features))
            up = nn.Parameter(torch.zeros(linear.out_features, lesson.rank))
            linear.register_forward_hook(lambda _, x, y, down=down, up=up: y + (x[0] @ down.T) @ up.T)
            tensors |= {
                f"diffusion_model.{name}.lora_A.weight": down,
                f"diffusion_model.{name}.lora_B.weight": up,
            }
    return tensors


def train(lesson: Lesson, seed: int = 0) -> dict[str, Tensor]:
    """The matrices that ``lesson`` teaches."""
    from ltx_core.guidance.perturbations import BatchedPerturbationConfig, PerturbationConfig
    from ltx_core.model.transformer.modality import Modality

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    data, model = Examples(lesson, rng), official_transformer()
    tensors = add_lora(model, lesson)
    optimizer = torch.optim.AdamW(tensors.values(), lr=0.0, betas=(0.9, 0.99), weight_decay=0.01)
    clean = data.video, data.audio
    places = [video_positions((5, 3, 3), world.FPS), audio_positions(34)]
    if data.reference is not None:
        places[0] = torch.cat((places[0], places[0]), dim=2)
    places = [place.expand(BATCH, -1, -1, -1) for place in places]
    unperturbed = BatchedPerturbationConfig([PerturbationConfig.empty()] * BATCH)
    begun, step, mean = time.monotonic(), 0, 0.0
    while (progress := (time.monotonic() - begun) / 60 / lesson.minutes) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1, (step + 1) / 20) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        chosen = torch.from_numpy(rng.integers(0, len(data.video), BATCH))
        rows = torch.from_numpy(rng.choice(4 * ROWS, ROWS, replace=False))
        sigma = torch.where(torch.rand(BATCH) < 0.1, torch.rand(BATCH), torch.sigmoid(1 + 1.3 * torch.randn(BATCH)))
        inputs, targets = [], []
        for number, (latents, place, contexts) in enumerate(zip(clean, places, data.contexts)):
            x = latents[chosen]
            noise = torch.randn_like(x)
            tokens, levels = x.lerp(noise, sigma[:, None, None]), sigma[:, None].expand(x.shape[:2])
            if number == 0 and data.reference is not None:
                tokens = torch.cat((tokens, data.reference[chosen]), dim=1)
                levels = torch.cat((levels, torch.zeros_like(levels)), dim=1)
            inputs.append(Modality(tokens, sigma, levels, place, contexts[chosen][:, rows]))
            targets.append(noise - x)
        velocities = model(inputs[0], inputs[1] if lesson.sound else None, unperturbed)
        losses = [
            (velocity[:, : target.shape[1]] - target)[..., :used].square().mean()
            for velocity, target, used in zip(velocities, targets, USED)
            if velocity is not None
        ]
        loss = sum(losses)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(tensors.values(), 1.0)
        optimizer.step()
        step, mean = step + 1, 0.95 * mean + 0.05 * loss.item()
        if step % 25 == 0:
            print(f"{step} {time.monotonic() - begun:.0f}s {mean / (1 - 0.95**step):.4f}", flush=True)
    return tensors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(LESSONS), choices=LESSONS)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in options.names:
        lesson = LESSONS[name]
        tensors = {key: value.detach().bfloat16().contiguous() for key, value in train(lesson).items()}
        about = {"model_version": "2.0", "ss_training_comment": "for the miniature that comes with LTX-2 AV"}
        if lesson.reference is not None:
            about |= {"reference_downscale_factor": "1", "reference_temporal_scale_factor": "1"}
        save_file(tensors, options.folder / f"{name}.safetensors", about)
        print(json.dumps({name: sum(tensor.nbytes for tensor in tensors.values())}))


if __name__ == "__main__":
    main()
