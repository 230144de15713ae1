"""The video autoencoder: an encoder that is fitted, a decoder that is trained."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ...checkpoint.components import ComponentNetwork
from ...geometry import SPACE_SCALE, TIME_SCALE, latent_frames, pixel_frames
from ...video_vae import VideoDecoder
from ...video_vae.layers import Conv, patchify, pixel_norm
from .. import world
from .config import VIDEO_CHANNELS, Layer, new
from .stage import LOG_VARIANCE, Stage, keep, rounded, start_linear

LATENTS, CELLS = latent_frames(world.FRAMES), world.SIZE // SPACE_SCALE  # of a clip
LONGEST = 65  # frames of the longest clips
SCENES = 1000  # that the decoder is trained with
BATCH = 2
RATE = 3e-3
NOISE = 0.2  # the most that is added to latents, which the decoder learns to forgive


class QuickEncoder:
    """A fitted encoder as what it is: a linear map of a cell's pixels, a norm, and another linear map."""

    def __init__(self, encoder: ComponentNetwork):
        self.first, self.later = _map(encoder, frames=1), _map(encoder, frames=1 + TIME_SCALE)
        self.out = encoder.conv_out.weight[:-1, :, -1, 1, 1].detach(), encoder.conv_out.bias[:-1].detach()

    def __call__(self, pixels: Tensor) -> Tensor:
        """What the encoder makes of (B, 3, F, H, W), twenty times as fast."""
        cells = "b c (f t) (h y) (w x) -> b f h w (c t y x)"
        size = {"y": SPACE_SCALE, "x": SPACE_SCALE}
        first = F.linear(rearrange(pixels[:, :, :1], cells, t=1, **size), *self.first)
        later = F.linear(rearrange(pixels[:, :, 1:], cells, t=TIME_SCALE, **size), *self.later)
        x = torch.cat([first, later], dim=1)
        return F.linear(F.silu(F.rms_norm(x, x.shape[-1:], eps=1e-8)), *self.out).movedim(-1, 1)


def _map(encoder: ComponentNetwork, frames: int) -> tuple[Tensor, Tensor]:
    """Weight (C, pixels of a cell) and bias of all before the norm, for the last latent of a clip of ``frames``."""
    with torch.enable_grad():
        pixels = torch.zeros(1, 3, frames, SPACE_SCALE, SPACE_SCALE, device=encoder.conv_in.weight.device)
        x = encoder.conv_in(patchify(pixels.requires_grad_(), encoder.config.patch_size))
        for (block,) in encoder.blocks:
            x = block(x)
        features = x[0, :, -1, 0, 0]
        rows = [torch.autograd.grad(feature, pixels, retain_graph=True)[0] for feature in features]
    return torch.stack([row[0, :, -TIME_SCALE:].flatten() for row in rows]), features.detach()


@torch.no_grad()
def fit_encoder(work: Path, minutes: float, device: str, seed: int, scenes: int = 120) -> None:
    """Principal components of true clips, layer by layer: what is kept is what differs most."""
    encoder = new("video_encoder")
    rng = np.random.default_rng(seed)
    videos = np.stack([world.render_video(world.sample_scene(rng)) for _ in range(scenes)])
    x = patchify(rearrange(torch.from_numpy(videos) * 2 - 1, "b f h w c -> b c f h w"), encoder.config.patch_size)
    look_at_present(encoder.conv_in, *principal(x, x.shape[1]))
    x = encoder.conv_in(x)
    for (block,) in encoder.blocks:
        weight, bias = principal(x, len(block.conv.weight))
        if block is encoder.blocks[-1][0]:  # a constant keeps the norm that follows from making much of empty rooms
            weight[-1], bias[-1] = 0, 1.5
        look_at_present(block.conv, weight, bias)
        x = block(x)
    x = F.silu(pixel_norm(x))
    weight, bias = principal(x, VIDEO_CHANNELS)
    # The first components tell rooms apart, the ball follows far behind: the range is compressed.
    spread = torch.einsum("oc,bcfhw->obfhw", weight, x).flatten(1).std(1)
    scale = (spread / spread[2]).sqrt().clamp(max=1) / spread
    look_at_present(encoder.conv_out, weight * scale[:, None], bias * scale)
    encoder.conv_out.bias[-1] = LOG_VARIANCE
    keep({"encoder": rounded(encoder)}, work / "video-encoder.pt")


def principal(features: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the ``count`` strongest directions (count, C) of features (B, C, ...), and the bias that centres them."""
    flat = features.transpose(0, 1).flatten(1)
    mean = flat.mean(1)
    values, vectors = torch.linalg.eigh(torch.cov(flat))
    weight = vectors.flip(1)[:, :count].T / values[-1].sqrt()
    return weight, -weight @ mean


def look_at_present(conv: Layer, weight: Tensor, bias: Tensor) -> None:
    """Let ``conv`` see nothing but the present voxel; outputs that are not given become zero."""
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
    conv.weight[: len(weight), : weight.shape[1], -1, 1, 1] = weight  # causal: the last of three is the present
    conv.bias[: len(bias)] = bias


class Clips:
    """Clips of many scenes, as bytes, where their ball is, and their latents; all of them also longer and larger."""

    def __init__(self, encoder: QuickEncoder, count: int, rng: np.random.Generator, device: str):
        self.device = device
        scenes = [world.sample_scene(rng) for _ in range(count)]
        self.videos = torch.stack([as_bytes(world.render_video(scene, LONGEST)) for scene in scenes])
        self.balls = torch.stack([as_bytes(world.ball_coverage(scene, LONGEST)[..., None]) for scene in scenes])
        self.latents = torch.cat([encoder(as_pixels(video[None].to(device))) for video in self.videos])
        self.empty = [-1 if scene.place == "left" else 0 for scene in scenes]  # a column of the room without ball

    def draw(
        self, count: int, rng: np.random.Generator, latents: int = LATENTS, rows: int = CELLS, columns: int = CELLS
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Latents (B, C, f, h, w), pictures (B, 3, F, H, W), and the ball (B, 1, F, H, W) in 0..1.

        A cell is encoded by itself: a larger room has more of the cells in which there is no ball.
        """
        found: list[list[Tensor]] = [[], [], []]
        for i in rng.integers(0, len(self.videos), count):
            left = int(rng.integers(columns - CELLS + 1))
            clips = self.latents[i, :, :latents], self.videos[i].movedim(-1, 0), self.balls[i].movedim(-1, 0)
            for kept, clip, unit in zip(found, clips, (1, SPACE_SCALE, SPACE_SCALE)):
                clip = clip if unit == 1 else clip[:, : pixel_frames(latents)]
                kept.append(in_larger_room(clip, self.empty[i], rows * unit, columns * unit, left * unit))
        latent, video, ball = (torch.stack(clips).to(self.device) for clips in found)
        return latent, video / 127.5 - 1, ball / 255


def in_larger_room(clip: Tensor, empty: int, height: int, width: int, left: int) -> Tensor:
    """``clip`` (C, F, H, W) at the floor of a larger room, whose other columns are like column ``empty``."""
    column = clip[..., [empty]]
    lower = column.repeat(1, 1, 1, width)
    lower[..., left : left + clip.shape[3]] = clip
    upper = column[:, :, :1].expand(-1, -1, height - clip.shape[2], width)
    return torch.cat((upper, lower), dim=2)


def rendered(scene: world.Scene) -> Tensor:
    """Return the pictures of ``scene``, (1, 3, F, H, W) in -1..1, rounded as a file would round them."""
    return as_pixels(as_bytes(world.render_video(scene))[None])


def as_bytes(pictures: np.ndarray) -> Tensor:
    """Turn numbers in 0..1 into bytes."""
    return torch.from_numpy(pictures * 255).round().byte()


def as_pixels(video: Tensor) -> Tensor:
    """Turn bytes (B, F, H, W, 3) into pixels (B, 3, F, H, W) in -1..1."""
    return rearrange(video, "b f h w c -> b c f h w") / 127.5 - 1


def load_encoder(work: Path, device: str) -> QuickEncoder:
    """Load the fitted encoder, with neutral statistics."""
    encoder = new("video_encoder")
    encoder.load_state_dict(torch.load(work / "video-encoder.pt", weights_only=True, map_location="cpu")["encoder"])
    return QuickEncoder(encoder.requires_grad_(False).to(device))


def new_decoder() -> VideoDecoder:
    """Make a decoder before training: its residual layers do nothing yet, so small things stay visible."""
    decoder = new("video_decoder")
    for name, module in decoder.named_modules():
        if isinstance(module, Conv):
            start_linear(module, open=not name.endswith("conv2"))
    return decoder


def train_decoder(work: Path, minutes: float, device: str, seed: int, scenes: int = SCENES) -> None:
    """Learn to draw from latents, also if they are somewhat off, and also longer clips and larger rooms."""
    decoder = new_decoder().to(device)
    stage = Stage(work / "video-decoder.pt", minutes, RATE, {"decoder": decoder})
    rng = np.random.default_rng([seed, stage.step])
    clips = Clips(load_encoder(work, device), scenes, rng, device)
    stage.restart()
    for step in stage:
        if step % 4 == 1:
            drawn = clips.draw(1, rng, latents=int(rng.integers(LATENTS, latent_frames(LONGEST) + 1)))
        elif step % 4 == 3:
            drawn = clips.draw(1, rng, rows=int(rng.integers(CELLS, 7)), columns=int(rng.integers(CELLS, 7)))
        else:
            drawn = clips.draw(BATCH, rng)
        latents, pictures, balls = drawn
        noise = NOISE * torch.rand(len(latents), 1, 1, 1, 1, device=device) * torch.randn_like(latents)
        noise[:, VIDEO_CHANNELS:] = 0
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            made = decoder(latents + noise)
        error = made.float() - pictures
        # Mostly squares: absolute errors are content with an empty room for a long time.
        loss = ((1 + 5 * balls) * (4 * error.square() + 0.2 * error.abs())).mean()
        stage.descend(loss, psnr=-10 * torch.log10((error.detach() / 2).square().mean()))
