"""What a file is, in words."""

from collections.abc import Callable, Iterable, Sequence
from os.path import isdir  # which is no error for a path that cannot be
from pathlib import Path

from ..checkpoint.contents import DURATION_HEAD, LTX_PART, describe_contents
from ..checkpoint.duration_head import is_duration_head
from ..checkpoint.files import TensorFile
from ..checkpoint.folders import SUBFOLDERS, open_file, open_files
from ..checkpoint.loading import shorten_list
from ..checkpoint.models import AUDIO_VAE, Models, sources_in, versions_of
from ..checkpoint.stored import StoredNetwork
from ..checkpoint.text_encoder import TextEncoderFiles, find_kind, open_text_encoder
from ..checkpoint.upscaler import UpscalerFile, keys_of, open_upscaler
from ..checkpoint.versions import VERSIONS
from ..errors import CheckpointError, LTX2Error, MissingFileError
from ..errors.files import as_path, visible_files
from ..lora.parse import Lora, read_lora
from ..lora.report import compare_with_release
from ..media.notes import describe_tags, describe_texts
from ..pipeline.takes import KIND, load_take

CLIPS = (
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".wav", ".flac", ".mp3", ".m4a", ".ogg", ".opus",
    ".png", ".exr", ".jpg", ".jpeg", ".webp", ".avif", ".gif",
)  # fmt: skip


def matching(files: Sequence[Path]) -> list[Path]:
    """Return ``files``, with all that a pattern such as ``*.mp4`` stands for in its place: Windows does not do it."""
    return [path for each in files for path in _matches(each) or [each]]


def _matches(path: Path) -> list[Path]:
    is_pattern = not {*"*?["}.isdisjoint(path.name) and not path.exists()
    return sorted(path.parent.glob(path.name)) if is_pattern else []


def for_each(files: Iterable[Path], tell: Callable[[Path], None]) -> None:
    """Tell of each file; one of which nothing can be told does not keep the others from being told of.

    Raises:
        LTX2Error: at the end, with the sentences of all that failed.
    """
    failed: list[LTX2Error] = []
    for path in files:
        try:
            tell(path)
        except LTX2Error as error:
            failed.append(error)
    if len(failed) == 1:
        raise failed[0]
    if failed:
        raise LTX2Error(" ".join(map(str, failed)))


def inspect(path: str | Path) -> str:
    """Describe in a few lines an LTX-2 checkpoint, a LoRA or a text encoder: version, components, what it still needs.

    Of a clip, a latent, a sound, a picture or a folder of frames: what it says of how it was made. Raises
    MissingFileError or CheckpointError for anything else, MediaError for a damaged clip.
    """
    path = as_path(path, "The file")
    if path.suffix.lower() in CLIPS or (isdir(path) and visible_files(path, ".png", ".exr")):
        return describe_tags(path)
    if isdir(path):
        return _folder(path)
    file = open_file(path)
    if KIND in file.metadata:
        take = load_take(path)
        return f"{describe_texts(take.tags, path.name)}\n  {'latent':<20} {take.describe()}"
    if lora := read_lora(file):
        return _lora(lora)
    if keys_of(file.entries):
        return _upscaler(open_upscaler(path))
    try:
        return _part(file)
    except CheckpointError as error:
        try:
            encoder = open_text_encoder(path)
        except CheckpointError:
            raise error from None
    return _text_encoder(encoder)


def _folder(path: Path) -> str:
    """A text encoder, or the parts of a model as diffusers has them; of a folder around anything else, that."""
    if not any((path / name).is_dir() for name in SUBFOLDERS):
        try:
            encoder = open_text_encoder(path)
            if not any(dict(sources_in(file)) for file in open_files(path)):
                return _text_encoder(encoder)
        except CheckpointError as error:
            files = visible_files(path, ".safetensors")
            if len(files) == 1 and find_kind(TensorFile(files[0]).entries) is None:
                return inspect(files[0])
            what = describe_contents(key for file in open_files(path) for key in file.entries)
            if what not in (LTX_PART, DURATION_HEAD):
                raise error from None
    return "\n".join(_part(file) for file in open_files(path))


def _part(file: TensorFile) -> str:
    """A file that belongs to a model."""
    if is_duration_head(file.official_names):
        return f"{file.path.name}: duration head of LTX-2.5, {shown_size([file.nbytes])}"
    parts = dict(sources_in(file))
    if parts and parts.keys() <= {*AUDIO_VAE} and not versions_of(file):
        title = f"{file.path.name}: audio VAE, the same in every LTX-2, {shown_size([file.nbytes])}"
        return "\n".join([title, *(f"  {name:<16} {_summary(source)}" for name, source in parts.items())])
    return _checkpoint(Models([file], None if find_kind(file.entries) is None else file.path))


def _upscaler(upscaler: UpscalerFile) -> str:
    file = upscaler.file
    source = "" if file.config else " (told by its tensors, the header has no config)"
    size = shown_size([file.nbytes])
    return f"{file.path.name}: latent upscaler of LTX-2, enlarges {upscaler.config.enlarges}{source}, {size}"


def _checkpoint(models: Models) -> str:
    file = models.files[0]
    stated = file.metadata.get("model_version")
    source = f"model_version {stated}" if stated else "told by its tensors, the header names none"
    lines = [f"{file.path.name}: LTX-{models.version} ({source}), {shown_size([file.nbytes])}"]
    held: dict[str, StoredNetwork] = {**models.sources}
    if models.text_encoder is not None:
        held["text_encoder"] = open_text_encoder(models.text_encoder)
    lines += [f"  {name:<16} {_summary(held[name])}" for name in models.components if name in held]
    if unknown := models.unknown(file):
        lines.append(f"  not known here   {shorten_list(sorted(unknown))}")
    lines += [f"  cannot be read   {problem}" for problem in problems_of(models)]
    if "config" not in file.metadata:
        lines.append("  The header has no config; the numbers of the release are used.")
    encoder = VERSIONS[models.version].text_encoder
    needed = [encoder if name == "text_encoder" else name for name in models.missing]
    lines.append(f"  needs: {', '.join(needed) or 'nothing else'}")
    return "\n".join(lines)


def problems_of(models: Models) -> list[str]:
    """List, from headers alone, what would keep the components of ``models`` from being built."""
    problems = dict[str, None]()
    for file in models.files:
        try:
            file.check_unknown(models.unknown(file))
        except CheckpointError as error:
            return [str(error)]  # what stands in place of weights is unknown, and nothing else is worth saying
    for name in models.sources:
        try:
            models.network(name)
        except CheckpointError as error:
            problems[str(error)] = None
    return list(problems)


def _lora(lora: Lora) -> str:
    """Its report against the release that it was made for, or fits best, and how well it fits the others."""
    reports = [compare_with_release(lora, version) for version in VERSIONS]
    likely = max(reports, key=lambda report: (report.version in report.made_for, report.fitting))
    others = [f"  fits LTX-{each.version}     {each.fitting:,}" for each in reports if each is not likely]
    return "\n".join([str(likely), *others])


def _text_encoder(files: TextEncoderFiles) -> str:
    config = files.config
    try:
        files.tokenizer()
        tokenizer = "with tokenizer"
    except MissingFileError:
        tokenizer = "WITHOUT tokenizer: put tokenizer.json beside it"
    size = f"{config.layers} layers of width {config.width}"
    lines = [
        f"{files.path.name}: {files.kind.title} text encoder, {size}, {tokenizer}",
        f"  text_encoder     {_summary(files)}",
    ]
    try:
        files.outline()
    except CheckpointError as error:
        lines.append(f"  cannot be read   {error}")
    return "\n".join([*lines, f"  needs: a checkpoint; {files.kind.needed}"])


def _summary(stored: StoredNetwork) -> str:
    """Parameters, size and formats."""
    return f"{stored.parameters:>16,} parameters, {shown_size([stored.nbytes])} ({', '.join(stored.formats)})"


def shown_size(sizes: Iterable[int]) -> str:
    """Return the sum of sizes in bytes, in MB or GB."""
    total = sum(sizes)
    return f"{total / 1e9:.2f} GB" if total >= 1e9 else f"{total / 1e6:.1f} MB"
