"""From mel frames to a waveform (see README.md, "Vocoders").

2.0 has a generator after HiFi-GAN (arXiv 2010.05646); 2.3 has two after BigVGAN (arXiv 2206.04658), the second of
which extends the bandwidth of the first.
"""

from collections.abc import Callable
from functools import cache
from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import SettingError
from .config import MEL_RATE, ExtensionConfig, GeneratorConfig, VocoderConfig
from .lines import Conv1d, convolve_line
from .mel import FLOOR
from .resample import resample

CHUNK = 500  # mel frames that are vocoded at once
# Measured on a CPU: with so many numbers of a weight for each position, a product takes 0.5 to 0.9 of oneDNN's time.
LEAST_WEIGHT, WEIGHT_OF_POSITION = 2**20, 2**15

LAST = {"tanh": nn.Tanh, "clamp": nn.Hardtanh, "none": nn.Identity}


def make_vocoder(config: VocoderConfig) -> "Vocoder | BandwidthExtendingVocoder":
    """Build the vocoder that a checkpoint's config describes."""
    if config.extension is None:
        return Vocoder(config.generator)
    return BandwidthExtendingVocoder(config.generator, config.extension)


class Vocoder(nn.Module):
    """One generator: per stage an upsampling convolution, then the mean of residual blocks with different kernels.

    ``compute_dtype`` is the dtype that weights must be loaded as, however they are stored: rounding to half precision
    is audible.
    """

    compute_dtype = torch.float32

    def __init__(self, config: GeneratorConfig):
        super().__init__()
        widths = [config.channels // 2**stage for stage in range(len(config.rates) + 1)]
        activation = AntiAliasedSnake if config.snake else _leaky
        self.sample_rate = config.sample_rate
        self.receptive_frames = _receptive_frames(config)
        self.conv_pre = Conv1d(2 * config.mel_bins, widths[0], 7, padding=3)
        self.before_up = nn.Identity() if config.snake else nn.LeakyReLU(0.1)
        self.ups = nn.ModuleList(
            Upsample(wide, narrow, kernel, rate)
            for wide, narrow, kernel, rate in zip(widths, widths[1:], config.kernels, config.rates)
        )
        self.blocks = nn.ModuleList(
            ResidualBlock(width, kernel, dilations, activation)
            for width in widths[1:]
            for kernel, dilations in zip(config.block_kernels, config.block_dilations)
        )
        self.act_post = AntiAliasedSnake(widths[-1]) if config.snake else nn.LeakyReLU(0.01)
        self.conv_post = Conv1d(widths[-1], 2, 7, padding=3, bias=config.last_bias)
        self.last = LAST[config.last]()

    def forward(self, mel: Tensor) -> Tensor:
        """Turn log mel (B, 2, T, 64) into a waveform (B, 2, N), float32, N = T times the product of the rates."""
        x = mel.mT.flatten(1, 2).to(self.compute_dtype)  # (B, 2 * 64, T), left before right
        x = self.conv_pre(x)
        per_stage = len(self.blocks) // len(self.ups)
        for stage, up in enumerate(self.ups):
            x = up(self.before_up(x))
            blocks = self.blocks[stage * per_stage : (stage + 1) * per_stage]
            x = sum(block(x) for block in blocks) / per_stage
        return self.last(self.conv_post(self.act_post(x)))


class BandwidthExtendingVocoder(nn.Module):
    """A generator at 16 kHz, resampled to 48 kHz, plus the high frequencies that a second generator makes from it."""

    compute_dtype = torch.float32

    def __init__(self, low: GeneratorConfig, extension: ExtensionConfig):
        super().__init__()
        self.low = Vocoder(low)
        self.mel = CausalLogMel(extension)
        self.high = Vocoder(extension.generator)
        self.sample_rate = self.high.sample_rate
        low_samples = self.high.receptive_frames * extension.hop + extension.n_fft
        self.receptive_frames = self.low.receptive_frames + ceil(low_samples / self.low.sample_rate * MEL_RATE)

    def forward(self, mel: Tensor) -> Tensor:
        """Turn log mel (B, 2, T, 64) into a waveform (B, 2, 480T), float32, in -1..1."""
        low = self.low(mel)
        detail = self.high(self.mel(low))
        return (resample(low, self.low.sample_rate, self.sample_rate, edges="replicate") + detail).clamp(-1, 1)


def vocode_chunked(
    vocoder: Vocoder | BandwidthExtendingVocoder,
    mel: Tensor,
    frames: int = CHUNK,
    check: Callable[[], None] | None = None,
) -> Tensor:
    """Return ``vocoder(mel)``, computed in chunks with all the context that they depend on, so memory stays flat.

    Args:
        vocoder: The network.
        mel: Log mel (B, 2, T, 64).
        frames: Mel frames per chunk.
        check: Called before each chunk; it may raise to interrupt.

    Raises:
        SettingError: ``frames`` is not positive.
    """
    if frames < 1:
        raise SettingError(
            f"The sound cannot be made of {frames} frames at a time; use at least 1, for example {CHUNK}."
        )
    chunks, total = [], mel.shape[2]
    for start in range(0, total, frames):
        if check is not None:
            check()
        stop = min(start + frames, total)
        first, last = max(0, start - vocoder.receptive_frames), min(total, stop + vocoder.receptive_frames)
        waveform = vocoder(mel[:, :, first:last])
        each = waveform.shape[-1] // (last - first)
        chunks.append(waveform[..., (start - first) * each : (stop - first) * each].clone())
    return torch.cat(chunks, -1)


class CausalLogMel(nn.Module):
    """Log mel frames as the bandwidth extension was trained on them; its bases come rounded from the file."""

    fourier: Tensor
    bank: Tensor

    def __init__(self, config: ExtensionConfig):
        super().__init__()
        bins = config.n_fft // 2 + 1
        self.hop = config.hop
        self.register_buffer("fourier", torch.zeros(2 * bins, 1, config.n_fft))  # real rows, then imaginary ones
        self.register_buffer("bank", torch.zeros(config.generator.mel_bins, bins))

    def forward(self, waveform: Tensor) -> Tensor:
        """Turn a waveform (B, 2, N), N a multiple of the hop, into (B, 2, N / hop, 64); no frame looks past its hop."""
        past = self.fourier.shape[-1] - self.hop
        padded = F.pad(waveform.flatten(0, 1)[:, None], (past, 0))
        real, imaginary = F.conv1d(padded, self.fourier, stride=self.hop).chunk(2, dim=1)
        mel = self.bank @ (real.square() + imaginary.square()).sqrt()
        return mel.clamp(min=FLOOR).log().mT.unflatten(0, waveform.shape[:2])


class Upsample(nn.ConvTranspose1d):
    """A transposed convolution; on a CPU a product, where the weight is large beside the input.

    oneDNN writes the weight anew at every call: for 33 MB that takes longer than all that 60 positions need.
    """

    def __init__(self, in_channels: int, out_channels: int, taps: int, rate: int):
        super().__init__(in_channels, out_channels, taps, rate, padding=(taps - rate) // 2)
        self.taps, self.rate, self.cut = taps, rate, (taps - rate) // 2

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Map (B, C, N) to (B, C', N'), which is ``rate`` times as long."""
        size, positions = self.weight.numel(), x.shape[2]
        if not x.is_cpu or size < LEAST_WEIGHT or size < positions * WEIGHT_OF_POSITION:
            return super().forward(x, output_size)
        assert self.bias is not None
        length = (positions - 1) * self.rate + self.taps - 2 * self.cut
        product = (x.mT @ self.weight.flatten(1)).mT  # what each position adds to all around it, (B, C' taps, N)
        sums = F.fold(product, (1, length), (1, self.taps), stride=(1, self.rate), padding=(0, self.cut))
        return sums[:, :, 0] + self.bias[:, None]


class ResidualBlock(nn.Module):
    """Pairs of a dilated and a plain convolution, each pair with a residual connection."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...], activation: Callable[[int], nn.Module]):
        super().__init__()
        self.acts1 = nn.ModuleList(activation(channels) for _ in dilations)
        self.convs1 = nn.ModuleList(
            Conv1d(channels, channels, kernel, dilation=dilation, padding="same") for dilation in dilations
        )
        self.acts2 = nn.ModuleList(activation(channels) for _ in dilations)
        self.convs2 = nn.ModuleList(Conv1d(channels, channels, kernel, padding="same") for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        """Return the next hidden states of ``x`` (B, C, N)."""
        for act1, conv1, act2, conv2 in zip(self.acts1, self.convs1, self.acts2, self.convs2):
            x = x + conv2(act2(conv1(act1(x))))
        return x


class AntiAliasedSnake(nn.Module):
    """x + sin(ax)^2 / b at twice the rate, so that its overtones do not alias.

    ``alpha`` and ``beta`` are logarithms. Files contain the filters, which equal ``half_band``.
    """

    up: Tensor
    down: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))
        self.register_buffer("up", half_band())
        self.register_buffer("down", half_band())

    def forward(self, x: Tensor) -> Tensor:
        """Apply the activation to (B, C, N)."""
        return self.downsample(self.snake(self.upsample(x)))

    def snake(self, x: Tensor) -> Tensor:
        """Apply the activation to (B, C, N) without anti-aliasing; frequency and depth are learned per channel."""
        alpha, beta = self.alpha[:, None].exp(), self.beta[:, None].exp()
        return x + (x * alpha).sin().square() / (beta + 1e-9)

    def upsample(self, x: Tensor) -> Tensor:
        """Double the rate of (B, C, N)."""
        channels = x.shape[1]
        padded = F.pad(x, (5, 5), mode="replicate")
        return 2 * F.conv_transpose1d(padded, self.up.expand(channels, -1, -1), stride=2, padding=15, groups=channels)

    def downsample(self, x: Tensor) -> Tensor:
        """Halve the rate of (B, C, 2N)."""
        channels = x.shape[1]
        padded = F.pad(x, (5, 6), mode="replicate")
        return convolve_line(padded, self.down.expand(channels, -1, -1), stride=2, groups=channels)


def half_band() -> Tensor:
    """Make the filter (1, 1, 12): a low pass at half the Nyquist frequency, a sinc in Kaiser's window, of sum 1."""
    return torch.tensor(_half_band_taps()).view(1, 1, 12)


@cache
def _half_band_taps() -> tuple[float, ...]:
    """The taps as numbers, computed once: a vocoder has hundreds of these filters, also on the meta device."""
    with torch.device("cpu"):
        t = torch.arange(12) - 5.5
        taps = (t / 2).sinc() * torch.kaiser_window(12, periodic=False, beta=4.6638)
        return tuple((taps / taps.sum()).tolist())


def _receptive_frames(config: GeneratorConfig) -> int:
    """Mel frames to either side that a sample depends on, at most.

    Counted layer by layer: half a kernel of convolutions, all of a transposed one.
    """
    activation = 6 if config.snake else 0  # twice twelve taps at twice the rate
    blocks = zip(config.block_kernels, config.block_dilations)
    block = max(sum(kernel // 2 * (dilation + 1) + 2 * activation for dilation in each) for kernel, each in blocks)
    frames, rate = 3.0, 1
    for kernel, step in zip(config.kernels, config.rates):
        frames += ceil(kernel / step) / rate
        rate *= step
        frames += block / rate
    return ceil(frames + (activation + 3) / rate)


def _leaky(channels: int) -> nn.Module:
    return nn.LeakyReLU(0.1)
