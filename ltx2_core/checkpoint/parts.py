"""What split files lack, found by content among the files of the model folders."""

from collections.abc import Sequence
from pathlib import Path

from ..errors import LTX2Error
from .duration_head import is_duration_head
from .files import TensorFile
from .joined import joined
from .models import AUDIO_VAE, VIDEO_VAE, Models, open_models, says_distilled, sources_in, versions_of
from .versions import possible_versions

# Components that lie in one file each, beside the transformer; the connectors do in some split models.
GROUPS = (("text_features",), ("video_connector", "audio_connector"), VIDEO_VAE, AUDIO_VAE)


def find_parts(chosen: Sequence[Path], paths: Sequence[Path]) -> list[Path]:
    """Find the files that complete a model; only headers are read.

    Args:
        chosen: The files of the model, of which the transformer is one.
        paths: Files among which the others are looked for, best first.

    Returns:
        For each component that ``chosen`` lack, the duration head included, a file that holds it and may be of their
        version, if there is one; one that states the version counts before others, and one whose name says what the
        model is, distilled or not. Nothing for files that cannot be opened, which opening them tells.
    """
    try:
        models = open_models(chosen)
    except LTX2Error:
        return []
    if "transformer" not in models.sources:
        return []
    files = [file for path in paths if (file := _open(path)) is not None]
    found = [_holder(files, group, models) for group in GROUPS if models.sources.keys().isdisjoint(group)]
    if models.duration_head is None:
        found += [file for file in files if _is_head_for(file, models.version)][:1]
    return list(dict.fromkeys(file.path for file in filter(None, found)))


def _is_head_for(file: TensorFile, version: str) -> bool:
    """Whether a file is a duration head for models of ``version``."""
    return is_duration_head(file.official_names) and version in possible_versions(file.official_shapes)


def _open(path: Path) -> TensorFile | None:
    """A file, None if it cannot be read: nobody chose it."""
    try:
        return joined(TensorFile(path))
    except LTX2Error:
        return None


def _holder(files: Sequence[TensorFile], group: Sequence[str], models: Models) -> TensorFile | None:
    """The first file with most of ``group``; of several, one whose decoder is whole, that states the version, and of
    whose name nothing is that of a distilled model beside a dev model, or the other way round."""
    held = {file: _held(file, group, models.version) for file in files}
    best = max(held.values(), default=0)
    fitting = [file for file in files if held[file] == best > 0]

    def shortcomings(file: TensorFile) -> tuple[bool, ...]:
        said = says_distilled(file.path.name)
        is_other, is_unknown = said is (not models.distilled), said is None
        return _is_narrowed(file), versions_of(file) != (models.version,), is_other, is_unknown

    return min(fitting, key=shortcomings, default=None)


def _is_narrowed(file: TensorFile) -> bool:
    """Whether a file has a video decoder that was made smaller, which is taken where somebody chooses it."""
    return any(".conv_shortcut." in name for name in file.official_names if "decoder.up_blocks." in name)


def _held(file: TensorFile, group: Sequence[str], version: str) -> int:
    """How many of ``group`` a file holds that may be of ``version``; whole models of their own do not count."""
    try:
        held, versions = {name for name, _ in sources_in(file)}, versions_of(file)
    except LTX2Error:
        return 0
    return 0 if "transformer" in held or version not in versions else len(held & {*group})
