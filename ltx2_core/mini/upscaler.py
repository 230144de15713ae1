"""The miniature's upscaler: python -m ltx2_core.mini.upscaler fits it again and writes upscaler-mini.safetensors.

The miniature's decoder shows balls of one size and speed, and only where in a cell they were while it was trained. What
is enlarged is therefore the room: the same ball bounces in one of twice the width and height. The network learns that
from pairs of encoded clips.
"""

import json
from math import cos, pi

import numpy as np
import torch
from einops import rearrange
from safetensors.torch import save_file
from torch import Tensor, nn

from ..checkpoint import build, open_models
from ..checkpoint.keys.upscaler import UPSCALER
from ..checkpoint.upscaler import BUILT_IN, video_statistics
from ..geometry import SPACE_SCALE
from ..upscaler import Upscaler, UpscalerConfig
from ..video_vae import VideoEncoder
from ..video_vae.layers import ChannelStatistics
from . import world

SECTION = {"in_channels": 128, "dims": 3, "mid_channels": 32, "num_blocks_per_stage": 1}
SCENES, STEPS, BATCH = 240, 4500, 16


def render_large(scene: world.Scene) -> np.ndarray:
    """Render the same clip in a room of twice the size, (FRAMES, 2 SIZE, 2 SIZE, 3); left stays left."""
    left = list(world.PLACES).index(scene.place) * SPACE_SCALE
    return world.render_video(scene, height=2 * world.SIZE, width=2 * world.SIZE, left=left)


def pairs(encoder: VideoEncoder, scenes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Latents (N, C, f, h, w) of clips, and of the same clips in a room of twice the size."""
    rng, small, large = np.random.default_rng(seed), list[Tensor](), list[Tensor]()
    for _ in range(scenes):
        scene = world.sample_scene(rng)
        for found, video in ((small, world.render_video(scene)), (large, render_large(scene))):
            found.append(encoder(rearrange(torch.from_numpy(video) * 2 - 1, "f h w k -> 1 k f h w")))
    return torch.cat(small), torch.cat(large)


def fit(small: Tensor, large: Tensor, statistics: ChannelStatistics, steps: int = STEPS, seed: int = 0) -> Upscaler:
    """Train an upscaler from latents to latents, by least squares."""
    torch.manual_seed(seed)
    network = Upscaler(UpscalerConfig.from_json(SECTION))
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-4)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1, step / 100) * 0.5 * (1 + cos(pi * step / steps))
        chosen = torch.randint(0, len(small), (BATCH,))
        made = statistics.normalize(network(statistics.denormalize(small[chosen])))
        optimizer.zero_grad()
        (made - large[chosen]).square().mean().backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    return network


def main() -> None:
    """Train the upscaler of the built-in miniature, and write it."""
    models = open_models("miniature")
    with torch.inference_mode():
        small, large = pairs(build(models, "video_encoder", torch.float32), SCENES)
    network = fit(small.clone(), large.clone(), video_statistics(models))
    tensors = {UPSCALER.official(name): value for name, value in network.state_dict().items()}
    kept = {n: x.to(torch.float8_e4m3fn) if x.ndim > 1 else x.bfloat16() for n, x in tensors.items()}
    save_file(kept, BUILT_IN, {"config": json.dumps(SECTION)})


if __name__ == "__main__":
    main()
