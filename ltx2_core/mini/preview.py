"""Previews of the miniature's clips: python -m ltx2_core.mini.preview fits them again and writes preview.safetensors.

A cell of its latent shows 32 x 32 pixels of eight frames, in which a ball moves far; its maps therefore paint 8 x 8
pixels of every frame instead of one colour. Those of the sound give the whole mel spectrogram, because on a CPU the
audio decoder takes longer than a step. All are the least-squares fit to clips of the one-ball world.
"""

from pathlib import Path

import numpy as np
import torch
from einops import rearrange, reduce
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..audio_vae import AudioEncoder, AudioVAEConfig, log_mel
from ..audio_vae.preview import MelFactors
from ..pipeline.preview import MiniatureFactors
from ..video_vae import VideoEncoder
from ..video_vae.preview import PreviewFactors
from . import world
from .recipe.config import USED

FILE = Path(__file__).parent / "preview.safetensors"
SIDE = 8  # pixels of a cell's preview
# In a room of twice the size, latents of the empty wall lie a little nearer to those of the floor. The decoder shows
# nothing of it; a linear map would paint a pale strip of floor into each cell.
SLACK = 0.04


def miniature_factors() -> PreviewFactors:
    """Return the fitted maps of the picture."""
    tensors = load_file(FILE)
    first, later = (_whole(tensors[name], USED["video"]) for name in ("first", "later"))
    return PreviewFactors(first, later, SLACK)


def miniature_mel_factors() -> MelFactors:
    """Return the fitted maps of the sound."""
    tensors = load_file(FILE)
    return MelFactors(*(_whole(tensors[name], USED["audio"]) for name in ("first_mel", "later_mel")))


def preview_factors() -> MiniatureFactors:
    """Return the maps of picture and sound, for a preview."""
    return MiniatureFactors(miniature_factors(), miniature_mel_factors())


def _whole(kept: Tensor, used: int) -> Tensor:
    """A table (used + 1, ...) as it is in the file, with zeros for the channels that carry nothing: (128 + 1, ...)."""
    nothing = kept.new_zeros(128 - used, *kept.shape[1:])
    return torch.cat((kept[:used], nothing, kept[used:])).float()


def fit(encoder: VideoEncoder, clips: int = 400, seed: int = 0) -> PreviewFactors:
    """Maps from what ``encoder`` makes of true clips to these clips."""
    rng = np.random.default_rng(seed)
    cells: dict[str, list[Tensor]] = {"first": [], "later": []}
    pixels: dict[str, list[Tensor]] = {"first": [], "later": []}
    for _ in range(clips):
        video = torch.from_numpy(world.render_video(world.sample_scene(rng))) * 2 - 1
        latent = rearrange(encoder(rearrange(video, "f h w k -> 1 k f h w")), "1 c f h w -> f h w c")
        small = reduce(video, "f (h y) (w x) k -> f h w k", "mean", y=32 // SIDE, x=32 // SIDE)
        tiles = rearrange(small, "f (h y) (w x) k -> f h w y x k", y=SIDE, x=SIDE)
        for name, cell, tile in (
            ("first", latent[:1], tiles[:1, None]),
            ("later", latent[1:], rearrange(tiles[1:], "(f t) ... -> f t ...", t=8)),
        ):
            cells[name].append(cell.flatten(0, 2))
            order = "f t h w y x k -> (f h w) t y x k"
            pixels[name].append(rearrange(tile, order))
    first, later = (_least_squares(torch.cat(cells[n]), torch.cat(pixels[n])) for n in ("first", "later"))
    return PreviewFactors(first, later, SLACK)


def fit_mel(encoder: AudioEncoder, config: AudioVAEConfig, clips: int = 400) -> MelFactors:
    """Maps from what ``encoder`` makes of true sounds to their mel."""
    rng = np.random.default_rng(0)
    latents, mels = [], []
    for _ in range(clips):
        sound = torch.from_numpy(world.render_audio(world.sample_scene(rng), config.sample_rate))
        mel = log_mel(sound[None], config.sample_rate, config)
        latent = rearrange(encoder(mel), "1 c t m -> t (c m)")
        latents.append(latent)
        mels.append(mel[0].mean(dim=0)[: 4 * len(latent) - 3])
    frames, sounds = torch.stack(latents), torch.stack(mels)
    later = rearrange(sounds[:, 1:], "n (t f) bins -> (n t) f bins", f=4)
    return MelFactors(_least_squares(frames[:, 0], sounds[:, :1]), _least_squares(frames[:, 1:].flatten(0, 1), later))


def _least_squares(cells: Tensor, pixels: Tensor) -> Tensor:
    """(N, C) and (N, ...) to the (C + 1, ...) that maps one to the other best; slightly damped."""
    known = torch.cat((cells, torch.ones(len(cells), 1)), dim=1).double()
    square = known.T @ known + 1e-3 * len(cells) * torch.eye(known.shape[1])
    return torch.linalg.solve(square, known.T @ pixels.flatten(1).double()).float().unflatten(1, pixels.shape[1:])


def main() -> None:
    """Fit the tables of the preview to the built-in miniature, and write them."""
    from ..checkpoint import build, open_models

    models = open_models("miniature")
    config = AudioVAEConfig.from_json(models.config["audio_vae"])
    with torch.inference_mode():
        picture = fit(build(models, "video_encoder", torch.float32))
        sound = fit_mel(build(models, "audio_encoder", torch.float32), config)
    tables = {
        "first": (picture.first, "video"),
        "later": (picture.later, "video"),
        "first_mel": (sound.first, "audio"),
        "later_mel": (sound.later, "audio"),
    }
    kept = {name: table[[*range(USED[stream]), -1]] for name, (table, stream) in tables.items()}
    save_file({name: table.half().contiguous() for name, table in kept.items()}, FILE)


if __name__ == "__main__":
    main()
