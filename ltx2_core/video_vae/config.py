"""The architecture of the video VAE, read from the checkpoint's ``vae`` section (see README.md, "Config")."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import CheckpointError
from ..errors.foreign import Fields, kind_of, shown

STRIDES = {"space": (1, 2, 2), "time": (2, 1, 1), "all": (2, 2, 2)}
PADDING_MODES = ("zeros", "reflect")
CONVOLUTIONAL = "CausalVideoAutoencoder"  # the class that a file without a class is of
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


@dataclass(frozen=True)
class ProjectConfig:
    """One residual layer that changes the number of channels, as decoders have that were made smaller."""

    channels_in: int
    channels_out: int


BlockConfig = ResidualConfig | ResampleConfig | ProjectConfig


@dataclass(frozen=True)
class VideoVAEConfig:
    """Sizes and variants of encoder and decoder.

    Blocks stand in the order in which they run; a file lists the decoder's backwards. A VAE whose decoder is a
    diffusion model has no ``decoder_blocks``.
    """

    encoder_blocks: tuple[BlockConfig, ...]
    decoder_blocks: tuple[BlockConfig, ...]
    latent_channels: int
    decoder_base_channels: int
    in_channels: int
    out_channels: int
    patch_size: int
    causal_decoder: bool
    encoder_padding: str
    decoder_padding: str

    def __post_init__(self) -> None:
        for padding in (self.encoder_padding, self.decoder_padding):
            if padding not in PADDING_MODES:
                raise CheckpointError(
                    f"The video VAE asks for {padding!r} padding; supported: {', '.join(PADDING_MODES)}."
                )
        encoder, decoder = _scale(self.encoder_blocks), _scale(self.decoder_blocks)
        if self.decoder_blocks and encoder != decoder:
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

    @property
    def decoder_width(self) -> int:
        """Channels before the first block of the decoder."""
        width = self.decoder_base_channels
        for block in reversed(self.decoder_blocks):
            width = _width_before(block, width)
        return width

    @classmethod
    def from_json(cls, section: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]] = {}) -> "VideoVAEConfig":
        """Read the ``vae`` section; absent keys take the defaults of the official reader.

        Args:
            section: A section of the config.
            shapes: Of the decoder's tensors, by our names: they tell where a decoder was made smaller, if the config
                is that of the whole one.

        Raises:
            CheckpointError: The section asks for something that this package does not have.
        """
        fields = _as_narrowed(Fields.of(section, "The vae config"), shapes)
        has_blocks = not is_diffusion(section) or "decoder_blocks" in fields
        if has_blocks:
            _expect(fields, "timestep_conditioning", False, default=True)
        half = _encoder_fields(fields)
        _expect(half, "dims", 3)
        _expect(half, "norm_layer", "pixel_norm")
        _expect(half, "latent_log_var", "uniform", "constant")
        # Files without the key (2.0) mean zeros in the encoder and reflect in the decoder: README.md, "Padding".
        encoder = fields.word("encoder_spatial_padding_mode", "zeros")
        decoder = fields.word("spatial_padding_mode", "reflect")
        base = fields.whole("decoder_base_channels", 128, most=WIDEST)
        decoder_blocks = _blocks(fields, "decoder_blocks", suffix="", multiplier=1, width=base) if has_blocks else ()
        return cls(
            encoder_blocks=tuple(_blocks(half, "encoder_blocks", suffix="_res", multiplier=2)),
            decoder_blocks=tuple(decoder_blocks)[::-1],
            latent_channels=half.whole("latent_channels", 128, most=WIDEST),
            decoder_base_channels=base,
            in_channels=half.whole("in_channels", 3, most=WIDEST),
            out_channels=fields.whole("out_channels", 3, most=WIDEST),
            patch_size=half.whole("patch_size", 4, most=64),
            causal_decoder=fields.flag("causal_decoder", False),
            encoder_padding=half.word("spatial_padding_mode", encoder),
            decoder_padding=decoder,
        )


def is_diffusion(section: Mapping[str, Any]) -> bool:
    """Return whether a ``vae`` section describes a VAE whose decoder is a diffusion model."""
    return section.get("_class_name", CONVOLUTIONAL) != CONVOLUTIONAL


def _encoder_fields(fields: Fields) -> Fields:
    """The settings of the encoder: its own section, as in files of 2.5, with the names that others have."""
    content = fields.section("encoder").content
    if not content:
        return fields
    names = {"encoder_blocks": "blocks", "latent_channels": "out_channels"}
    renamed = {ours: content[theirs] for ours, theirs in names.items() if theirs in content}
    channels = fields.content.get("latent_channels")
    return Fields.of({"latent_channels": channels, **content, **renamed}, f"{fields.where}.encoder")


def _scale(blocks: Iterable[BlockConfig]) -> tuple[int, int, int]:
    strides = [block.stride for block in blocks if isinstance(block, ResampleConfig)]
    time, height, width = zip((1, 1, 1), *strides)
    return math.prod(time), math.prod(height), math.prod(width)


def _width_before(block: BlockConfig, width: int) -> int:
    """The channels before a block of the decoder, behind which there are ``width``."""
    if isinstance(block, ProjectConfig):
        return block.channels_in
    return width * block.multiplier if isinstance(block, ResampleConfig) else width


def _blocks(fields: Fields, key: str, suffix: str, multiplier: int, width: int = 0) -> Iterable[BlockConfig]:
    """The blocks of one half, in the file's order.

    ``suffix`` and ``multiplier``: the half's naming and default; ``width``: channels behind the decoder's last block.
    """
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
        block: BlockConfig
        if name == "res_x":
            block = ResidualConfig(settings.whole("num_layers", most=MOST_LAYERS))
        elif name == "res_x_y" and width:
            block = _projection(settings, width)
        elif name in resamples:
            # Only compress_all reads the flag, whatever the others say: README.md, "Layers".
            residual = name == "compress_all" and settings.flag("residual", False)
            block = ResampleConfig(resamples[name], settings.whole("multiplier", multiplier, most=16), residual)
        else:
            supported = ", ".join(("res_x", "res_x_y", *resamples) if width else ("res_x", *resamples))
            raise CheckpointError(f"The vae config's {key} name {name!r}; supported: {supported}.")
        yield block
        width = _width_before(block, width)


def _as_narrowed(fields: Fields, shapes: Mapping[str, tuple[int, ...]]) -> Fields:
    """The same with the projections that ``shapes`` have, and with their width behind the last block."""
    found = {name.split(".")[1]: shape for name, shape in shapes.items() if name.endswith(".project.weight")}
    blocks = fields.items("decoder_blocks")[::-1]
    if not found or any(block[0] == "res_x_y" for block in blocks if isinstance(block, (list, tuple)) and block):
        return fields
    for number in sorted(map(int, found)):
        channels_out, channels_in, *_ = found[str(number)]
        blocks.insert(number, ["res_x_y", {"in_channels": channels_in, "out_channels": channels_out}])
    narrowed: dict[str, Any] = {**fields.content, "decoder_blocks": blocks[::-1]}
    if "conv_out.weight" in shapes:
        _, narrowed["decoder_base_channels"], *_ = shapes["conv_out.weight"]
    return Fields.of(narrowed, fields.where)


def _projection(settings: Fields, width: int) -> ProjectConfig:
    """A layer that ends with ``width`` channels; how many it begins with is a number of them, or a multiple."""
    before = width * settings.whole("multiplier", 2, most=16)
    block = ProjectConfig(
        settings.whole("in_channels", before, most=WIDEST), settings.whole("out_channels", width, most=WIDEST)
    )
    if block.channels_out != width:
        raise settings.refusal("out_channels", f"{width}, with which the next block begins,")
    return block


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
