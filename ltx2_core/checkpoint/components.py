"""The networks of LTX-2: how each is called in files, and how it is made from their config."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..audio_vae import AudioDecoder, AudioEncoder, AudioVAEConfig, VocoderConfig, make_vocoder
from ..quantization import SCALE_SUFFIXES
from ..text import Connector, ConnectorConfig, TextFeatures, TextFeaturesConfig
from ..transformer import Transformer, TransformerConfig
from ..video_vae import VideoDecoder, VideoEncoder, VideoVAEConfig
from .keys import Keys
from .keys.audio_vae import AUDIO_DECODER, AUDIO_ENCODER
from .keys.text import AUDIO_CONNECTOR, TEXT_FEATURES, VIDEO_CONNECTOR
from .keys.transformer import TRANSFORMER
from .keys.video_vae import VIDEO_DECODER, VIDEO_ENCODER
from .keys.vocoder import VOCODER

Config = dict[str, Any]
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Component:
    """One network: its key table, and how it is made from a config and the shapes of its tensors (our names)."""

    keys: Keys
    make: Callable[[Config, Shapes], nn.Module]

    def prefix_in(self, keys: Iterable[str]) -> str | None:
        """The prefix that this component's tensors have in a file; None if the file holds none of them."""
        keys = list(keys)
        for prefix in self.keys.prefixes:
            if any(self._wanted(key, prefix) for key in keys):
                return prefix
        return None

    def names(self, keys: Iterable[str], prefix: str) -> dict[str, str]:
        """Our name of every tensor of this component, quantisation scales included, to its key in the file."""
        found = {}
        for key in keys:
            module, _, leaf = key.rpartition(".")
            if leaf in SCALE_SUFFIXES:
                weight = self._wanted(f"{module}.weight", prefix)
                name = weight and f"{weight.removesuffix('weight')}{leaf}"
            else:
                name = self._wanted(key, prefix)
            if name:
                found[name] = key
        return found

    def claims(self, key: str) -> bool:
        """Whether the file's ``key`` belongs here, wanted or not."""
        module, _, leaf = key.rpartition(".")
        key = f"{module}.weight" if leaf in SCALE_SUFFIXES else key
        return any(self.keys.knows(key, prefix) for prefix in self.keys.prefixes)

    def official(self, name: str) -> str:
        """What the official file calls our ``name``."""
        module, _, leaf = name.rpartition(".")
        if leaf in SCALE_SUFFIXES:
            return f"{self.keys.official(f'{module}.weight').removesuffix('weight')}{leaf}"
        return self.keys.official(name)

    def _wanted(self, key: str, prefix: str) -> str | None:
        return self.keys.ours(key, prefix) if self.keys.knows(key, prefix) else None


COMPONENTS = {
    "transformer": Component(
        TRANSFORMER, lambda config, shapes: Transformer(TransformerConfig.from_json(config["transformer"]))
    ),
    "text_features": Component(
        TEXT_FEATURES, lambda config, shapes: TextFeatures(TextFeaturesConfig.from_json(config["transformer"], shapes))
    ),
    "video_connector": Component(
        VIDEO_CONNECTOR, lambda config, shapes: Connector(ConnectorConfig.from_json(config["transformer"], "video"))
    ),
    "audio_connector": Component(
        AUDIO_CONNECTOR, lambda config, shapes: Connector(ConnectorConfig.from_json(config["transformer"], "audio"))
    ),
    "video_encoder": Component(
        VIDEO_ENCODER, lambda config, shapes: VideoEncoder(VideoVAEConfig.from_json(config["vae"]))
    ),
    "video_decoder": Component(
        VIDEO_DECODER, lambda config, shapes: VideoDecoder(VideoVAEConfig.from_json(config["vae"]))
    ),
    "audio_encoder": Component(
        AUDIO_ENCODER, lambda config, shapes: AudioEncoder(AudioVAEConfig.from_json(config["audio_vae"]))
    ),
    "audio_decoder": Component(
        AUDIO_DECODER, lambda config, shapes: AudioDecoder(AudioVAEConfig.from_json(config["audio_vae"]))
    ),
    "vocoder": Component(VOCODER, lambda config, shapes: make_vocoder(VocoderConfig.from_json(config["vocoder"]))),
}
