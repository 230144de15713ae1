"""Whether a file ends before it says: RIFF (WAV, AVI), AIFF and Matroska (MKV, WebM) begin with their length."""

import os
from typing import BinaryIO

ROUNDING = 1024  # bytes; some programs count their own headers wrongly
_RIFF_UNKNOWN = 0x7FFF0000  # and more stands where the end was not known yet
_EBML, _SEGMENT = bytes.fromhex("1A45DFA3"), bytes.fromhex("18538067")


def is_cut_off(file: BinaryIO) -> bool:
    """Return whether bytes are missing at the end of a file, by its own words; it is at its beginning again."""
    file.seek(0)
    head = file.read(128)
    there = file.seek(0, os.SEEK_END)
    file.seek(0)
    return _said(head) > there + ROUNDING


def _said(head: bytes) -> int:
    """How many bytes a file says that it has; 0 where it does not."""
    if head[:4] in (b"RIFF", b"FORM"):
        size = int.from_bytes(head[4:8], "little" if head[:1] == b"R" else "big")
        return size + 8 if size < _RIFF_UNKNOWN else 0
    if head[:4] != _EBML:
        return 0
    size, place = _number(head, 4)
    place += size
    if head[place : place + 4] != _SEGMENT:
        return 0
    size, place = _number(head, place + 4)
    return size + place


def _number(head: bytes, place: int) -> tuple[int, int]:
    """A number of EBML (RFC 8794), 0 for one that is not known, and where it ends."""
    length = 9 - head[place].bit_length() if place < len(head) else 1
    bits = int.from_bytes(head[place : place + length], "big") & (2 ** (7 * length) - 1)
    return 0 if bits == 2 ** (7 * length) - 1 else bits, place + length
