"""Mel frames -> waveform (spec: audio.md, sections 4 and 5).

2.0 has a generator after HiFi-GAN (Kong et al., 2020); 2.3 has two after BigVGAN (Lee et al., 2023), of which the
second extends the bandwidth of the first.
"""

from collections.abc import Callable
from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import ExtensionConfig, GeneratorConfig, VocoderConfig
from .resample import resample

MEL_RATE = 100  # mel frames per second
CHUNK = 500  # mel frames that are vocoded at once

LAST = {"tanh": nn.Tanh, "clamp": nn.Hardtanh, "none": nn.Identity}


def make_vocoder(config: VocoderConfig) -> "Vocoder | BandwidthExtendingVocoder":
    """The vocoder that a checkpoint's config describes."""
    if config.extension is None:
        return Vocoder(config.generator)
    return BandwidthExtendingVocoder(config.generator, config.extension)


class Vocoder(nn.Module):
    """One generator: per stage an upsampling convolution, then the mean of residual blocks of different reach.

    ``compute_dtype`` is what the weights must be loaded as, however they are stored: the half precisions are audible.
    """

    compute_dtype = torch.float32

    def __init__(self, config: GeneratorConfig):
        super().__init__()
        widths = [config.channels // 2**stage for stage in range(len(config.rates) + 1)]
        activation = AntiAliasedSnake if config.snake else _leaky
        self.sample_rate = config.sample_rate
        self.reach = _reach(config)  # mel frames to either side that a sample may depend on, at most
        self.conv_pre = nn.Conv1d(2 * config.mel_bins, widths[0], 7, padding=3)
        self.before_up = nn.Identity() if config.snake else nn.LeakyReLU(0.1)
        self.ups = nn.ModuleList(
            nn.ConvTranspose1d(wide, narrow, kernel, rate, padding=(kernel - rate) // 2)
            for wide, narrow, kernel, rate in zip(widths, widths[1:], config.kernels, config.rates)
        )
        self.blocks = nn.ModuleList(
            ResidualBlock(width, kernel, dilations, activation)
            for width in widths[1:]
            for kernel, dilations in zip(config.block_kernels, config.block_dilations)
        )
        self.act_post = AntiAliasedSnake(widths[-1]) if config.snake else nn.LeakyReLU(0.01)
        self.conv_post = nn.Conv1d(widths[-1], 2, 7, padding=3, bias=config.last_bias)
        self.last = LAST[config.last]()

    def forward(self, mel: Tensor) -> Tensor:
        """(B, 2, T, 64) log mel -> (B, 2, N) float32, N = T times the product of the rates."""
        x = mel.mT.flatten(1, 2).to(self.compute_dtype)  # (B, 2 * 64, T), left before right
        x = self.conv_pre(x)
        side_by_side = len(self.blocks) // len(self.ups)
        for stage, up in enumerate(self.ups):
            x = up(self.before_up(x))
            blocks = self.blocks[stage * side_by_side : (stage + 1) * side_by_side]
            x = sum(block(x) for block in blocks) / side_by_side
        return self.last(self.conv_post(self.act_post(x)))


class BandwidthExtendingVocoder(nn.Module):
    """A generator at 16 kHz, resampled to 48 kHz, plus what a second generator hears missing in it."""

    compute_dtype = torch.float32

    def __init__(self, low: GeneratorConfig, extension: ExtensionConfig):
        super().__init__()
        self.low = Vocoder(low)
        self.mel = CausalLogMel(extension)
        self.high = Vocoder(extension.generator)
        self.sample_rate = self.high.sample_rate
        heard = self.high.reach * extension.hop + extension.n_fft  # samples of the low rate
        self.reach = self.low.reach + ceil(heard / self.low.sample_rate * MEL_RATE)

    def forward(self, mel: Tensor) -> Tensor:
        """(B, 2, T, 64) log mel -> (B, 2, 480T) float32."""
        low = self.low(mel)
        detail = self.high(self.mel(low))
        return (resample(low, self.low.sample_rate, self.sample_rate, edges="replicate") + detail).clamp(-1, 1)


def vocode_chunked(
    vocoder: Vocoder | BandwidthExtendingVocoder,
    mel: Tensor,
    frames: int = CHUNK,
    check: Callable[[], None] | None = None,
) -> Tensor:
    """``vocoder(mel)``, made of ``frames`` mel frames at a time and all that these can hear, so memory stays flat.

    ``check`` is called before each piece; it may raise to interrupt.
    """
    if frames < 1:
        raise ValueError(f"The sound cannot be made of {frames} frames at a time; use at least 1, for example {CHUNK}.")
    pieces, total = [], mel.shape[2]
    for start in range(0, total, frames):
        if check is not None:
            check()
        stop = min(start + frames, total)
        first, last = max(0, start - vocoder.reach), min(total, stop + vocoder.reach)
        heard = vocoder(mel[:, :, first:last])
        each = heard.shape[-1] // (last - first)
        pieces.append(heard[..., (start - first) * each : (stop - first) * each].clone())
    return torch.cat(pieces, -1)


class CausalLogMel(nn.Module):
    """The log mel frames that the extension was trained on; their bases come rounded from the file."""

    fourier: Tensor
    bank: Tensor

    def __init__(self, config: ExtensionConfig):
        super().__init__()
        bins = config.n_fft // 2 + 1
        self.hop = config.hop
        self.register_buffer("fourier", torch.zeros(2 * bins, 1, config.n_fft))  # real rows, then imaginary ones
        self.register_buffer("bank", torch.zeros(config.generator.mel_bins, bins))

    def forward(self, waveform: Tensor) -> Tensor:
        """(B, 2, N), N a multiple of the hop -> (B, 2, N / hop, 64); a frame hears nothing after its hop."""
        past = self.fourier.shape[-1] - self.hop
        padded = F.pad(waveform.flatten(0, 1)[:, None], (past, 0))
        real, imaginary = F.conv1d(padded, self.fourier, stride=self.hop).chunk(2, dim=1)
        mel = self.bank @ (real.square() + imaginary.square()).sqrt()
        return mel.clamp(min=1e-5).log().mT.unflatten(0, waveform.shape[:2])


class ResidualBlock(nn.Module):
    """Pairs of convolutions, the first of each dilated, each pair beside a shortcut."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...], activation: Callable[[int], nn.Module]):
        super().__init__()
        self.acts1 = nn.ModuleList(activation(channels) for _ in dilations)
        self.convs1 = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel, dilation=dilation, padding="same") for dilation in dilations
        )
        self.acts2 = nn.ModuleList(activation(channels) for _ in dilations)
        self.convs2 = nn.ModuleList(nn.Conv1d(channels, channels, kernel, padding="same") for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        for act1, conv1, act2, conv2 in zip(self.acts1, self.convs1, self.acts2, self.convs2):
            x = x + conv2(act2(conv1(act1(x))))
        return x


class AntiAliasedSnake(nn.Module):
    """x + sin(ax)^2 / b at twice the rate, so that the overtones it makes do not fold back.

    ``alpha`` and ``beta`` are logarithms. The filters are in the file, equal to ``half_band``.
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
        return self.downsample(self.snake(self.upsample(x)))

    def snake(self, x: Tensor) -> Tensor:
        """(B, C, N) -> (B, C, N), with one frequency and one depth per channel."""
        alpha, beta = self.alpha[:, None].exp(), self.beta[:, None].exp()
        return x + (x * alpha).sin().square() / (beta + 1e-9)

    def upsample(self, x: Tensor) -> Tensor:
        """(B, C, N) -> (B, C, 2N)."""
        channels = x.shape[1]
        padded = F.pad(x, (5, 5), mode="replicate")
        return 2 * F.conv_transpose1d(padded, self.up.expand(channels, -1, -1), stride=2, padding=15, groups=channels)

    def downsample(self, x: Tensor) -> Tensor:
        """(B, C, 2N) -> (B, C, N)."""
        channels = x.shape[1]
        padded = F.pad(x, (5, 6), mode="replicate")
        return F.conv1d(padded, self.down.expand(channels, -1, -1), stride=2, groups=channels)


def half_band() -> Tensor:
    """(1, 1, 12): a low pass at half the Nyquist frequency, a sinc in Kaiser's window, of sum 1."""
    t = torch.arange(12) - 5.5
    taps = (t / 2).sinc() * torch.kaiser_window(12, periodic=False, beta=4.6638)
    return (taps / taps.sum()).view(1, 1, 12)


def _reach(config: GeneratorConfig) -> int:
    """Layer by layer, in mel frames: half a kernel of convolutions, all of a transposed one."""
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
