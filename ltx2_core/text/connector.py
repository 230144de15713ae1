"""The small transformer between text features and the diffusion model (see README.md, "Connectors")."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import SettingError
from ..errors.foreign import Fields
from ..layers import Attention, FeedForward, Rope, Rotation, repeat, rms_norm


@dataclass(frozen=True)
class ConnectorConfig:
    """Sizes and variants of one connector."""

    heads: int
    head_dim: int
    layers: int
    gated: bool
    ff_bias: bool
    max_position: float  # mapped to the end of the rotary grid
    rope_interleaved: bool
    rope_double: bool
    registers: int
    rows: int = 1024  # of the context, whatever the length of the prompt

    @property
    def width(self) -> int:
        """Channels D of features and contexts."""
        return self.heads * self.head_dim

    @classmethod
    def from_json(cls, section: Mapping[str, Any], stream: Literal["video", "audio"]) -> "ConnectorConfig":
        """Read one stream's connector from the ``transformer`` section of a checkpoint's config.

        Absent keys take the defaults of the official reader; those of audio fall back to those of video.
        """

        fields = Fields.of(section, "The config section transformer")

        def number(key: str, default: int, least: int, most: int) -> int:
            shared = fields.whole(f"connector_{key}", default, least, most)
            return fields.whole(f"audio_connector_{key}", shared, least, most) if stream == "audio" else shared

        head_dim = number("attention_head_dim", 128, 2, 2**16)
        if head_dim % 2:
            own = "audio_connector_attention_head_dim"
            raise fields.refusal(own if stream == "audio" and own in fields else own[6:], "an even number")
        return cls(
            heads=number("num_attention_heads", 30, 1, 1024),
            head_dim=head_dim,
            layers=number("num_layers", 2, 0, 256),
            gated=fields.flag("connector_apply_gated_attention", False),
            ff_bias=fields.flag("connector_ff_bias", True),
            max_position=fields.numbers("connector_positional_embedding_max_pos", (1.0,), least=1e-3)[0],
            rope_interleaved=fields.word("rope_type", "split", ("split", "interleaved")) == "interleaved",
            rope_double=fields.word("frequencies_precision", "float32") == "float64",
            registers=fields.whole("connector_num_learnable_registers", 128, most=2**16),
        )


class ConnectorBlock(nn.Module):
    """Bidirectional self-attention over all rows, then a feed-forward network."""

    def __init__(self, config: ConnectorConfig):
        super().__init__()
        self.attention = Attention(config.width, config.heads, config.head_dim, gated=config.gated)
        self.feed_forward = FeedForward(config.width, bias=config.ff_bias)

    def forward(self, x: Tensor, rotation: Rotation) -> Tensor:
        """Return the next hidden states of ``x`` (B, S, D)."""
        x = x + self._attend(rms_norm(x), rotation)
        return x + self.feed_forward.transform(rms_norm(x))

    def _attend(self, x: Tensor, rotation: Rotation) -> Tensor:
        query, key_value = self.attention.project_self(x, rotation)
        return self.attention.project_out(self.attention.attend(query, key_value), query.gates)


class Connector(nn.Module):
    """Fills the prompt up with learned registers ("thinking tokens") and lets all rows attend to each other."""

    def __init__(self, config: ConnectorConfig):
        super().__init__()
        self.config = config
        self.registers = nn.Parameter(torch.empty(config.registers, config.width))
        self.blocks = nn.ModuleList(repeat(partial(ConnectorBlock, config), config.layers))
        self.rope = Rope(
            config.heads,
            config.head_dim,
            (config.max_position,),
            interleaved=config.rope_interleaved,
            double=config.rope_double,
        )

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Turn features (B, L, D) into a context (B, S, D), all of whose rows are valid.

        S is 1024, or for longer prompts the next multiple of the number of registers.

        Args:
            features: One row per token.
            mask: 0 on padding, which may stand on either side, (B, L); None if every row is valid.

        Raises:
            SettingError: The features come from another model version.
        """
        if features.shape[-1] != self.config.width:
            raise SettingError(
                f"The text features are {features.shape[-1]} wide, this connector reads {self.config.width}: text "
                "projection and connectors must come from the same model version."
            )
        x = self.fill(features, mask)
        positions = torch.arange(x.shape[1], device=x.device, dtype=torch.float32)
        rotation = self.rope(positions.view(1, 1, -1))
        for block in self.blocks:
            x = block(x, rotation)
        return rms_norm(x)

    def fill(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Move valid rows to the front in their order and fill up to (B, S, D): row p becomes register p mod R."""
        length, registers = features.shape[1], self.registers.to(features.dtype)
        rows = math.ceil(max(self.config.rows, length) / len(registers)) * len(registers)
        if mask is None:
            begun, rest = length % len(registers), (rows - length) // len(registers)
            tiles = ([registers[begun:]] if begun else []) + [registers] * rest
            return torch.cat([features, *(tile.expand(len(features), -1, -1) for tile in tiles)], dim=1)
        # A stable sort of "is padding" keeps the order within valid rows.
        order = (mask == 0).to(torch.uint8).argsort(dim=1, stable=True)
        front = features.take_along_dim(order[..., None], dim=1)
        front = nn.functional.pad(front, (0, 0, 0, rows - length))
        valid = torch.arange(rows, device=mask.device) < mask.count_nonzero(dim=1)[:, None]
        return torch.where(valid[..., None], front, registers.repeat(rows // len(registers), 1))
