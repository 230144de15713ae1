"""The architecture of the video VAE, read from the checkpoint's ``vae`` section (see README.md, "Config")."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import CheckpointError

STRIDES = {"space": (1, 2, 2), "time": (2, 1, 1), "all": (2, 2, 2)}
PADDING_MODES = ("zeros", "reflect")


@dataclass(frozen=True)
class ResidualConfig:
    """A sequence of residual layers of one width."""

    layers: int


@dataclass(frozen=True)
class ResampleConfig:
    """A change of resolution: ``stride`` (time, height, width) down in the encoder, up in the decoder.

    The encoder multiplies its channels by ``multiplier``, the decoder divides them by it.
    """

    stride: tuple[int, int, int]
    multiplier: int
    residual: bool = False


BlockConfig = ResidualConfig | ResampleConfig


@dataclass(frozen=True)
class VideoVAEConfig:
    """Sizes and variants of encoder and decoder.

    Blocks stand in the order in which they run; a file lists the decoder's backwards.
    """

    encoder_blocks: tuple[BlockConfig, ...]
    decoder_blocks: tuple[BlockConfig, ...]
    latent_channels: int = 128
    decoder_base_channels: int = 128
    in_channels: int = 3
    out_channels: int = 3
    patch_size: int = 4
    causal_decoder: bool = False
    encoder_padding: str = "zeros"
    decoder_padding: str = "reflect"

    def __post_init__(self) -> None:
        for padding in (self.encoder_padding, self.decoder_padding):
            if padding not in PADDING_MODES:
                raise CheckpointError(
                    f"The video VAE asks for {padding!r} padding; supported: {', '.join(PADDING_MODES)}."
                )
        encoder, decoder = _scale(self.encoder_blocks), _scale(self.decoder_blocks)
        if encoder != decoder:
            raise CheckpointError(
                f"The video VAE's encoder blocks shrink time, height and width by {encoder}, its decoder blocks grow "
                f"them by {decoder}; both must agree. Is the config complete?"
            )

    @property
    def time_scale(self) -> int:
        """Frames per latent frame, not counting the first, which stands for one frame."""
        return _scale(self.encoder_blocks)[0]

    @property
    def space_scale(self) -> int:
        """Pixels per latent along height and width."""
        return self.patch_size * _scale(self.encoder_blocks)[1]

    @classmethod
    def from_json(cls, section: Mapping[str, Any]) -> "VideoVAEConfig":
        """Read the ``vae`` section; absent keys take the defaults of the official reader.

        Raises:
            CheckpointError: The section asks for something that this package does not have.
        """
        _expect(section, "dims", 3)
        _expect(section, "norm_layer", "pixel_norm")
        _expect(section, "latent_log_var", "uniform", "constant")
        _expect(section, "timestep_conditioning", False, default=True)
        # Files without the key (2.0) mean zeros in the encoder and reflect in the decoder: README.md, "Padding".
        padding = section.get("spatial_padding_mode")
        return cls(
            encoder_blocks=tuple(_blocks(section, "encoder_blocks", suffix="_res", multiplier=2)),
            decoder_blocks=tuple(_blocks(section, "decoder_blocks", suffix="", multiplier=1))[::-1],
            latent_channels=section.get("latent_channels", 128),
            decoder_base_channels=section.get("decoder_base_channels", 128),
            in_channels=section.get("in_channels", 3),
            out_channels=section.get("out_channels", 3),
            patch_size=section.get("patch_size", 4),
            causal_decoder=section.get("causal_decoder", False),
            encoder_padding=padding or section.get("encoder_spatial_padding_mode", "zeros"),
            decoder_padding=padding or "reflect",
        )


def _scale(blocks: Iterable[BlockConfig]) -> tuple[int, int, int]:
    strides = [block.stride for block in blocks if isinstance(block, ResampleConfig)]
    time, height, width = zip((1, 1, 1), *strides)
    return math.prod(time), math.prod(height), math.prod(width)


def _blocks(section: Mapping[str, Any], key: str, suffix: str, multiplier: int) -> Iterable[BlockConfig]:
    """The blocks of one half, in the file's order. ``suffix`` and ``multiplier``: the half's naming and default."""
    if not section.get(key):
        raise CheckpointError(f"The vae config lists no {key}; a convolutional video VAE (LTX-2.0, 2.3) has them.")
    resamples = {f"compress_{axis}{suffix}": stride for axis, stride in STRIDES.items()}
    for name, settings in section[key]:
        settings = {"num_layers": settings} if isinstance(settings, int) else settings
        if settings.get("inject_noise"):
            raise CheckpointError(
                f"The vae config's {key} ask for inject_noise, which no released LTX-2 uses and we lack."
            )
        if name == "res_x":
            yield ResidualConfig(settings["num_layers"])
        elif name in resamples:
            # Only compress_all reads the flag, whatever the others say: README.md, "Layers".
            residual = name == "compress_all" and settings.get("residual", False)
            yield ResampleConfig(resamples[name], settings.get("multiplier", multiplier), residual)
        else:
            raise CheckpointError(f"The vae config's {key} name {name!r}; supported: res_x, {', '.join(resamples)}.")


def _expect(section: Mapping[str, Any], key: str, *supported: Any, default: Any = None) -> None:
    value = section.get(key, supported[0] if default is None else default)
    if value not in supported:
        raise CheckpointError(f"The vae config has {key} = {value!r}; supported: {', '.join(map(repr, supported))}.")
