"""How long the shot is that a prompt describes: the duration head of 2.5 (see README.md, "Duration")."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import CheckpointError
from ..errors.foreign import Fields
from .encode import Contexts

_HEADS = 4  # which shapes do not show


@dataclass(frozen=True)
class DurationHeadConfig:
    """Sizes of the head."""

    video_width: int = 4096  # of the contexts
    audio_width: int = 2048
    width: int = 256
    queries: int = 1
    heads: int = _HEADS
    hidden: int = 256

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, tuple[int, ...]], section: Mapping[str, Any]) -> "DurationHeadConfig":
        """Derive the sizes from the shapes of the tensors (our names); ``section`` says how many heads there are.

        Raises CheckpointError if a tensor is missing or the number of heads does not fit.
        """
        found = [shapes.get(f"{name}.weight", ()) for name in ("project_video", "project_audio", "hidden")]
        if any(len(shape) != 2 for shape in found):
            raise CheckpointError("The duration head lacks tensors; download it again.")
        (width, video), (_, audio), (hidden, pooled) = found
        fields = Fields.of(section, "The config section duration_head")
        heads = fields.whole("num_pooler_heads", _HEADS, most=1024)
        if width % heads or pooled % width:
            raise fields.refusal("num_pooler_heads", f"a number that divides the {width} channels")
        return cls(video, audio, width, pooled // width, heads, hidden)


class DurationHead(nn.Module):
    """Learned queries attend to the contexts of a prompt; what they find becomes seconds."""

    def __init__(self, config: DurationHeadConfig):
        super().__init__()
        self.config = config
        self.project_video = nn.Linear(config.video_width, config.width)
        self.project_audio = nn.Linear(config.audio_width, config.width)
        self.video_mark = nn.Parameter(torch.empty(config.width))
        self.audio_mark = nn.Parameter(torch.empty(config.width))
        self.query = nn.Parameter(torch.empty(config.queries, config.width))
        self.query_key_value = nn.Linear(config.width, 3 * config.width)
        self.project_out = nn.Linear(config.width, config.width)
        self.hidden = nn.Linear(config.queries * config.width, config.hidden)
        self.out = nn.Linear(config.hidden, 1)

    def forward(self, video: Tensor | None, audio: Tensor | None) -> Tensor:
        """Return the seconds (B,) that the prompt needs.

        Args:
            video: Contexts of the video (B, S, Dv); None for a clip without picture.
            audio: Those of the audio (B, S, Da), or None; one of both must be there.
        """
        streams = []
        if video is not None:
            streams.append(self.project_video(video) + self.video_mark)
        if audio is not None:
            streams.append(self.project_audio(audio) + self.audio_mark)
        found = self.project_out(self._attend(torch.cat(streams, dim=1)))
        return self.out(functional.gelu(self.hidden(found.flatten(1)), approximate="tanh")).squeeze(-1).exp()

    def _attend(self, tokens: Tensor) -> Tensor:
        """What the queries find among ``tokens`` (B, N, D): (B, queries, D)."""
        width, layer = self.config.width, self.query_key_value
        query = functional.linear(self.query, layer.weight[:width], layer.bias[:width]).expand(len(tokens), -1, -1)
        key, value = functional.linear(tokens, layer.weight[width:], layer.bias[width:]).chunk(2, dim=-1)
        heads = [each.unflatten(-1, (self.config.heads, -1)).transpose(1, 2) for each in (query, key, value)]
        return functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)


@torch.no_grad()
def predict_seconds(head: DurationHead, contexts: Contexts, streams: tuple[str, ...]) -> float:
    """Return how long the first prompt of ``contexts`` wants to be, in seconds.

    Args:
        head: The network, in float32 on the CPU.
        contexts: Those of the positive prompt.
        streams: What the clip has of "video" and "audio".
    """
    video, audio = (
        getattr(contexts, name)[:1].to("cpu", torch.float32) if name in streams else None for name in ("video", "audio")
    )
    return float(head(video, audio)[0])
