"""What a file says of how it was made: settings, for people and for us, and for machines that a model made it."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path

from PIL import Image, PngImagePlugin

from ..errors import LTX2Error, MediaError
from . import pyav as av
from .exr import is_exr, read_exr_texts
from .local import READ_ALONE, open_local

VERSION = "0.2.0"  # of this package

# IPTC NewsCodes, digital source type: media that a model made which learned from samples.
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
SOURCE_TAG = "digital_source_type"
SOFTWARE = f"ltx2-av {VERSION}"

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

_PICTURES = (".png", ".exr")
_WAV_TAG = "comment"  # the only one of RIFF that holds any text; the tags of a WAV file are JSON in it
LARGEST_TEXT = 2**22  # characters of the tags that are read


def marked(tags: Mapping[str, str] | None) -> dict[str, str]:
    """Return ``tags`` with those that every file has: that a model made it, and which software asked it to."""
    return {**(tags or {}), SOURCE_TAG: SOURCE_TYPE, "software": SOFTWARE}


def container_tags(tags: Mapping[str, str] | None, kind: str) -> dict[str, str]:
    """Return the tags of a container of this FFmpeg ``kind``; a WAV file has them in one."""
    return {_WAV_TAG: json.dumps(marked(tags))} if kind == "wav" else marked(tags)


def picture_tags(tags: Mapping[str, str] | None) -> PngImagePlugin.PngInfo:
    """Return the texts of a PNG file."""
    found = PngImagePlugin.PngInfo()
    for name, text in marked(tags).items():
        found.add_text(name, text) if text.isascii() else found.add_itxt(name, text)
    found.add_itxt(_PNG_KEY, XMP)
    return found


def add_xmp(path: Path, kind: str) -> None:
    """Put the XMP behind all else of a complete file of this FFmpeg ``kind``; others than mp4 and wav have no place."""
    packet = XMP.encode()
    if kind == "mp4":
        with path.open("ab") as file:
            file.write(struct.pack(">I4s", 24 + len(packet), b"uuid") + _MP4_UUID + packet)
    elif kind == "wav":
        packet += b" " * (len(packet) % 2)
        with path.open("r+b") as file:
            file.seek(0, os.SEEK_END)
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
    path = Path(path)
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
    found = sorted(each for each in folder.iterdir() if each.suffix.lower() in _PICTURES)
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
        with av.open(file, options=READ_ALONE) as container:
            found = dict(container.metadata)
    found = {name.lower(): text for name, text in found.items()}  # FLAC has them in capitals
    if path.suffix.lower() == ".wav":
        found |= _listed(found.pop(_WAV_TAG, ""))
    return found


def _listed(text: str) -> dict[str, str]:
    """The tags of a WAV file; nothing where its comment is one of other people."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return {name: each for name, each in found.items() if isinstance(each, str)} if isinstance(found, dict) else {}
