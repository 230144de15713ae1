"""The miniature's upscaler: python -m ltx2_core.mini.upscaler fits it again and writes upscaler-mini.safetensors.

The miniature's decoder shows balls of one size and speed, and only where in a cell they were while it was trained. What
is enlarged is therefore the room: the same ball bounces in one of twice the width and height. The network learns that
from pairs of encoded clips.
"""

import json
from math import cos, pi
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors.torch import save_file
from torch import Tensor, nn

from ..checkpoint import build, open_models
from ..checkpoint.keys.upscaler import UPSCALER
from ..checkpoint.upscaler import BUILT_IN, video_statistics
from ..geometry import SPACE_SCALE
from ..upscaler import Residual, Upscaler, UpscalerConfig
from ..video_vae import VideoEncoder
from ..video_vae.layers import Statistics
from . import world

SECTION = {"in_channels": 128, "dims": 3, "mid_channels": 32, "num_blocks_per_stage": 1}
SCENES, STEPS, BATCH = 240, 4500, 16


def render_large(scene: world.Scene) -> np.ndarray:
    """The same clip in a room of twice the size, (FRAMES, 2 SIZE, 2 SIZE, 3)."""
    wall, floor = (np.asarray(colour, np.float32) for colour in world.ROOMS[scene.room])
    small = world.render_video(scene)
    room = np.where(np.arange(2 * world.SIZE)[:, None, None] < world.FLOOR + world.SIZE, wall, floor)
    large = np.broadcast_to(room, (world.FRAMES, 2 * world.SIZE, 2 * world.SIZE, 3)).copy()
    left = list(world.PLACES).index(scene.place) * SPACE_SCALE  # left stays left, right stays right
    large[:, world.SIZE :, left : left + world.SIZE] = small
    return large


def pairs(encoder: VideoEncoder, scenes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Latents (N, C, f, h, w) of clips, and of the same clips in a room of twice the size."""
    rng, small, large = np.random.default_rng(seed), list[Tensor](), list[Tensor]()
    for _ in range(scenes):
        scene = world.sample_scene(rng)
        for found, video in ((small, world.render_video(scene)), (large, render_large(scene))):
            found.append(encoder(rearrange(torch.from_numpy(video) * 2 - 1, "f h w k -> 1 k f h w")))
    return torch.cat(small), torch.cat(large)


def enlarged(upscaler: Upscaler, x: Tensor) -> Tensor:
    """``upscaler(x)``, in a form that gradients can follow."""
    network: Any = upscaler

    def conv(layer: nn.Conv3d, x: Tensor) -> Tensor:
        return F.conv3d(x, layer.weight, layer.bias, padding=1)

    def norm(layer: nn.GroupNorm, x: Tensor) -> Tensor:
        return F.group_norm(x, layer.num_groups, layer.weight, layer.bias)

    def residual(block: Residual, x: Tensor) -> Tensor:
        hidden = F.silu(norm(block.norm1, conv(block.conv1, x)))
        return F.silu(x + norm(block.norm2, conv(block.conv2, hidden)))

    x = F.silu(norm(network.norm_in, conv(network.conv_in, x)))
    for block in network.before:
        x = residual(block, x)
    frames = rearrange(x, "b c f h w -> (b f) c h w")
    widening = network.upsample.conv
    frames = F.pixel_shuffle(F.conv2d(frames, widening.weight, widening.bias, padding=1), 2)
    x = rearrange(frames, "(b f) c h w -> b c f h w", b=len(x))
    for block in network.after:
        x = residual(block, x)
    return conv(network.conv_out, x)


def fit(small: Tensor, large: Tensor, statistics: Statistics, steps: int = STEPS, seed: int = 0) -> Upscaler:
    """An upscaler from latents to latents, by least squares."""
    torch.manual_seed(seed)
    network = Upscaler(UpscalerConfig.from_json(SECTION))
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-4)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1, step / 100) * 0.5 * (1 + cos(pi * step / steps))
        chosen = torch.randint(0, len(small), (BATCH,))
        made = statistics.normalize(enlarged(network, statistics.denormalize(small[chosen])))
        optimizer.zero_grad()
        (made - large[chosen]).square().mean().backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    return network


def main() -> None:
    models = open_models("miniature")
    with torch.inference_mode():
        small, large = pairs(build(models, "video_encoder", torch.float32), SCENES)
    network = fit(small.clone(), large.clone(), video_statistics(models))
    tensors = {UPSCALER.official(name): value for name, value in network.state_dict().items()}
    kept = {n: x.to(torch.float8_e4m3fn) if x.ndim > 1 else x.bfloat16() for n, x in tensors.items()}
    save_file(kept, BUILT_IN, {"config": json.dumps(SECTION)})


if __name__ == "__main__":
    main()
