"""The networks of LTX-2: how their tensors are called in files, and how each is made from its config.

A new architecture of a component is one more ``Variant`` in its row of COMPONENTS.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..audio_vae import AudioDecoder, AudioEncoder, AudioVAEConfig, VocoderConfig, make_vocoder
from ..quantization import join_companion, split_companion
from ..text import Connector, ConnectorConfig, TextFeatures, TextFeaturesConfig
from ..transformer import Transformer, TransformerConfig
from ..video_vae import (
    DiffusionDecoder,
    DiffusionDecoderConfig,
    TinyDecoder,
    TinyDecoderConfig,
    VideoDecoder,
    VideoEncoder,
    VideoVAEConfig,
    is_diffusion,
)
from .keys import Keys
from .keys.audio_vae import AUDIO_DECODER, AUDIO_ENCODER
from .keys.text import AUDIO_CONNECTOR, TEXT_FEATURES, VIDEO_CONNECTOR
from .keys.transformer import TRANSFORMER
from .keys.video_vae import DIFFUSION_DECODER, TINY_DECODER, VIDEO_DECODER, VIDEO_ENCODER
from .keys.vocoder import VOCODER
from .versions import Shapes

Config = dict[str, Any]
ComponentNetwork = Any  # an nn.Module, of the class that stands for a component's name


@dataclass(frozen=True)
class Variant:
    """One architecture that a component can have: its key table, and how it is made from a config."""

    keys: Keys
    build: Callable[[Config, Shapes], nn.Module]  # from a config and the shapes of its tensors, by our names
    is_meant: Callable[[Config], bool] = lambda config: True  # whether a config describes this variant

    def prefix_in(self, keys: Iterable[str]) -> str | None:
        """Return the prefix that this variant's tensors have in a file; None if the file holds none of them."""
        keys = list(keys)
        for prefix in self.keys.prefixes:
            if any(self.keys.ours(key, prefix) for key in self.keys.possible(keys, prefix)):
                return prefix
        return None

    def names_in(self, keys: Iterable[str]) -> dict[str, str]:
        """Return our name of every tensor, quantisation scales included, with its key in the file; empty if the file
        holds none of them."""
        keys = list(keys)
        if (prefix := self.prefix_in(keys)) is None:
            return {}
        names = {}
        for key in self.keys.possible(keys, prefix):
            weight, suffix = split_companion(key)
            if name := self.keys.ours(weight, prefix):
                names[join_companion(name, suffix)] = key
        return names

    def claims(self, key: str) -> bool:
        """Return whether the file's ``key`` belongs here, wanted or not."""
        weight, _ = split_companion(key)
        return any(self.keys.knows(weight, prefix) for prefix in self.keys.prefixes)

    def has(self, name: str) -> bool:
        """Return whether the network has a tensor that we call ``name``."""
        try:
            self.keys.official(name)
        except KeyError:
            return False
        return True


SHARED = "statistics."  # what the names of tensors begin with that several components have


@dataclass(frozen=True)
class Component:
    """One network of a model, in each of the architectures that versions gave it."""

    variants: tuple[Variant, ...]

    def find(self, keys: Iterable[str]) -> tuple[Variant, dict[str, str]] | None:
        """Return the variant whose tensors a file with these keys holds, and their names, ours to the file's.

        The variant that knows most of the keys counts; None if the file holds nothing of this component, or just the
        statistics of a latent, which encoder and decoder of a VAE share.
        """
        keys = list(keys)
        found = [(variant, variant.names_in(keys)) for variant in self.variants]
        variant, names = max(found, key=lambda pair: len(pair[1]))
        return (variant, names) if any(not name.startswith(SHARED) for name in names) else None

    def variant_for(self, config: Config) -> Variant:
        """Return the variant that a config describes."""
        return next(variant for variant in self.variants if variant.is_meant(config))

    def make(self, config: Config, shapes: Shapes) -> nn.Module:
        """Make the network that ``config`` describes, without weights.

        ``shapes`` are those of its tensors, by our names; they decide what configs leave open, and may be empty.
        """
        return self._variant_of(config, shapes).build(config, shapes)

    def _variant_of(self, config: Config, shapes: Shapes) -> Variant:
        """The variant that tensors belong to; where they do not tell, the one that the config describes."""
        if len(self.variants) == 1:
            return self.variants[0]
        known = [sum(map(variant.has, shapes)) for variant in self.variants]
        best = max(known)
        return self.variants[known.index(best)] if known.count(best) == 1 else self.variant_for(config)

    def claims(self, key: str) -> bool:
        """Return whether the file's ``key`` belongs to any variant of this component, wanted or not."""
        return any(variant.claims(key) for variant in self.variants)


def _component(keys: Keys, build: Callable[[Config, Shapes], nn.Module]) -> Component:
    """A component that has had one architecture so far."""
    return Component((Variant(keys, build),))


def _transformer(config: Config, shapes: Shapes) -> Transformer:
    """Whether keyframes carry a mark is what the tensors say: some repacked files of 2.5 lack it."""
    section = config["transformer"]
    if "video.project_in.weight" in shapes:
        section = section | {"use_keyframes_abs_pos_embedding": "video.keyframe_mark" in shapes}
    return Transformer(TransformerConfig.from_json(section))


COMPONENTS = {
    "transformer": _component(TRANSFORMER, _transformer),
    "text_features": _component(
        TEXT_FEATURES, lambda config, shapes: TextFeatures(TextFeaturesConfig.from_json(config["transformer"], shapes))
    ),
    "video_connector": _component(
        VIDEO_CONNECTOR, lambda config, shapes: Connector(ConnectorConfig.from_json(config["transformer"], "video"))
    ),
    "audio_connector": _component(
        AUDIO_CONNECTOR, lambda config, shapes: Connector(ConnectorConfig.from_json(config["transformer"], "audio"))
    ),
    "video_encoder": _component(
        VIDEO_ENCODER, lambda config, shapes: VideoEncoder(VideoVAEConfig.from_json(config["vae"]))
    ),
    "video_decoder": Component(
        (
            Variant(
                DIFFUSION_DECODER,
                lambda config, shapes: DiffusionDecoder(DiffusionDecoderConfig.from_json(config["vae"], shapes)),
                lambda config: is_diffusion(config["vae"]),
            ),
            Variant(
                VIDEO_DECODER, lambda config, shapes: VideoDecoder(VideoVAEConfig.from_json(config["vae"], shapes))
            ),
            Variant(
                TINY_DECODER,
                lambda config, shapes: TinyDecoder(TinyDecoderConfig.from_shapes(shapes)),
                lambda config: False,  # no config describes it
            ),
        )
    ),
    "audio_encoder": _component(
        AUDIO_ENCODER, lambda config, shapes: AudioEncoder(AudioVAEConfig.from_json(config["audio_vae"]))
    ),
    "audio_decoder": _component(
        AUDIO_DECODER, lambda config, shapes: AudioDecoder(AudioVAEConfig.from_json(config["audio_vae"]))
    ),
    "vocoder": _component(VOCODER, lambda config, shapes: make_vocoder(VocoderConfig.from_json(config["vocoder"]))),
}


def is_claimed(name: str) -> bool:
    """Return whether a tensor of this official name belongs to any component, wanted or not."""
    return any(component.claims(name) for component in COMPONENTS.values())
