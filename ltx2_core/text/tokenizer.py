"""From a prompt to the tokens of Gemma (see README.md, "Tokens")."""

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..errors.foreign import foreign_call

LENGTH, PAD, BOS = 1024, 0, 2

_log = logging.getLogger(__name__)


class Tokenizer:
    """Splits prompts into at most 1024 tokens, beginning with BOS, and pads them on the left."""

    def __init__(self, split: Callable[[str], list[int]], words: int = 0):
        """Take ``split``, a function from text to token ids, with or without BOS, and how many ids it knows."""
        self._split, self.words = split, words

    @classmethod
    def from_json(cls, content: bytes) -> "Tokenizer":
        """Read the content of a Hugging Face ``tokenizer.json``."""
        from tokenizers import Tokenizer as FastTokenizer

        tokenizer = FastTokenizer.from_buffer(content)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return cls(lambda text: tokenizer.encode(text).ids, tokenizer.get_vocab_size())

    @classmethod
    def from_sentencepiece(cls, content: bytes) -> "Tokenizer":
        """Read a serialised SentencePiece model (``tokenizer.model``, ``spiece_model``)."""
        from sentencepiece import SentencePieceProcessor

        processor = SentencePieceProcessor(model_proto=content)
        return cls(processor.encode, processor.vocab_size())

    def __call__(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return token ids and mask, both (B, 1024) int64; the mask is 0 on the padding to the left."""
        rows = [self.tokens(prompt) for prompt in prompts]
        ids = torch.tensor([[PAD] * (LENGTH - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (LENGTH - len(row)) + [1] * len(row) for row in rows])
        return ids, mask

    def tokens(self, prompt: str) -> list[int]:
        """Return the ids of one prompt without padding; more than 1024 tokens are truncated, with a warning.

        Raises CheckpointError if the tokenizer is so damaged that it cannot split text.
        """
        ids = foreign_call(lambda: self._split(prompt.strip()), "The tokenizer cannot split a prompt")
        if ids[:1] != [BOS]:
            ids = [BOS, *ids]
        if len(ids) > LENGTH:
            _log.warning(
                "The prompt has %d tokens; only the first %d are read. It ends: %r", len(ids), LENGTH, prompt[-40:]
            )
        return ids[:LENGTH]
