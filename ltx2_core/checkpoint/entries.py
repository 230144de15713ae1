"""One tensor of a file, as its header describes it, whatever kind of file it is."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import CheckpointError
from ..errors.foreign import shown

MOST_NUMBERS = 2**48  # of a tensor, also of one without bytes
MARKER = "comfy_quant"  # the suffix of a tensor that says how the weight beside it is stored

_MOST_TENSORS = 50_000  # far above those of any file of LTX-2, so that no header keeps the program busy


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies in its file."""

    dtype: str  # in the words of safetensors, or a type of GGUF
    shape: tuple[int, ...]
    nbytes: int
    start: int = 0  # the first byte, from the beginning of the file
    content: bytes = b""  # what the tensor holds, if the file says it in its metadata; then it has no bytes of its own
    expands: bool = False  # whether it lies in blocks of GGUF, but is given as numbers, because it is no matrix
    excess: float = 0.0  # what the file has added to every number


def marker_entry(options: Mapping[str, Any]) -> Entry:
    """Return the marker with these options for a file that says them elsewhere than in a tensor."""
    content = json.dumps(options).encode()
    return Entry("U8", (len(content),), 0, content=content)


def check_count(count: int, what: str, file: str) -> None:
    """CheckpointError for more tensors, or more of what else a header lists, than a file of LTX-2 has."""
    if count > _MOST_TENSORS:
        raise CheckpointError(
            f"{file} has {count:,} {what}; files of LTX-2 have at most {_MOST_TENSORS:,}: choose another file."
        )


def check_places(entries: Mapping[str, Entry], title: str) -> int:
    """Return where the last tensor ends. CheckpointError if two of them lie in the same place."""
    end = 0
    for key, entry in sorted(entries.items(), key=lambda item: item[1].start):
        if entry.nbytes and entry.start < end:
            raise contradiction(key, "where another tensor lies", title)
        end = max(end, entry.start + entry.nbytes)
    return end


def contradiction(key: str, how: str, title: str) -> CheckpointError:
    """Return the error for a header, which ``title`` names, that describes a tensor as it cannot be."""
    return CheckpointError(f"{title} describes {shown(key)} {how}, which cannot be; download the file again.")
