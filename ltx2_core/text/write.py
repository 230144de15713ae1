"""A language model writes: turns of a chat become tokens, and one token after the other follows (see README.md)."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import SettingError
from .encoder import TextEncoder
from .gemma_layers import Past
from .tokenizer import BOS, PAD, Tokenizer

EOS = 1
CANDIDATES = 50  # of the next token; the usual number of transformers' sampling
REPEATED = 5  # so many tokens in a row are written once (official: no_repeat_ngram_size)


class Marks(NamedTuple):
    """How the turns of a chat begin and end, and whether an instruction is a turn of its own."""

    begin: str
    end: str
    instructs: bool


# Of Gemma 3 and of Gemma 4.
MARKS = (Marks("<start_of_turn>", "<end_of_turn>", False), Marks("<|turn>", "<turn|>", True))
PICTURE_MARKS = "<start_of_image>", "<end_of_image>"  # of Gemma 3


class Chat(NamedTuple):
    """What a language model reads before it answers, the tokens that end its answer, and those of a picture."""

    ids: list[int]
    ends: frozenset[int]
    picture: slice | None = None


def open_chat(tokenizer: Tokenizer, instruction: str, text: str, picture_tokens: int = 0) -> Chat:
    """Return an ``instruction`` and the ``text`` of a user as a chat whose next turn is the model's.

    The marks of turns are put in as tokens, so nothing in ``text`` can end its turn.

    Args:
        tokenizer: Of the language model.
        instruction: What it is told to do.
        text: What it does it with.
        picture_tokens: How many tokens a picture has that stands in front of the text; 0 for none.

    Raises:
        SettingError: The tokenizer knows no such marks: its language model is not made for chats, or for pictures.
    """
    for marks in MARKS:
        begin, end = tokenizer.find(marks.begin), tokenizer.find(marks.end)
        if begin is not None and end is not None:
            break
    else:
        raise SettingError(
            f"This text encoder cannot enhance prompts: its tokenizer has no {' or '.join(m.begin for m in MARKS)}. "
            "Take an instruct model, such as gemma_3_12B_it."
        )
    for mark in (marks.begin, marks.end, *PICTURE_MARKS):
        text = text.replace(mark, " ")
    if picture_tokens:
        return _chat_about_picture(tokenizer, (begin, end), f"{instruction}\n\n", text, picture_tokens)
    turns = [("system", instruction), ("user", text)] if marks.instructs else [("user", f"{instruction}\n\n{text}")]
    ids = [BOS]
    for role, said in turns:
        ids += [begin, *tokenizer.split(f"{role}\n{said.strip()}"), end, *tokenizer.split("\n")]
    return Chat([*ids, begin, *tokenizer.split("model\n")], frozenset((EOS, end)))


def _chat_about_picture(
    tokenizer: Tokenizer, turn: tuple[int, int], before: str, text: str, picture_tokens: int
) -> Chat:
    """The same with a picture, between its marks and two line feeds on each side, as transformers' processor has it."""
    opens, closes = map(tokenizer.find, PICTURE_MARKS)
    if opens is None or closes is None:
        raise SettingError(
            f"This text encoder cannot look at pictures: its tokenizer has no {' and '.join(PICTURE_MARKS)}. Take one "
            "that can, such as gemma_3_12B_it."
        )
    begin, end = turn
    ids = [BOS, begin, *tokenizer.split(f"user\n{before}\n\n"), opens]
    picture = slice(len(ids), len(ids) + picture_tokens)
    ids += [PAD] * picture_tokens + [closes, *tokenizer.split(f"\n\n{text.strip()}"), end, *tokenizer.split("\n")]
    return Chat([*ids, begin, *tokenizer.split("model\n")], frozenset((EOS, end)), picture)


@torch.no_grad()
def write_tokens(
    encoder: TextEncoder, chat: Chat, most: int, temperature: float, seed: int, seen: Tensor | None = None
) -> Iterator[int]:
    """Yield the tokens of the answer, at most ``most``, without the one that ends it.

    Args:
        encoder: Reads what is there, and says how well each token goes on.
        chat: What it answers.
        most: Tokens at most.
        temperature: Scores are divided by it before one of the best CANDIDATES is drawn; 0 takes the best.
        seed: Of what is drawn, on the CPU.
        seen: What is read of the picture of the chat, (tokens, D).
    """
    generator = torch.Generator().manual_seed(seed)
    past = [Past() for _ in range(encoder.config.layers)]
    given, picture, written = chat.ids, chat.picture, list[int]()
    while len(written) < most:
        scores = encoder.read_on(torch.tensor(given, device=encoder.table.device), past, picture, seen).cpu()
        scores[repeats(written)] = -torch.inf
        if (token := draw(scores, temperature, generator)) in chat.ends:
            return
        written.append(token)
        yield token
        given, picture = [token], None


def draw(scores: Tensor, temperature: float, generator: torch.Generator) -> int:
    """Draw the next token by ``scores`` (vocabulary) among the best CANDIDATES; at temperature 0 take the best."""
    if temperature == 0:
        return int(scores.argmax())
    best, tokens = scores.topk(min(CANDIDATES, len(scores)))
    return int(tokens[torch.multinomial((best / temperature).softmax(0), 1, generator=generator)])


def repeats(written: Sequence[int]) -> list[int]:
    """Return the tokens that would repeat REPEATED tokens which stand in ``written``."""
    starts = range(len(written) - REPEATED + 1)  # none, as long as there are fewer
    last = written[len(starts) :]
    return [written[at + REPEATED - 1] for at in starts if written[at : at + REPEATED - 1] == last]
