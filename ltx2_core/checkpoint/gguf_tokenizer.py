"""The tokenizer in the fields of a GGUF file: the SentencePiece model or tokenizer.json that it comes from, and back.

Read and written in the wire format of protocol buffers, by the field numbers of sentencepiece_model.proto (Apache-2.0).
"""

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .gguf_header import Array, GGUFHeader, numbers_in, read_gguf_header, texts_in

_FIELDS = "tokenizer.ggml."
_SENTENCEPIECE, _MERGED = "llama", "gemma4"  # what llama.cpp calls its kinds
_WHOLE = "tokenizer.huggingface.json"  # a field that holds tokenizer.json as it is
_BPE = 2  # of sentencepiece: pieces are joined, the highest score first
_CONTROL, _USER_DEFINED, _KINDS = 3, 4, range(1, 7)
_IDS = {40: ("unknown", 3), 41: ("bos", 2), 42: ("eos", 1), 43: ("padding", 0)}  # words by their field of the trainer
_SPACE = "\u2581".encode()  # that stands for one in pieces


def tokenizer_inside(path: Path) -> tuple[str, bytes] | None:
    """Return the tokenizer that a GGUF file describes: "tokenizer_json" or "spiece_model", and its content; None if it
    describes none of these kinds.

    Raises CheckpointError if its lists do not go together.
    """
    header = read_gguf_header(path)
    if whole := header.text(_WHOLE):
        return "tokenizer_json", whole.encode()
    kind = header.text(f"{_FIELDS}model")
    if kind == _MERGED:
        return "tokenizer_json", _merged(path, header)
    return ("spiece_model", _sentencepiece(path, header)) if kind == _SENTENCEPIECE else None


def _sentencepiece(path: Path, header: GGUFHeader) -> bytes:
    pieces = b"".join(_message(1, piece) for piece in _pieces(path, header))
    trainer = _number(3, _BPE) + _number(35, 1)  # and bytes for what is in no piece
    for field, (name, default) in _IDS.items():
        trainer += _number(field, _whole(header, f"{name}_token_id", default))
    # Text stays as it is: no space goes, and none comes unless the file says so.
    normalizer = _message(1, b"identity") + _number(3, _whole(header, "add_space_prefix", 0)) + _number(4, 0)
    return pieces + _message(2, trainer) + _message(3, normalizer)


def _merged(path: Path, header: GGUFHeader) -> bytes:
    """The content of tokenizer.json: words, and which two of them are joined, the first pair first."""
    lists = {name: _list(header, path, name) for name in ("tokens", "token_type", "merges")}
    words = [word.decode("utf-8", "replace") for word in texts_in(path, lists["tokens"])]
    kinds = numbers_in(path, lists["token_type"]).tolist()
    merges = [pair.decode("utf-8", "replace").split(" ") for pair in texts_in(path, lists["merges"])]
    if len(kinds) != len(words) or len({*words}) != len(words) or any(len(pair) != 2 for pair in merges):
        raise CheckpointError(
            f"The tokenizer in {path.name} has {len(words):,} words ({len({*words}):,} different ones), {len(kinds):,} "
            "kinds, and merges that should join two words each; download the file again."
        )
    unknown = _whole(header, "unknown_token_id", 3)
    joined = {"fuse_unk": True, "byte_fallback": True, "unk_token": words[unknown] if unknown < len(words) else None}
    space = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE.decode()}
    model = {"type": "BPE", **joined, "vocab": {word: number for number, word in enumerate(words)}, "merges": merges}
    added = _added_words(words, kinds, unknown)
    return json.dumps({"version": "1.0", "added_tokens": added, "normalizer": space, "model": model}).encode()


def _added_words(words: list[str], kinds: list[int], unknown: int) -> list[dict[str, Any]]:
    """Words that are never split, as tokenizer.json lists them."""
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [
        {"id": number, "content": word, "special": kind == _CONTROL, **plain}
        for number, (word, kind) in enumerate(zip(words, kinds))
        if kind in (_CONTROL, _USER_DEFINED) or number == unknown
    ]


def tokenizer_text(content: bytes, title: str) -> dict[str, str]:
    """Return the field of a GGUF file that holds tokenizer.json; CheckpointError, which names ``title``, if it is no
    text."""
    try:
        return {_WHOLE: content.decode()}
    except UnicodeDecodeError:
        raise CheckpointError(f"{title} is not a tokenizer.json; download it again.") from None


def tokenizer_fields(model: bytes, title: str) -> dict[str, Any]:
    """Return the fields of a GGUF file that describe a SentencePiece model, as llama.cpp's converter names them.

    Raises CheckpointError, in which ``title`` names the model, if it is none.
    """
    try:
        fields = list(_messages(model))
        pieces = [_piece(dict(_messages(content))) for field, content in fields if field == 1]
        trainer = dict(_messages(next((content for field, content in fields if field == 2), b"")))
        ids = {f"{name}_token_id": int(trainer.get(at, default)) for at, (name, default) in _IDS.items()}
    except (struct.error, LookupError, TypeError, ValueError):
        pieces = []
    if not pieces:
        raise CheckpointError(f"{title} is not a SentencePiece model; download it again.")
    words, scores, kinds = map(list, zip(*pieces))
    lists = {"tokens": words, "scores": scores, "token_type": kinds}
    ids = {name: number for name, number in ids.items() if number < 2**31}  # a larger one stands for -1, none
    stated = {"model": _SENTENCEPIECE, **lists, **ids, "add_space_prefix": False}
    return {f"{_FIELDS}{name}": value for name, value in stated.items()}


def _piece(fields: Mapping[int, Any]) -> tuple[bytes, float, int]:
    """A word, its score and its kind."""
    word, kind = fields[1], int(fields.get(3, 1))
    (score,) = struct.unpack("<f", fields.get(2, bytes(4)))
    return word.replace(_SPACE, b" ") if kind == _USER_DEFINED else word, score, kind


def _messages(content: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a message with their numbers; texts and messages as bytes, other fixed sizes, too."""
    at = 0
    while at < len(content):
        key, at = _read_varint(content, at)
        kind = key & 7
        if kind == 0:
            value, at = _read_varint(content, at)
            yield key >> 3, value
            continue
        length, at = _read_varint(content, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
        if at + length > len(content):
            raise IndexError(at)
        yield key >> 3, content[at : at + length]
        at += length


def _read_varint(content: bytes, at: int) -> tuple[int, int]:
    """A whole number, and where the next thing begins."""
    value = shift = 0
    while True:
        value |= (content[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if content[at - 1] < 128:
            return value, at


def _pieces(path: Path, header: GGUFHeader) -> Iterator[bytes]:
    """Each word with its score and its kind."""
    words, scores, kinds = (_list(header, path, name) for name in ("tokens", "scores", "token_type"))
    if not words.count == scores.count == kinds.count:
        raise CheckpointError(
            f"The tokenizer in {path.name} has {words.count:,} words, {scores.count:,} scores and {kinds.count:,} "
            "kinds, which should be equally many; download the file again."
        )
    numbers = numbers_in(path, scores).astype("<f4").tobytes()
    for index, (word, kind) in enumerate(zip(texts_in(path, words), numbers_in(path, kinds).tolist())):
        if kind not in _KINDS:
            raise CheckpointError(
                f"The tokenizer in {path.name} has word {index:,} of kind {kind}, which is not known; download the "
                "file again."
            )
        if kind == _USER_DEFINED:  # llama.cpp's converter puts spaces there
            word = word.replace(b" ", _SPACE)
        yield _message(1, word) + b"\x15" + numbers[4 * index : 4 * index + 4] + _number(3, kind)


def _list(header: GGUFHeader, path: Path, name: str) -> Array:
    found = header.fields.get(_FIELDS + name)
    if not isinstance(found, Array):
        raise CheckpointError(f"The tokenizer in {path.name} lacks its {name}; download the file again.")
    return found


def _whole(header: GGUFHeader, name: str, default: int) -> int:
    value: Any = header.fields.get(_FIELDS + name)
    return int(value) if isinstance(value, int) and 0 <= value < 2**31 else default


def _varint(value: int) -> bytes:
    """A whole number, seven bits to a byte."""
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    found.append(value)
    return bytes(found)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _message(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content
