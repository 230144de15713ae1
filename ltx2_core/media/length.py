"""Whether a file ends before it should: most kinds say their length, others how they end."""

import os
import re
from typing import BinaryIO

ROUNDING = 1024  # bytes; some programs count their own headers wrongly
_RIFF_UNKNOWN = 0x7FFF0000  # and more stands where the end was not known yet
_SND_UNKNOWN = 0xFFFFFFFF
_WAVE64 = b"riff" + bytes.fromhex("2E91CF11A5D628DB04C10000")
# A frame of MPEG audio, which holds how many frames there are and how many bytes.
_XING = re.compile(rb"\xff[\xe0-\xff].{2,40}(?:Xing|Info)...[\x03\x07\x0b\x0f].{4}(.{4})", re.DOTALL)
_EBML, _SEGMENT = bytes.fromhex("1A45DFA3"), bytes.fromhex("18538067")
_BOX = re.compile(rb"....(?:ftyp|moov|mdat|moof|mfra|sidx|styp|free|skip|wide|uuid|meta|pnot)", re.DOTALL)
_LONGEST_PAGE = 2**16  # bytes of Ogg, nearly


def is_cut_off(file: BinaryIO) -> bool:
    """Return whether bytes are missing at the end of a file, by its own words; it is at its beginning again."""
    there = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(256)
    tags = _tags(head)
    file.seek(tags)
    said = _said(head) or tags + _said_of_mp3(file.read(512))
    is_open = max(_end_of_boxes(file, head), _end_of_caf(file, head)) > there or _lacks_end(file, head, there)
    file.seek(0)
    return is_open or said > there + ROUNDING


def _said(head: bytes) -> int:
    """How many bytes a file says that it has; 0 where it does not."""
    if head[:4] in (b"RIFF", b"FORM"):
        size = int.from_bytes(head[4:8], "little" if head[:1] == b"R" else "big")
        return size + 8 if size < _RIFF_UNKNOWN else 0
    if head[:4] == b"RF64":
        return int.from_bytes(head[20:28], "little") + 8
    if head[:16] == _WAVE64:
        return int.from_bytes(head[16:24], "little")
    if head[:4] == b".snd":  # of AU
        begin, size = (int.from_bytes(head[place : place + 4], "big") for place in (4, 8))
        return begin + size if size < _SND_UNKNOWN else 0
    if head[:4] != _EBML:
        return 0
    size, place = _number(head, 4)
    place += size
    if head[place : place + 4] != _SEGMENT:
        return 0
    size, place = _number(head, place + 4)
    return size + place


def _end_of_boxes(file: BinaryIO, head: bytes) -> int:
    """Where the last box of MP4 or MOV ends; 0 for other files."""
    end = 0
    while _BOX.match(head):
        size = int.from_bytes(head[:4], "big")
        if size == 1:
            size = int.from_bytes(head[8:16], "big")
        if size < 8:  # 0 for all that follows
            return end
        end += size
        file.seek(end)
        head = file.read(16)
    return end


def _end_of_caf(file: BinaryIO, head: bytes) -> int:
    """Where the last chunk of Apple's CAF ends; 0 for other files."""
    end = 8 if head[:4] == b"caff" else 0
    while end:
        file.seek(end)
        chunk = file.read(12)
        if len(chunk) < 12:
            break
        size = int.from_bytes(chunk[4:], "big", signed=True)
        if size < 0:  # of sound that goes on to the end
            break
        end += 12 + size
    return end


def _lacks_end(file: BinaryIO, head: bytes, there: int) -> bool:
    """Whether a file of a kind that says how it ends, but not how long it is, does not end so."""
    if head[:3] == b"GIF":
        return not _last(file, there, 16).rstrip(b"\0").endswith(b";")
    if head[:3] == b"FLV":  # behind each part is how long it was
        part = int.from_bytes(_last(file, there, 4), "big")
        return part > 0 and int.from_bytes(_last(file, there, part + 4)[1:4], "big") + 11 != part
    if head[:4] == b"OggS":
        page = _last(file, there, _LONGEST_PAGE).rpartition(b"OggS")[2]
        return len(page) < 23 or not page[1] & 4 or len(page) < 23 + page[22] + sum(page[23 : 23 + page[22]])
    packet = 188 if head[::188] == b"GG" else 192 if head[4::192] == b"GG" else 1  # of MPEG-TS
    return there % packet > 0


def _last(file: BinaryIO, there: int, count: int) -> bytes:
    """The last ``count`` bytes of a file, at most all."""
    file.seek(max(0, there - count))
    return file.read(count)


def _tags(head: bytes) -> int:
    """How many bytes the tags (ID3) at the beginning of an MP3 take."""
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    return 10 + sum(byte << 7 * place for place, byte in enumerate(reversed(head[6:10])))


def _said_of_mp3(first: bytes) -> int:
    """How many bytes an MP3 has behind its tags, by what encoders write into its ``first`` frame; 0 if nothing."""
    found = _XING.match(first)
    return int.from_bytes(found[1], "big") if found else 0


def _number(head: bytes, place: int) -> tuple[int, int]:
    """A number of EBML (RFC 8794), 0 for one that is not known, and where it ends."""
    length = 9 - head[place].bit_length() if place < len(head) else 1
    bits = int.from_bytes(head[place : place + length], "big") & (2 ** (7 * length) - 1)
    return 0 if bits == 2 ** (7 * length) - 1 else bits, place + length
