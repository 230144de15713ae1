"""How do pixels become video latents, and latents pixels?"""

from .config import VideoVAEConfig
from .decoder import VideoDecoder
from .encoder import VideoEncoder
from .tiling import Tiling, decode_tiled, encode_stream

__all__ = [
    "Tiling",
    "VideoDecoder",
    "VideoEncoder",
    "VideoVAEConfig",
    "decode_tiled",
    "encode_stream",
]
