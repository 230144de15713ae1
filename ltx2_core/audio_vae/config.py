"""The architecture of the audio networks, read from the checkpoint's JSON (see README.md, "Config")."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import CheckpointError


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
        params = section.get("model", {}).get("params", {})
        network = params.get("ddconfig", {})
        stft = section.get("preprocessing", {}).get("stft", {})
        mel = section.get("preprocessing", {}).get("mel", {})
        settings = {"norm_type": "pixel", "causality_axis": "height", "double_z": True, **network}
        _expect("audio_vae", settings, attn_resolutions=[], mid_block_add_attention=False)
        _expect("audio_vae", settings, norm_type="pixel", causality_axis="height", double_z=True)
        return cls(
            channels=network.get("ch", 128),
            multipliers=tuple(network.get("ch_mult", (1, 2, 4))),
            res_blocks=network.get("num_res_blocks", 2),
            in_channels=network.get("in_channels", 2),
            out_channels=network.get("out_ch", 2),
            latent_channels=network.get("z_channels", 8),
            sample_rate=params.get("sampling_rate", 16000),
            n_fft=stft.get("filter_length", 1024),
            hop=stft.get("hop_length", 160),
            mel_bins=network.get("mel_bins") or mel.get("n_mel_channels", 64),
        )

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
        """Audio latents per second; 25 in all releases."""
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
    mel_bins: int = 64

    @classmethod
    def from_json(
        cls, section: Mapping[str, Any], sample_rate: int, snake: bool, bounded: bool = True
    ) -> "GeneratorConfig":
        """Read one flat vocoder section.

        Args:
            section: The section.
            sample_rate: Of the output, Hz.
            snake: Whether activations are anti-aliased snakes (2.3) instead of leaky rectifiers (2.0).
            bounded: Whether the last layer holds the waveform to -1..1.
        """
        return cls(
            sample_rate=sample_rate,
            channels=section.get("upsample_initial_channel", 1024),
            rates=tuple(section.get("upsample_rates", (6, 5, 2, 2, 2))),
            kernels=tuple(section.get("upsample_kernel_sizes", (16, 15, 8, 4, 4))),
            block_kernels=tuple(section.get("resblock_kernel_sizes", (3, 7, 11))),
            block_dilations=tuple(tuple(d) for d in section.get("resblock_dilation_sizes", [(1, 3, 5)] * 3)),
            snake=snake,
            last="none" if not bounded else "tanh" if section.get("use_tanh_at_final", True) else "clamp",
            last_bias=section.get("use_bias_at_final", True),
            mel_bins=section.get("num_mels", 64),
        )


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
        if "bwe" not in section:
            _expect("vocoder", section, resblock="1", stereo=True)
            return cls(GeneratorConfig.from_json(section, section.get("output_sampling_rate", 24000), snake=False))

        low, bwe = section.get("vocoder", {}), section["bwe"]
        for name, each in ("vocoder.vocoder", low), ("vocoder.bwe", bwe):
            _expect(name, each, resblock="AMP1", stereo=True, activation="snakebeta")
        needed = ("input_sampling_rate", "output_sampling_rate", "n_fft", "hop_length", "num_mels")
        if missing := [key for key in needed if key not in bwe]:
            raise CheckpointError(
                f"The config section vocoder.bwe lacks {', '.join(missing)}; take an original checkpoint."
            )
        generator = GeneratorConfig.from_json(bwe, bwe["output_sampling_rate"], snake=True, bounded=False)
        return cls(
            GeneratorConfig.from_json(low, bwe["input_sampling_rate"], snake=True),
            ExtensionConfig(generator, n_fft=bwe["n_fft"], hop=bwe["hop_length"]),
        )


def _expect(where: str, section: Mapping[str, Any], **expected: Any) -> None:
    """Refuse a network that differs from the official ones in a way this code does not know."""
    for key, value in expected.items():
        if key not in section or section[key] != value:
            actual = repr(section[key]) if key in section else "missing"
            raise CheckpointError(
                f"The config section {where} has {key}: {actual}; only {value!r} is supported, as in the official "
                "LTX-2 checkpoints. Take an original file, or restore its config."
            )
