"""What every text encoder has in common: hidden states of all layers, and sizes from a config or from shapes."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import CheckpointError
from ..errors.foreign import Fields
from .gemma_layers import Past, Sight, TextModel

# Of sizes that differ from 1 to 65,536: the least and the most that they can be.
LIMITS: dict[str, tuple[Any, Any]] = {
    "layers": (1, 256), "heads": (1, 1024), "kv_heads": (1, 1024), "full_kv_heads": (1, 1024), "head_dim": (2, 4096),
    "full_head_dim": (2, 4096), "vocabulary": (1, 2**22), "window": (1, 2**20), "theta": (1.0, 1e12),
    "local_theta": (1.0, 1e12), "eps": (1e-12, 0.1), "score_limit": (0.0, 1e6),
}  # fmt: skip

ROWS_AT_ONCE = 16_384  # of the table, when all of them are compared with a state


@dataclass(frozen=True)
class EncoderConfig(ABC):
    """Sizes of a text encoder; the defaults are those of both 12B models that LTX-2 was trained with.

    Of every ``full_every`` layers the last attends to everything, the others within the ``window``.
    """

    layers: int = 48
    width: int = 3840  # channels D of a hidden state
    hidden: int = 15360  # channels inside a feed-forward network
    heads: int = 16
    kv_heads: int = 8
    head_dim: int = 256
    vocabulary: int = 262144  # rows of the embedding
    window: int = 1024  # tokens
    full_every: int = 6
    theta: float = 1e6  # of the layers that attend to everything
    local_theta: float = 1e4
    eps: float = 1e-6
    score_limit: float = 0.0  # what scores of the next token approach at most; 0 is no limit

    def is_full(self, layer: int) -> bool:
        """Return whether a layer attends to everything."""
        return layer % self.full_every == self.full_every - 1

    @property
    @abstractmethod
    def query_width(self) -> int:
        """Channels of the queries of all layers together."""

    @abstractmethod
    def frequencies(self, full: bool) -> Tensor:
        """Return the radians per position of each pair of channels of a head, (d / 2), float32."""

    @classmethod
    @abstractmethod
    def from_json(cls, section: Mapping[str, Any]) -> "EncoderConfig":
        """Read the text part of a Hugging Face ``config.json``."""

    @classmethod
    @abstractmethod
    def from_shapes(cls, shapes: Mapping[str, tuple[int, ...]]) -> "EncoderConfig":
        """Derive the sizes from the shapes of the tensors, by our names."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return the sizes as a Hugging Face config has them."""

    @abstractmethod
    def build(self) -> "TextEncoder":
        """Make the network without weights."""


class TextEncoder(nn.Module):
    """Computes all hidden states of prompts; ``model`` has the names of transformers' text model."""

    config: EncoderConfig
    model: TextModel

    @property
    def table(self) -> Tensor:
        """The embedding of each token of the vocabulary, (vocabulary, D) unless it is stored in fewer bits."""
        return self.model.embed_tokens.weight

    @torch.no_grad()
    def forward(self, ids: Tensor, mask: Tensor, first: int = 0) -> list[Tensor]:
        """Return layers + 1 hidden states (B, L, D): the input of each layer, then the output of the final norm.

        The last layer's own output is never used. Rows of padding are 0. Layers are gone through once, and each takes
        one text after the other, without its padding: so a text is read to the same bits whatever is read with it.

        Args:
            ids: Token ids (B, L), padded on the left.
            mask: 0 on padding, (B, L); best on the CPU, where it is looked at.
            first: Position of the first column; positions count the padding.
        """
        config, longest, states = self.config, ids.shape[1], []
        lengths = [int(length) for length in mask.sum(dim=1)]
        texts = [self.embed(row[None, longest - length :]) for row, length in zip(ids, lengths)]
        near, far = (
            [Sight.behind(0, x, config.frequencies(full), window, first=first + longest - x.shape[1]) for x in texts]
            for full, window in ((False, config.window), (True, None))
        )
        for number, layer in enumerate(self.model.layers):
            states.append(_padded(texts, longest))
            texts = layer(texts, far if config.is_full(number) else near)
        return [*states, _padded([self.model.norm(x) for x in texts], longest)]

    @torch.no_grad()
    def read_on(
        self, ids: Tensor, past: Sequence[Past], picture: slice | None = None, seen: Tensor | None = None
    ) -> Tensor:
        """Read ``ids`` (L) behind what ``past`` holds for each layer, and add them to it.

        Args:
            ids: Of the tokens.
            past: What was read before.
            picture: Which of the tokens stand for a picture, and see each other.
            seen: What is read in place of their embeddings, (n, D).

        Returns:
            How well each token of the vocabulary goes on, before the softmax, (vocabulary) float32.
        """
        x, config, known = self.embed(ids[None]), self.config, past[0].length
        if picture is not None and seen is not None:
            x[0, picture] = seen.to(x)
        near = Sight.behind(known, x, config.frequencies(False), config.window, picture)
        far = Sight.behind(known, x, config.frequencies(True), None, picture)
        for number, (layer, kept) in enumerate(zip(self.model.layers, past)):
            (x,) = layer([x], [far if config.is_full(number) else near], kept)
        scores = self._scores(self.model.norm(x[0, -1]))
        return config.score_limit * (scores / config.score_limit).tanh() if config.score_limit else scores

    def _scores(self, state: Tensor) -> Tensor:
        """Compare a state (D) with every row of the table, some at a time: expanded, it is large."""
        ids = torch.arange(self.config.vocabulary, device=state.device).split(ROWS_AT_ONCE)
        return torch.cat([(self._rows(some) @ state).float() for some in ids])

    def embed(self, ids: Tensor) -> Tensor:
        """Look up rows (B, L, D), times the root of D."""
        rows = self._rows(ids)
        return rows * torch.tensor(self.config.width**0.5, dtype=rows.dtype, device=ids.device)

    def _rows(self, ids: Tensor) -> Tensor:
        """Look rows up as they are stored, then convert them: a table need not be in what is computed in.

        One that is stored in fewer bits looks them up by itself.
        """
        table = self.model.embed_tokens
        rows = table(ids) if hasattr(table, "format") else functional.embedding(ids, table.weight)
        return rows.to(self.model.norm.weight.dtype)


def _padded(texts: Sequence[Tensor], longest: int) -> Tensor:
    """Return states of texts, (1, L, D) each, as one (B, longest, D), with zeros before those that are shorter."""
    return torch.cat([functional.pad(x, (0, 0, longest - x.shape[1], 0)) for x in texts])


def read_sizes(fields: Fields, names: Mapping[str, str], defaults: type[EncoderConfig]) -> dict[str, Any]:
    """Read those sizes that a config states.

    Args:
        fields: The config.
        names: Our name of each size, and the config's.
        defaults: Has the usual value of each as an attribute, which tells whole numbers from others.

    Raises:
        CheckpointError: One of them is no such number, or out of ``LIMITS``.
    """
    values: dict[str, Any] = {}
    for ours, theirs in names.items():
        default = getattr(defaults, ours)
        if theirs in fields:
            read = fields.whole if isinstance(default, int) else fields.number
            values[ours] = read(theirs, default, *LIMITS.get(ours, (1, 2**16)))
    return values


def read_pattern(fields: Fields) -> dict[str, int]:
    """Read from the kinds of layers that a config lists which of them attend to everything; nothing if none do."""
    kinds = fields.items("layer_types", longest=LIMITS["layers"][1])
    return {"full_every": kinds.index("full_attention") + 1} if "full_attention" in kinds else {}


class WeightShapes:
    """Shapes of a text encoder's tensors, asked by the name of a layer."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]):
        self._shapes = shapes

    def __call__(self, name: str, axes: int = 2) -> tuple[int, ...]:
        """Return the shape of ``name``'s weight. Raises CheckpointError if it is missing or no such shape."""
        if not self.has(name):
            raise CheckpointError(f"The text encoder lacks {name}.weight; the file is not complete, download it again.")
        found = self._shapes[f"model.{name}.weight"]
        if len(found) != axes or not all(found):
            raise CheckpointError(
                f"The text encoder's {name}.weight has the shape {found}; {axes} axes that are not empty were "
                "expected. Download it again."
            )
        return found

    def has(self, name: str) -> bool:
        """Return whether ``name`` has a weight."""
        return f"model.{name}.weight" in self._shapes

    @property
    def layers(self) -> int:
        """How many layers there are."""
        return len({name.split(".")[2] for name in self._shapes if name.startswith("model.layers.")})

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes that every kind of Gemma has, by our names; those of heads are those of the first layer."""
        head_dim = self("layers.0.self_attn.q_norm", axes=1)[0]
        vocabulary, width = self("embed_tokens")
        return {
            "layers": self.layers,
            "width": width,
            "hidden": self("layers.0.mlp.gate_proj")[0],
            "heads": self("layers.0.self_attn.q_proj")[0] // head_dim,
            "kv_heads": self("layers.0.self_attn.k_proj")[0] // head_dim,
            "head_dim": head_dim,
            "vocabulary": vocabulary,
        }
