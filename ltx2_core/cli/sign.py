"""The commands that sign a clip, and that say who signed one."""

import argparse
from pathlib import Path

from ..errors import MediaError, plain_text
from ..media.provenance import Identity, anchors_of, describe_origin, read_signature, sign_file
from .inspect import for_each, matching


def run_sign(options: argparse.Namespace) -> None:
    """Write a file with content credentials, and print where it is."""
    identity = Identity.of(options.certificate, options.key, options.timestamp)
    sign_file(options.source, options.target, identity, overwrite=options.overwrite)
    print(plain_text(str(options.target)))


def run_check(options: argparse.Namespace) -> None:
    """Print who signed files, and what they say. Raises MediaError, at the end, if any was changed since."""
    anchors = anchors_of(options.anchors)
    for_each(matching(options.files), lambda path: _check(path, anchors))


def _check(path: Path, anchors: Path | None) -> None:
    signature = read_signature(path, anchors)
    print(plain_text(describe_origin(path, signature)), flush=True)
    if signature is not None and signature.faults:
        raise MediaError(f"{path.name} changed after it was signed: get it anew from who signed it.")
