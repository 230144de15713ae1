"""What a language model sees of a picture: SigLIP and the projector of Gemma 3 (see README.md, "Pictures")."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import CheckpointError
from ..errors.foreign import Fields
from .gemma_layers import Norm

Shapes = Mapping[str, tuple[int, ...]]

# The axes of those tensors that tell the sizes.
_AXES = {"patch_embedding.weight": 4, "positions": 2, "layers.0.mlp.fc1.weight": 2, "projection": 2}


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of the part for pictures; the defaults are those of Gemma 3 with 4B, 12B and 27B."""

    layers: int = 27
    width: int = 1152
    hidden: int = 4304
    heads: int = 16
    patch: int = 14  # pixels on each side
    side: int = 64  # patches on each side of a picture
    tokens: int = 256  # of a picture; a square
    text_width: int = 3840
    eps: float = 1e-6

    @classmethod
    def from_json(cls, config: Mapping[str, Any], shapes: Shapes) -> "VisionConfig":
        """Read the sizes from the shapes of the tensors (our names), and what they leave open from Gemma's config.

        Raises:
            CheckpointError: A tensor is missing, or the sizes do not go together.
        """
        for name, axes in _AXES.items():
            if len(found := shapes.get(name, ())) != axes or not all(found):
                raise CheckpointError(
                    f"The part for pictures has {name} of the shape {found}; {axes} axes that are not empty were "
                    "expected. Download it again."
                )
        fields = Fields.of(config, "The config of Gemma")
        stated = fields.section("vision_config")
        count, width = shapes["positions"]
        own = cls(
            layers=len({name.split(".")[1] for name in shapes if name.startswith("layers.")}),
            width=width,
            hidden=shapes["layers.0.mlp.fc1.weight"][0],
            heads=stated.whole("num_attention_heads", cls.heads, 1, 1024),
            patch=shapes["patch_embedding.weight"][-1],
            side=isqrt(count),
            tokens=fields.whole("mm_tokens_per_image", cls.tokens, 1, 2**16),
            text_width=shapes["projection"][1],
            eps=stated.number("layer_norm_eps", cls.eps, 1e-12, 0.1),
        )
        if width % own.heads:
            raise stated.refusal("num_attention_heads", f"a number that divides the {width} channels")
        if own.side**2 != count or own.tokens_per_side**2 != own.tokens or own.side % own.tokens_per_side:
            raise fields.refusal("mm_tokens_per_image", f"a square whose side divides that of {count} patches")
        return own

    @property
    def size(self) -> int:
        """Pixels on each side of a picture."""
        return self.side * self.patch

    @property
    def tokens_per_side(self) -> int:
        """Tokens on each side of a picture."""
        return isqrt(self.tokens)


class Attention(nn.Module):
    """Every patch attends to every patch."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Attend from each patch of ``x`` (B, N, W) to all of them."""
        query, key, value = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        seen = functional.scaled_dot_product_attention(query, key, value)
        return self.out_proj(seen.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """The feed-forward network."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each patch of ``x`` (B, N, W) by itself."""
        return self.fc2(functional.gelu(self.fc1(x), approximate="tanh"))


class VisionLayer(nn.Module):
    """Attention and feed-forward, each behind a norm."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.layer_norm1, self.layer_norm2 = (nn.LayerNorm(config.width, config.eps) for _ in range(2))
        self.self_attn, self.mlp = Attention(config.width, config.heads), Mlp(config.width, config.hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Return the state (B, N, W) after this layer."""
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class VisionEncoder(nn.Module):
    """Turns a picture into what stands in the places of embeddings of tokens."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.config = config
        self.patch_embedding = nn.Conv2d(3, config.width, config.patch, stride=config.patch)
        self.positions = nn.Parameter(torch.empty(config.side**2, config.width))
        self.layers = nn.ModuleList(VisionLayer(config) for _ in range(config.layers))
        self.post_layernorm = nn.LayerNorm(config.width, config.eps)
        self.norm = Norm(config.width, config.eps, offset=1.0)
        self.projection = nn.Parameter(torch.empty(config.width, config.text_width))
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Tensor:
        """Return what the language model reads of ``pixels`` (B, 3, size, size) in -1..1, (B, tokens, text width).

        Source: arXiv 2303.15343 (SigLIP); arXiv 2503.19786 (Gemma 3), "Vision encoder".
        """
        config = self.config
        x = self.patch_embedding(pixels).flatten(2).transpose(1, 2) + self.positions
        for layer in self.layers:
            x = layer(x)
        grid = self.post_layernorm(x).transpose(1, 2).unflatten(2, (config.side, config.side))
        pooled = functional.avg_pool2d(grid, config.side // config.tokens_per_side).flatten(2).transpose(1, 2)
        return self.norm(pooled) @ self.projection


def prepare_picture(picture: Tensor, size: int) -> Tensor:
    """Return ``picture`` (1, H, W, 3) in 0..1 as (1, 3, size, size) in -1..1, whatever its proportions.

    As transformers' processor of Gemma 3: bilinear, of whole numbers in 0..255.
    """
    whole = (picture.clamp(0, 1) * 255).round().to(torch.uint8).movedim(-1, 1)
    resized = functional.interpolate(whole, (size, size), mode="bilinear", antialias=True)
    return resized.float() / 127.5 - 1
