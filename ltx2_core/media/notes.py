"""What a file says of how it was made: settings, for people and for us, and for machines that a model made it."""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image, PngImagePlugin

from ..errors import LTX2Error, MediaError
from ..errors.atomic import whole_or_nothing
from ..errors.files import as_path, visible_files
from ..errors.foreign import parse_json
from . import pyav as av
from .exr import is_exr, read_exr_texts
from .local import READ_ALONE, open_local
from .values import texts_of

VERSION = "0.2.0"  # of this package

# IPTC NewsCodes, digital source type: media that a model made which learned from samples.
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
SOURCE_TAG = "digital_source_type"
SOFTWARE = f"ltx2-av {VERSION}"

# Settings of the command line as JSON, a text that differs where they do, and the graph as ComfyUI writes it.
SETTINGS_TAG, DIGEST_TAG = "ltx2", "ltx2_digest"
GRAPH_TAGS = ("prompt", "workflow")

# Where XMP lies (ISO 16684; Adobe, "XMP Specification Part 3: Storage in Files").
_PNG_KEY = "XML:com.adobe.xmp"
_MP4_UUID = bytes.fromhex("BE7ACFCB97A942E89C71999491E3AFAC")
_WAV_CHUNK = b"_PMX"
XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    'xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    f'xmp:CreatorTool="{SOFTWARE}" Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPE}"/></rdf:RDF></x:xmpmeta>'
    '<?xpacket end="r"?>'
)

_XMP_SOURCE = re.compile(rb'DigitalSourceType(?:="|>)([^"<]{1,200})')

_PICTURES = (".png", ".exr")
_WAV_TAG = "comment"  # the only one of RIFF that holds any text; the tags of a WAV file are JSON in it
LARGEST_TEXT = 2**22  # characters of the tags that are read


def marked(tags: Mapping[str, str] | None) -> dict[str, str]:
    """Return ``tags`` with those that every file has: that a model made it, and which software asked it to.

    Halves of letters, which no file can hold (of a text that was cut, or of another encoding), become "?".
    """
    whole = {name: text.encode(errors="replace").decode() for name, text in texts_of(tags or {}).items()}
    return {**whole, SOURCE_TAG: SOURCE_TYPE, "software": SOFTWARE}


def container_tags(tags: Mapping[str, str] | None, kind: str) -> dict[str, str]:
    """Return the tags of a container of this FFmpeg ``kind``; a WAV file has them in one."""
    return {_WAV_TAG: json.dumps(marked(tags))} if kind == "wav" else marked(tags)


def picture_tags(tags: Mapping[str, str] | None) -> PngImagePlugin.PngInfo:
    """Return the texts of a PNG file."""
    found = PngImagePlugin.PngInfo()
    for name, text in marked(tags).items():
        add = found.add_text if text.isascii() else found.add_itxt
        add(name, text)
    found.add_itxt(_PNG_KEY, XMP)
    return found


def mark_video(file: str | os.PathLike | BinaryIO) -> None:
    """Add to an MP4 file of any writer, or to one in memory, that a model made it."""
    if isinstance(file, (str, os.PathLike)):
        with open(file, "r+b") as opened:
            add_xmp(opened, "mp4")
    else:
        add_xmp(file, "mp4")


@contextmanager
def marking(target: str | os.PathLike | BinaryIO) -> Iterator[Any]:
    """Give where an MP4 file is written, which is marked as by ``mark_video`` and then gets its name, or goes away.

    Args:
        target: that name; what is in memory is written to as it is.

    Raises:
        UnreadableFileError: The system refuses, such as where a disk is full.
    """
    if not isinstance(target, (str, os.PathLike)):
        yield target
        mark_video(target)
        return
    with whole_or_nothing(Path(target)) as unfinished:
        yield str(unfinished)
        mark_video(unfinished)


def add_xmp(file: BinaryIO, kind: str) -> None:
    """Put the XMP behind all else of a complete file of this FFmpeg ``kind``; others than mp4 and wav have no place."""
    packet = XMP.encode()
    file.seek(0, os.SEEK_END)
    if kind == "mp4":
        file.write(struct.pack(">I4s", 24 + len(packet), b"uuid") + _MP4_UUID + packet)
    elif kind == "wav":
        packet += b" " * (len(packet) % 2)
        file.write(struct.pack("<4sI", _WAV_CHUNK, len(packet)) + packet)
        size = file.tell() - 8
        file.seek(4)
        file.write(struct.pack("<I", size))


def read_tags(path: str | os.PathLike) -> dict[str, str]:
    """Return what a picture, a video, a sound or a folder of frames says of itself; nothing where it says nothing.

    Raises:
        MissingFileError: there is no such file.
        MediaError: it is none of these.
    """
    path = as_path(path, "The file")
    if path.is_dir():
        path = _first_picture(path)
    try:
        found = _texts(path)
    except LTX2Error:
        raise
    except Exception as error:  # Pillow and damaged headers have no common type
        raise MediaError(f"{path.name} cannot be read: it is of another kind, damaged or cut off.") from error
    if sum(map(len, found.values())) > LARGEST_TEXT:
        raise MediaError(f"{path.name} says more than {LARGEST_TEXT:,} letters of itself, which is not read.")
    return found


def _first_picture(folder: Path) -> Path:
    found = visible_files(folder, *_PICTURES)
    if not found:
        raise MediaError(f"There is no .png and no .exr file in the folder {folder.name}: choose one with frames.")
    return found[0]


def _texts(path: Path) -> dict[str, str]:
    if is_exr(path):
        return read_exr_texts(path)
    with open_local(path) as file:
        if path.suffix.lower() == ".png":
            with Image.open(file, formats=["PNG"]) as image:
                return {str(name): str(text) for name, text in image.info.items() if isinstance(text, str)}
        source = _source_in_xmp(file)
        file.seek(0)
        with av.open(file, options=READ_ALONE) as container:
            found = dict(container.metadata)
    found = {name.lower(): text for name, text in found.items()}  # FLAC has them in capitals
    if path.suffix.lower() == ".wav":
        found |= _listed(found.pop(_WAV_TAG, ""))
    return source | found


def _source_in_xmp(file: BinaryIO) -> dict[str, str]:
    """The digital source type in the XMP of an MP4 file, whoever wrote its tags; nothing where there is none."""
    place, end = 0, file.seek(0, os.SEEK_END)
    while place + 24 <= end:
        file.seek(place)
        size, kind = struct.unpack(">I4s", file.read(8))
        if size == 1:
            size = int.from_bytes(file.read(8), "big")
        elif kind == b"uuid" and file.read(16) == _MP4_UUID:
            found = _XMP_SOURCE.search(file.read(min(size, LARGEST_TEXT)))
            return {SOURCE_TAG: found[1].decode("utf-8", "replace")} if found else {}
        if size < 8:
            break
        place += size
    return {}


def _listed(text: str) -> dict[str, str]:
    """The tags of a WAV file; nothing where its comment is one of other people."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return {name: each for name, each in found.items() if isinstance(each, str)} if isinstance(found, dict) else {}


def describe_tags(path: Path, *, graph: bool = True) -> str:
    """Return in a few lines what a file says of itself, for people.

    A graph of ComfyUI is told node by node, or without ``graph`` only that it is there.

    Raises as ``read_tags``, and CheckpointError where settings in it are damaged.
    """
    return describe_texts(read_tags(path), path.name, graph=graph)


def describe_texts(tags: Mapping[str, str], name: str, *, graph: bool = True) -> str:
    """Return in a few lines the ``tags`` of the file ``name``, as ``describe_tags`` does."""
    if not tags:
        return f"{name}: it does not say how it was made"
    lines, tags = [f"{name}: it says of itself"], dict(tags)
    note = parse_json(tags.pop(SETTINGS_TAG), f"What {name} says of its settings") if SETTINGS_TAG in tags else {}
    for part in note.values():
        if isinstance(part, dict):
            lines += [f"  {key:<20} {_shown(value)}" for key, value in part.items()]
    left_out = re.compile(rf"{DIGEST_TAG}|xml:.*|major_brand|minor_version|compatible_brands", re.IGNORECASE)
    for key, text in tags.items():
        if not left_out.fullmatch(key):
            told = _told_graph(text, graph) if key in GRAPH_TAGS else text
            lines.append(f"  {key:<20} {told.replace(chr(10), chr(10) + ' ' * 23)}")
    return "\n".join(lines)


def _told_graph(text: str, whole: bool) -> str:
    """A graph of ComfyUI in a line for each node, or in a few words; any other text as it is."""
    try:
        nodes = {key: node for key, node in parse_json(text, "a graph").items() if isinstance(node, dict)}
    except LTX2Error:
        return text
    lines = [
        f"{key} {node['class_type']} {json.dumps(node.get('inputs'), ensure_ascii=False)}"
        for key, node in nodes.items()
        if "class_type" in node
    ]
    return "\n".join(lines) if whole and lines else f"a graph of ComfyUI, {len(text):,} letters"


def _shown(value: object) -> str:
    return "  ".join(map(str, value)) if isinstance(value, list) else str(value)
