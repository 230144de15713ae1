"""How does a waveform become a latent, and a latent a waveform? Mel frames lie in between."""

from .config import AudioVAEConfig, ExtensionConfig, GeneratorConfig, VocoderConfig
from .decoder import AudioDecoder
from .encoder import AudioEncoder, encode_waveform
from .mel import log_mel
from .resample import resample
from .vocoder import BandwidthExtendingVocoder, Vocoder, make_vocoder, vocode_chunked

__all__ = [
    "AudioDecoder",
    "AudioEncoder",
    "AudioVAEConfig",
    "BandwidthExtendingVocoder",
    "ExtensionConfig",
    "GeneratorConfig",
    "Vocoder",
    "VocoderConfig",
    "encode_waveform",
    "log_mel",
    "make_vocoder",
    "resample",
    "vocode_chunked",
]
