"""The architecture of the video VAE, read from the checkpoint's ``vae`` section (see README.md, "Config")."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import CheckpointError
from ..errors.foreign import Fields, kind_of, shown

STRIDES = {"space": (1, 2, 2), "time": (2, 1, 1), "all": (2, 2, 2)}
PADDING_MODES = ("zeros", "reflect")
WIDEST, MOST_LAYERS = 2**14, 64  # that a config may name


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
        fields = Fields.of(section, "The vae config")
        _expect(fields, "dims", 3)
        _expect(fields, "norm_layer", "pixel_norm")
        _expect(fields, "latent_log_var", "uniform", "constant")
        _expect(fields, "timestep_conditioning", False, default=True)
        # Files without the key (2.0) mean zeros in the encoder and reflect in the decoder: README.md, "Padding".
        encoder, decoder = fields.word("encoder_spatial_padding_mode", "zeros"), "reflect"
        if "spatial_padding_mode" in fields:
            encoder = decoder = fields.word("spatial_padding_mode")
        return cls(
            encoder_blocks=tuple(_blocks(fields, "encoder_blocks", suffix="_res", multiplier=2)),
            decoder_blocks=tuple(_blocks(fields, "decoder_blocks", suffix="", multiplier=1))[::-1],
            latent_channels=fields.whole("latent_channels", 128, most=WIDEST),
            decoder_base_channels=fields.whole("decoder_base_channels", 128, most=WIDEST),
            in_channels=fields.whole("in_channels", 3, most=WIDEST),
            out_channels=fields.whole("out_channels", 3, most=WIDEST),
            patch_size=fields.whole("patch_size", 4, most=64),
            causal_decoder=fields.flag("causal_decoder", False),
            encoder_padding=encoder,
            decoder_padding=decoder,
        )


def _scale(blocks: Iterable[BlockConfig]) -> tuple[int, int, int]:
    strides = [block.stride for block in blocks if isinstance(block, ResampleConfig)]
    time, height, width = zip((1, 1, 1), *strides)
    return math.prod(time), math.prod(height), math.prod(width)


def _blocks(fields: Fields, key: str, suffix: str, multiplier: int) -> Iterable[BlockConfig]:
    """The blocks of one half, in the file's order. ``suffix`` and ``multiplier``: the half's naming and default."""
    items = fields.items(key)
    if not items:
        raise CheckpointError(f"The vae config lists no {key}; a convolutional video VAE (LTX-2.0, 2.3) has them.")
    resamples = {f"compress_{axis}{suffix}": stride for axis, stride in STRIDES.items()}
    for number, item in enumerate(items):
        name, settings = _block(item, f"{fields.where}'s {key}[{number}]")
        if settings.content.get("inject_noise"):
            raise CheckpointError(
                f"The vae config's {key} ask for inject_noise, which no released LTX-2 uses and we lack."
            )
        if name == "res_x":
            yield ResidualConfig(settings.whole("num_layers", most=MOST_LAYERS))
        elif name in resamples:
            # Only compress_all reads the flag, whatever the others say: README.md, "Layers".
            residual = name == "compress_all" and settings.flag("residual", False)
            yield ResampleConfig(resamples[name], settings.whole("multiplier", multiplier, most=16), residual)
        else:
            raise CheckpointError(f"The vae config's {key} name {name!r}; supported: res_x, {', '.join(resamples)}.")


def _block(item: object, where: str) -> tuple[str, Fields]:
    """Name and settings of a block; of a number alone, that of its layers."""
    if not isinstance(item, (list, tuple)) or len(item) != 2 or not isinstance(item[0], str):
        found = shown(item) if isinstance(item, (list, tuple)) else kind_of(item)
        raise CheckpointError(
            f"{where} is {found}; a name and an object of settings were expected. Take the original file."
        )
    name, settings = item
    plain = isinstance(settings, (int, float)) and not isinstance(settings, bool)
    return name, Fields.of({"num_layers": settings} if plain else settings, where)


def _expect(fields: Fields, key: str, *supported: Any, default: Any = None) -> None:
    value = fields.content.get(key, supported[0] if default is None else default)
    if value not in supported:
        raise CheckpointError(
            f"The vae config has {key} = {shown(value)}; supported: {', '.join(map(repr, supported))}."
        )
