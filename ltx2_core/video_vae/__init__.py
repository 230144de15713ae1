"""How do pixels become video latents, and latents pixels?"""

from .config import VideoVAEConfig, is_diffusion
from .decoder import VideoDecoder
from .decoding import Decoder, DecoderInput, Denoising
from .diffusion_config import DiffusionDecoderConfig
from .diffusion_decoder import DiffusionDecoder
from .encoder import VideoEncoder
from .tiling import TileWork, Tiling, encode_stream
from .tiny_decoder import TinyDecoder, TinyDecoderConfig

__all__ = [
    "Decoder",
    "DecoderInput",
    "Denoising",
    "DiffusionDecoder",
    "DiffusionDecoderConfig",
    "TileWork",
    "Tiling",
    "TinyDecoder",
    "TinyDecoderConfig",
    "VideoDecoder",
    "VideoEncoder",
    "VideoVAEConfig",
    "encode_stream",
    "is_diffusion",
]
