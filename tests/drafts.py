"""Files of tiny decoders with random weights, named as taeltx is."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from ltx2_core.checkpoint.keys.video_vae import TINY_DECODER
from ltx2_core.video_vae import TinyDecoder, TinyDecoderConfig

SMALL = TinyDecoderConfig(128, (16, 8, 8, 8), patch=4)


def small_decoder() -> TinyDecoder:
    """A tiny decoder of few channels whose frames are neither flat nor out of range."""
    torch.manual_seed(0)
    return TinyDecoder(SMALL).eval()


def write_draft(path: Path, decoder: TinyDecoder | None = None, **changed: torch.Tensor) -> Path:
    """Write one, with a tensor of its encoder beside it; ``changed`` are other tensors, by their names in the file."""
    weights = (decoder or small_decoder()).state_dict()
    state = {TINY_DECODER.official(name): value for name, value in weights.items()}
    save_file(state | {"encoder.0.weight": torch.zeros(64, 48, 3, 3)} | changed, path)
    return path
