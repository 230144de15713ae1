"""The architecture of the audio networks, read from the checkpoint's JSON (see README.md, "Config")."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import CheckpointError
from ..errors.foreign import Fields, shown

# What a config may name.
WIDEST, MOST_LAYERS, MOST_BINS, MOST_SAMPLES = 2**14, 64, 1024, 2**16
RATES = (1_000, 400_000)  # Hz

LATENT_RATE, MEL_RATE = 25, 100  # a second, of all releases, by which the sound of a clip is counted


@dataclass(frozen=True)
class AudioVAEConfig:
    """The mel front end and the autoencoder behind it."""

    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 4)  # of channels, one per level; between levels time and frequency halve
    res_blocks: int = 2  # per level of the encoder; the decoder has one more
    in_channels: int = 2
    out_channels: int = 2
    latent_channels: int = 8
    sample_rate: int = 16000
    n_fft: int = 1024
    hop: int = 160
    mel_bins: int = 64

    @classmethod
    def from_json(cls, section: Mapping[str, Any]) -> "AudioVAEConfig":
        """Read the section ``audio_vae``.

        Attention must be switched off explicitly: the official reader takes a missing key as switched on.

        Raises:
            CheckpointError: The section asks for something that no official checkpoint has.
        """
        fields = Fields.of(section, "The config section audio_vae")
        params = fields.section("model").section("params")
        network = params.section("ddconfig")
        stft, mel = (fields.section("preprocessing").section(name) for name in ("stft", "mel"))
        usual = {"norm_type": "pixel", "causality_axis": "height", "double_z": True}
        _expect("audio_vae", {**usual, **network.content}, attn_resolutions=[], mid_block_add_attention=False, **usual)
        mel_bins = mel.whole("n_mel_channels", cls.mel_bins, most=MOST_BINS)
        config = cls(
            channels=network.whole("ch", cls.channels, most=WIDEST),
            multipliers=network.wholes("ch_mult", cls.multipliers, most=64, longest=8),
            res_blocks=network.whole("num_res_blocks", cls.res_blocks, least=0, most=MOST_LAYERS),
            in_channels=network.whole("in_channels", cls.in_channels, most=WIDEST),
            out_channels=network.whole("out_ch", cls.out_channels, most=WIDEST),
            latent_channels=network.whole("z_channels", cls.latent_channels, most=WIDEST),
            sample_rate=params.whole("sampling_rate", cls.sample_rate, *RATES),
            n_fft=stft.whole("filter_length", cls.n_fft, least=2, most=MOST_SAMPLES),
            hop=stft.whole("hop_length", cls.hop, most=MOST_SAMPLES),
            mel_bins=network.whole("mel_bins", mel_bins, most=MOST_BINS),
        )
        if config.mel_bins % 2 ** (len(config.multipliers) - 1):
            raise CheckpointError(
                f"{fields.where} has {config.mel_bins} mel bins, which cannot be halved {len(config.multipliers) - 1} "
                "times; take an original file, or restore its config."
            )
        if config.latent_rate != LATENT_RATE:
            raise CheckpointError(
                f"{fields.where} makes {config.latent_rate:g} latents a second of sound; all of LTX-2 make "
                f"{LATENT_RATE}. Take an original file, or restore its config."
            )
        return config

    @property
    def widths(self) -> list[int]:
        """Channels of each level, from the mel side inwards."""
        return [self.channels * multiplier for multiplier in self.multipliers]

    @property
    def latent_bins(self) -> int:
        """Frequency bins of the latent."""
        return self.mel_bins // 2 ** (len(self.multipliers) - 1)

    @property
    def latent_rate(self) -> float:
        """Audio latents per second, which must be LATENT_RATE."""
        return self.sample_rate / self.hop / 2 ** (len(self.multipliers) - 1)


@dataclass(frozen=True)
class GeneratorConfig:
    """One generator from stereo mel frames to stereo samples: per stage an upsampling convolution, then its blocks."""

    sample_rate: int  # of the output, Hz
    channels: int  # before the first stage; each stage halves them
    rates: tuple[int, ...]
    kernels: tuple[int, ...]
    block_kernels: tuple[int, ...]  # the blocks of one stage run side by side
    block_dilations: tuple[tuple[int, ...], ...]
    snake: bool  # anti-aliased snakes (2.3) or leaky rectifiers (2.0)
    last: Literal["tanh", "clamp", "none"]
    last_bias: bool
    mel_bins: int

    @classmethod
    def from_json(
        cls, section: Mapping[str, Any] | Fields, sample_rate: int, snake: bool, bounded: bool = True
    ) -> "GeneratorConfig":
        """Read one flat vocoder section.

        Args:
            section: The section.
            sample_rate: Of the output, Hz.
            snake: Whether activations are anti-aliased snakes (2.3) instead of leaky rectifiers (2.0).
            bounded: Whether the last layer holds the waveform to -1..1.

        Raises:
            CheckpointError: The lists in the section do not go together.
        """
        fields = Fields.of(section, "The config section vocoder")
        dilations = fields.items("resblock_dilation_sizes", longest=16) or [(1, 3, 5)] * 3
        each = Fields({str(number): row for number, row in enumerate(dilations)}, f"{fields.where}'s dilations")
        config = cls(
            sample_rate=sample_rate,
            channels=fields.whole("upsample_initial_channel", 1024, most=WIDEST),
            rates=fields.wholes("upsample_rates", (6, 5, 2, 2, 2), most=64),
            kernels=fields.wholes("upsample_kernel_sizes", (16, 15, 8, 4, 4), most=256),
            block_kernels=fields.wholes("resblock_kernel_sizes", (3, 7, 11), most=256),
            block_dilations=tuple(each.wholes(number, most=256) for number in each.content),
            snake=snake,
            last="none" if not bounded else "tanh" if fields.flag("use_tanh_at_final", True) else "clamp",
            last_bias=fields.flag("use_bias_at_final", True),
            mel_bins=fields.whole("num_mels", 64, most=MOST_BINS),
        )
        stages, pairs = len(config.rates), zip(config.kernels, config.rates)
        if len(config.kernels) != stages or any(k < r or (k - r) % 2 for k, r in pairs):
            expected = f"one for each of {list(config.rates)}, larger by an even number,"
            raise fields.refusal("upsample_kernel_sizes", expected)
        if len(config.block_dilations) != len(config.block_kernels):
            raise fields.refusal("resblock_dilation_sizes", f"{len(config.block_kernels)} lists")
        if config.channels % 2**stages:
            raise fields.refusal("upsample_initial_channel", f"a number that can be halved {stages} times")
        return config


@dataclass(frozen=True)
class ExtensionConfig:
    """Bandwidth extension: a generator that adds high frequencies, from the mel frames of a low-rate waveform."""

    generator: GeneratorConfig
    n_fft: int
    hop: int


@dataclass(frozen=True)
class VocoderConfig:
    """A generator and, since 2.3, a bandwidth extension."""

    generator: GeneratorConfig
    extension: ExtensionConfig | None = None

    @classmethod
    def from_json(cls, section: Mapping[str, Any]) -> "VocoderConfig":
        """Read the section ``vocoder``, flat (2.0) or with the sections ``vocoder`` and ``bwe`` (2.3).

        Raises:
            CheckpointError: The section is incomplete, or describes an unknown network.
        """
        fields = Fields.of(section, "The config section vocoder")
        if "bwe" not in fields:
            _expect("vocoder", fields.content, resblock="1", stereo=True)
            rate = fields.whole("output_sampling_rate", 24000, *RATES)
            return cls(_at_rate(GeneratorConfig.from_json(fields, rate, snake=False), MEL_RATE, fields))

        low, bwe = fields.section("vocoder"), fields.section("bwe")
        for name, each in ("vocoder.vocoder", low), ("vocoder.bwe", bwe):
            _expect(name, each.content, resblock="AMP1", stereo=True, activation="snakebeta")
        needed = ("input_sampling_rate", "output_sampling_rate", "n_fft", "hop_length", "num_mels")
        if missing := [key for key in needed if key not in bwe]:
            raise CheckpointError(
                f"The config section vocoder.bwe lacks {', '.join(missing)}; take an original checkpoint."
            )
        rates = [bwe.whole(f"{end}_sampling_rate", None, *RATES) for end in ("input", "output")]
        generator = GeneratorConfig.from_json(bwe, rates[1], snake=True, bounded=False)
        n_fft = bwe.whole("n_fft", least=2, most=MOST_SAMPLES)
        hop = bwe.whole("hop_length", most=n_fft)
        return cls(
            _at_rate(GeneratorConfig.from_json(low, rates[0], snake=True), MEL_RATE, low),
            ExtensionConfig(_at_rate(generator, rates[0] / hop, bwe), n_fft=n_fft, hop=hop),
        )


def _at_rate(generator: GeneratorConfig, frames: float, fields: Fields) -> GeneratorConfig:
    """Return ``generator`` if from so many mel ``frames`` a second it makes samples at the rate that it states."""
    if math.prod(generator.rates) * frames != generator.sample_rate:
        per_frame = generator.sample_rate / frames
        raise fields.refusal("upsample_rates", f"a list whose product is the {per_frame:g} samples of a mel frame")
    return generator


def _expect(where: str, section: Mapping[str, Any], **expected: Any) -> None:
    """Refuse a network that differs from the official ones in a way this code does not know."""
    for key, value in expected.items():
        if key not in section or section[key] != value:
            actual = shown(section[key]) if key in section else "missing"
            raise CheckpointError(
                f"The config section {where} has {key}: {actual}; only {value!r} is supported, as in the official "
                "LTX-2 checkpoints. Take an original file, or restore its config."
            )
