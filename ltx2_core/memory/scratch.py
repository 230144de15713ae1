"""How many bytes does a stage need on the device, beside its weights?

Each number is the peak of live tensors seen when the networks of 2.0 and 2.3 ran at full size on the meta device,
with a margin for what the kernels themselves take.
"""

import torch
from torch import Tensor

from ..geometry import SPACE_SCALE, pixel_frames
from ..latents import AVLatent
from ..text import ConnectorConfig, GemmaConfig
from ..text.tokenizer import LENGTH
from ..transformer import TransformerConfig
from ..video_vae import Tiling

_KERNELS = 2**29


def text_encoding(config: GemmaConfig, prompts: int, dtype: torch.dtype) -> int:
    """Hidden states of all layers, and two copies of those of one prompt in float32 while they are normalised."""
    return 4 * prompts * (config.layers + 1) * LENGTH * config.width * dtype.itemsize + _KERNELS


def connecting(config: ConnectorConfig, dtype: torch.dtype) -> int:
    """16 values per channel of a context."""
    return 16 * config.rows * config.width * dtype.itemsize + _KERNELS


def sampling(config: TransformerConfig, latent: AVLatent, dtype: torch.dtype, passes: int = 1) -> int:
    """9 values per channel of a token, and one more for every pass of a step; as much again for the inputs of a block
    that is run again."""
    widths = {"video": config.video.width, "audio": config.audio.width}
    channels = sum(widths[name] * x.shape[0] * x[0, 0].numel() for name, x in latent.streams().items())
    return (10 + 2 * passes) * channels * dtype.itemsize + _KERNELS


def video_decoding(latent: Tensor, tiling: Tiling, dtype: torch.dtype) -> int:
    """26 values per pixel of a tile; 10 float32 per pixel of the frames that are blended."""
    frames, height, width = latent.shape[2:]
    share = min(1.0, tiling.pixels / (max(height, width) * SPACE_SCALE))  # of a tile along each side
    pixels = len(latent) * height * width * SPACE_SCALE**2 * min(tiling.frames, pixel_frames(frames))
    return int(pixels * (32 * share**2 * dtype.itemsize + 40)) + _KERNELS


def audio_decoding(latent: Tensor, dtype: torch.dtype) -> int:
    """330 thousand values per latent."""
    return len(latent) * latent.shape[2] * 2**19 * dtype.itemsize + _KERNELS


def vocoding(mel: Tensor) -> int:
    """310 KB per mel frame."""
    return len(mel) * mel.shape[2] * 400_000 + _KERNELS
