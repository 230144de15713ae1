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

    def __init__(
        self,
        split: Callable[[str], list[int]],
        words: int = 0,
        find: Callable[[str], int | None] = lambda piece: None,
        join: Callable[[Sequence[int]], str] = lambda ids: "",
    ):
        """Take what a tokenizer can do.

        Args:
            split: From text to token ids, with or without BOS.
            words: How many ids it knows.
            find: From one piece, such as a mark, to its id; None where it knows no such piece.
            join: From ids to text, without marks.
        """
        self._split, self.words, self.find, self.join = split, words, find, join

    @classmethod
    def from_json(cls, content: bytes) -> "Tokenizer":
        """Read the content of a Hugging Face ``tokenizer.json``."""
        from tokenizers import Tokenizer as FastTokenizer

        tokenizer = FastTokenizer.from_buffer(content)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        words = tokenizer.get_vocab_size()
        return cls(lambda text: tokenizer.encode(text).ids, words, tokenizer.token_to_id, tokenizer.decode)

    @classmethod
    def from_sentencepiece(cls, content: bytes) -> "Tokenizer":
        """Read a serialised SentencePiece model (``tokenizer.model``, ``spiece_model``)."""
        from sentencepiece import SentencePieceProcessor

        processor = SentencePieceProcessor(model_proto=content)

        def find(piece: str) -> int | None:
            number = processor.piece_to_id(piece)  # that of <unk> for what it does not know
            return number if processor.id_to_piece(number) == piece else None

        return cls(processor.encode, processor.vocab_size(), find, lambda ids: processor.decode(list(ids)))

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
        ids = [BOS, *self.split(prompt.strip())]
        if len(ids) > LENGTH:
            _log.warning(
                "The prompt has %d tokens; only the first %d are read. It ends: %r", len(ids), LENGTH, prompt[-40:]
            )
        return ids[:LENGTH]

    def split(self, text: str) -> list[int]:
        """Return all ids of a text, without BOS. Raises CheckpointError as ``tokens`` does."""
        ids = foreign_call(lambda: self._split(text), "The tokenizer cannot split a prompt")
        return ids[1:] if ids[:1] == [BOS] else ids
