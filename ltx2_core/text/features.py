"""From the hidden states of all layers to one vector per token and stream (see README.md, "Features")."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, SettingError
from ..errors.foreign import Fields, shown
from ..layers import Linear

EPS = 1e-6
_TOKENS = 64  # that are normalised together

# LTX-2.3 writes these four into its config, LTX-2.0 none of them.
_PER_STREAM = {
    "caption_proj_before_connector": True,
    "caption_projection_first_linear": False,
    "caption_proj_input_norm": False,
    "caption_projection_second_linear": False,
}


@dataclass(frozen=True)
class TextFeaturesConfig:
    """Sizes and variant of the projection of hidden states."""

    width: int  # of the text encoder
    states: int  # hidden states per token: the embedding and one per layer
    video_width: int
    audio_width: int
    per_stream: bool  # 2.3: normalised per token, one projection per stream; 2.0: per prompt, one projection for both

    @classmethod
    def from_json(
        cls, section: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]] | None = None
    ) -> "TextFeaturesConfig":
        """Read the ``transformer`` section of a checkpoint's config.

        Args:
            section: The section.
            shapes: Shapes of the projection's weights by our names. They tell how many hidden states it takes, which
                the section does not say; None for the 49 of the released models.

        Raises:
            CheckpointError: The section describes neither the projection of LTX-2.0 nor that of 2.3.
        """
        fields = Fields.of(section, "The config section transformer")
        width = fields.whole("caption_channels", 3840, most=2**16)
        flat = next(
            (s[1] for name, s in (shapes or {}).items() if name.endswith(".weight") and len(s) == 2), 49 * width
        )
        states = flat // width
        flags = {key: fields.content[key] for key in _PER_STREAM if key in fields.content}
        if not flags:
            return cls(width, states, video_width=width, audio_width=width, per_stream=False)
        if flags != _PER_STREAM:
            raise CheckpointError(
                f"The checkpoint's config describes its text projection by {shown(flags)}; known are LTX-2.0, which "
                f"says nothing about it, and LTX-2.3, which says {_PER_STREAM}."
            )

        def stream(prefix: str, head_dim: int) -> int:
            heads = fields.whole(f"{prefix}num_attention_heads", 32, most=1024)
            return heads * fields.whole(f"{prefix}attention_head_dim", head_dim, most=2**16)

        return cls(width, states, video_width=stream("", 128), audio_width=stream("audio_", 64), per_stream=True)


@dataclass(frozen=True)
class Features:
    """One vector per token and stream for a prompt of n tokens, without padding: the input of the connectors."""

    video: Tensor  # (1, n, Dv)
    audio: Tensor  # (1, n, Da); in 2.0 the same tensor as ``video``

    def joined(self) -> Tensor:
        """Concatenate both streams as ComfyUI's CONDITIONING carries them: (1, n, D) in 2.0, (1, n, Dv + Da) in 2.3."""
        return self.video if self.audio is self.video else torch.cat((self.video, self.audio), dim=-1)

    @classmethod
    def from_joined(cls, joined: Tensor, config: TextFeaturesConfig) -> "Features":
        """Split what ``joined`` made, for a model with this ``config``; SettingError if the width differs."""
        widths = [config.video_width, config.audio_width] if config.per_stream else [config.video_width]
        if joined.shape[-1] != sum(widths):
            raise SettingError(
                f"The prompt was encoded to {joined.shape[-1]} numbers per token, this model reads {sum(widths)}: "
                "encode it with the text projection of the same model version."
            )
        streams = joined.split(widths, dim=-1)
        return cls(video=streams[0], audio=streams[-1])


class TextFeatures(nn.Module):
    """Normalises the hidden states of all layers and projects them to the width of each stream's connector."""

    def __init__(self, config: TextFeaturesConfig):
        super().__init__()
        self.config = config
        flat = config.width * config.states
        if config.per_stream:
            self.video = Linear(flat, config.video_width)
            self.audio = Linear(flat, config.audio_width)
        else:
            self.both = Linear(flat, config.video_width, bias=False)

    @property
    def streamable_modules(self) -> list[nn.Module]:
        """What can be brought to the device one by one, in the order of use: in float32 both take 4.6 GB."""
        return [self.video, self.audio] if self.config.per_stream else [self.both]

    def forward(self, x: list[Tensor], mask: Tensor) -> tuple[Tensor, Tensor]:
        """Project hidden states to video (B, L, Dv) and audio (B, L, Da); in 2.0 both are the same tensor.

        Rows of padding come out meaningless.

        Args:
            x: The S hidden states, (B, L, D) each.
            mask: 0 on padding, (B, L).

        Raises:
            SettingError: The hidden states come from another text encoder.
        """
        width, states = self.config.width, self.config.states
        if (x[0].shape[2], len(x)) != (width, states):
            raise SettingError(
                f"The text encoder gives {len(x)} hidden states of width {x[0].shape[2]}, this checkpoint reads "
                f"{states} of width {width}: it belongs to another one (2.0 and 2.3 use Gemma 3 12B, 2.5 its own)."
            )
        if not self.config.per_stream:
            features = self.both(normalise_prompt(torch.stack(x, dim=-1), mask))
            return features, features

        def scaled(out: int) -> Tensor:  # made for each stream anew, because for a 12B encoder it is 0.8 GB
            return normalise_tokens(torch.stack(x, dim=-1), mask).mul_(math.sqrt(out / width))

        video = self.video(scaled(self.config.video_width))
        return video, self.audio(scaled(self.config.audio_width))


def normalise_prompt(x: Tensor, mask: Tensor) -> Tensor:
    """Scale each layer of (B, L, D, S) to zero mean and a range of 8 over the whole prompt (V1); returns (B, L, D*S).

    Sum and range are rounded to the input's dtype, the mean and everything after it is float32, as in the official
    implementation: with bfloat16 this decides the last bits.
    """
    padding = ~mask.bool()[:, :, None, None]
    count = mask.sum(dim=1).view(-1, 1, 1, 1) * x.shape[2] + EPS
    mean = x.masked_fill(padding, 0).sum(dim=(1, 2), keepdim=True) / count
    highest = x.masked_fill(padding, -math.inf).amax(dim=(1, 2), keepdim=True)
    lowest = x.masked_fill(padding, math.inf).amin(dim=(1, 2), keepdim=True)
    # In place, because for a 12B encoder each of these is 0.8 GB.
    normal = (x - mean).mul_(8).div_(highest - lowest + EPS)
    return normal.masked_fill_(padding, 0).flatten(2).to(x.dtype)


def normalise_tokens(x: Tensor, mask: Tensor) -> Tensor:
    """Scale each token in each layer of (B, L, D, S) to a root mean square of 1 (V2), in place; returns (B, L, D*S)."""
    for tokens in x.split(_TOKENS, dim=1):  # whose squares are another tensor
        tokens.mul_(torch.rsqrt(tokens.square().mean(dim=2, keepdim=True) + EPS))
    return x.masked_fill_(~mask.bool()[:, :, None, None], 0).flatten(2)
