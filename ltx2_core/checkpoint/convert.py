"""A transformer or a text encoder written anew in another format, some rows of a matrix at a time (see README.md,
"Converting")."""

import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import CheckpointError, SettingError
from ..quantization import KEPT_WORDS, WRITTEN, StoredWeight, find_format, kept_names, split_companion, stored_weights
from .entries import MARKER
from .files import TensorFile
from .folders import open_files
from .models import Models, is_encoder_alone
from .targets import GGUFTarget, SafetensorsTarget, Stored
from .text_encoder import TextEncoderFiles, find_kind
from .write import Piece, check_new, write_tensors

BF16 = "bf16"
CONVERTED = (BF16, *WRITTEN)  # the words by which a format is chosen

_NUMBERS = 2**21  # of a matrix that are in memory together, in float32
_TILE = 128  # rows, of which every piece has a multiple

_TINY = torch.finfo(torch.float32).tiny

_log = logging.getLogger(__name__)


class Layer(NamedTuple):
    """What became of one matrix.

    ``error`` is the norm of what its numbers changed by over their own norm; ``worst_row`` the same of the row that
    changed most, which is how far that output of the layer is off for inputs of which none stands out.
    """

    name: str
    format: str
    shape: tuple[int, ...]
    nbytes: int
    error: float
    worst_row: float


Tell = Callable[[Layer], object]


@dataclass(frozen=True)
class _Source:
    """What is converted: its files as one, the tensors of the network by our names, and the encoder if it is one."""

    file: TensorFile
    names: Mapping[str, str]
    encoder: TextEncoderFiles | None
    distilled: bool

    def weight(self, key: str) -> StoredWeight:
        """A tensor with what stands beside it, as it is stored."""
        return stored_weights({each: self.file.get(each) for each in self.file.with_companions(key)})[key]


@dataclass(frozen=True)
class Conversion:
    """What a conversion did: how far every matrix is off that was rounded, how many tensors were changed, and bytes
    before and after."""

    layers: Sequence[Layer]
    changed: int
    nbytes: tuple[int, int]


def convert(
    source: str | Path,
    target: str | Path,
    format: str,
    keep: Collection[str] = KEPT_WORDS,
    *,
    overwrite: bool = False,
    device: torch.device | None = None,
    report: Tell = lambda layer: None,
) -> Conversion:
    """Write a transformer or a text encoder in another format; all else that its file holds stays as it is.

    Args:
        source: a file, or the folder of one network.
        target: the new file: .gguf for q8_0 and q4_k, else .safetensors.
        format: of CONVERTED.
        keep: of KEPT_WORDS, what stays as it is stored; "bf16" keeps nothing.
        overwrite: whether a file may be there already.
        device: where numbers are rounded; None is the CPU.
        report: is told about each matrix when it is written.

    Raises:
        SettingError: a format or a word of ``keep`` that is not known, or a name of another kind of file.
        CheckpointError: the source is neither, or is quantised already.
        TargetExistsError: the new file is there already.
        UnreadableFileError: the disk has no room for it, or refuses.
    """
    source, target = Path(source), Path(target)
    _check_words(format, keep, target)
    check_new(target, source, overwrite)
    opened = _open(source)
    _check_name(opened, target)
    gguf = format in WRITTEN and WRITTEN[format].file_end != SafetensorsTarget.end
    kind = GGUFTarget(opened.file, opened.encoder, format) if gguf else SafetensorsTarget(opened.file, opened.encoder)
    stored = _plan_tensors(opened, _words(opened, format, keep), kind)
    layers: list[Layer] = []

    def tell(layer: Layer) -> None:
        layers.append(layer)
        report(layer)

    def pieces() -> Iterator[Piece]:
        yield from kind.added.items()
        for each in stored:
            for made in _made(opened, each, kind, device, tell):
                yield from kind.pieces(replace(each, tensors=made))

    layout = kind.layout(stored)
    with torch.no_grad():
        write_tensors(target, layout, pieces())
    return Conversion(layers, sum(bool(each.word) for each in stored), (opened.file.nbytes, layout.size))


def _check_words(format: str, keep: Collection[str], target: Path) -> None:
    if format not in CONVERTED:
        raise SettingError(f"There is no format {format} to convert to; choose {', '.join(CONVERTED)}.")
    if unknown := [word for word in keep if word not in KEPT_WORDS]:
        raise SettingError(f"{unknown[0]} is nothing that could be kept; choose among {', '.join(KEPT_WORDS)}.")
    end = WRITTEN[format].file_end if format in WRITTEN else SafetensorsTarget.end
    if target.suffix.lower() != end:
        raise SettingError(f"{target} is to be in {format}, which {end} files hold; give it a name ending so.")


def _open(path: Path) -> _Source:
    files = open_files(path)
    if len(files) > 1:
        raise SettingError(
            f"{path} is a model in several folders; give the one to convert, such as {files[0].path.name}."
        )
    file = files[0]
    if is_encoder_alone(file) and (found := find_kind(file.entries)) is not None:
        encoder = TextEncoderFiles(path, (file,), *found)
        encoder.outline()  # which refuses what its header tells
        return _Source(file, encoder.names, encoder, False)
    models = Models([file])
    models.network("transformer")  # which refuses what its config does not fit
    return _Source(file, models.source("transformer").names, None, models.distilled)


def _words(source: _Source, format: str, keep: Collection[str]) -> dict[str, str]:
    """By their names in the source, the tensors that change, and the format of each.

    Raises:
        CheckpointError: one is quantised already, or there is nothing to do.
    """
    file = source.file
    quantised = [key for key in file.entries if not split_companion(key)[1] and file.format(key) is not None]
    if quantised and format != BF16:
        raise CheckpointError(
            f"{quantised[0]} in {file.path.name} is stored in {file.formats(quantised[:1])[0]} already, and every "
            "rounding adds its error: convert the bf16 file, or first this one with --format bf16."
        )
    words = _to_plain(source, quantised) if format == BF16 else _to_format(source, format, keep)
    if not words:
        raise CheckpointError(f"{file.path.name} has nothing that could be written in {format}.")
    return words


def _to_plain(source: _Source, quantised: Sequence[str]) -> dict[str, str]:
    """What is quantised, and the network's matrices of other numbers."""
    wide = torch.float16, torch.float32, torch.float64
    plain = [key for _, key in _matrices(source) if source.file.dtype(key) in wide]
    return dict.fromkeys((*quantised, *plain), BF16)


def _to_format(source: _Source, format: str, keep: Collection[str]) -> dict[str, str]:
    """The network's matrices that are not kept, and have rows of whole blocks."""
    is_kept = kept_names(source.names, keep)
    words = {key: _word(format, source.file.shape(key)[1]) for ours, key in _matrices(source) if not is_kept(ours)}
    return {key: word for key, word in words.items() if word}


def _matrices(source: _Source) -> list[tuple[str, str]]:
    """Our names of the network's matrices, and those in the source."""
    names = source.names.items()
    return [(ours, key) for ours, key in names if ours.endswith(".weight") and len(source.file.shape(key)) == 2]


def _word(format: str, columns: int) -> str:
    """The format of a matrix: that which is asked for, or another one of its family if rows are no whole blocks."""
    writers = WRITTEN[format].writers
    return next((word for word in (format, *writers) if columns % writers[word].columns == 0), "")


def _plan_tensors(source: _Source, words: Mapping[str, str], kind: SafetensorsTarget | GGUFTarget) -> list[Stored]:
    """What the new file holds of the source; what stood beside a weight that becomes plain is gone."""
    stored = []

    @cache  # a model has thousands of matrices of few shapes
    def written(word: str, shape: tuple[int, ...]) -> dict[str, Tensor]:
        return WRITTEN[word].writers[word].encode(torch.empty(shape, device="meta"), torch.empty((), device="meta"))

    for key in source.file.entries:
        weight, suffix = split_companion(key)
        if not kind.holds(key) or (suffix and weight in words):
            continue
        word, shape = words.get(key, ""), source.file.shape(key)
        if word in WRITTEN:
            made = written(word, shape)
        elif word == BF16:
            made = {"weight": torch.empty(shape, dtype=torch.bfloat16, device="meta")}
        else:
            made = {"weight": kind.plain(key, source.file.outline(key))}
        stored.append(Stored(key, word, shape, made))
    return stored


def _write_rows(weight: Tensor, stored: Stored, device: torch.device | None, tell: Tell) -> Iterator[dict[str, Tensor]]:
    """A matrix in its format, some rows at a time; then its report."""
    format = WRITTEN[stored.word]
    rows = max(1, _NUMBERS // max(1, stored.shape[1]) // _TILE) * _TILE
    pieces = weight.split(rows)
    largest = _largest(pieces, device)
    if not math.isfinite(largest):
        raise CheckpointError(f"{stored.key} holds NaN or infinite numbers; download the file again.")
    of_all = torch.tensor(largest, device=device)
    errors = norms = worst = 0.0
    for number, piece in enumerate(pieces):
        plain = piece.to(device).float()
        made = format.writers[stored.word].encode(plain, of_all)
        error, norm = (each.square().sum(dim=1).double() for each in (_read(stored, made, plain) - plain, plain))
        errors, norms = errors + error.sum().item(), norms + norm.sum().item()
        worst = max(worst, (error / norm.clamp(min=_TINY)).max().item())
        yield {suffix: each.cpu() for suffix, each in made.items() if number == 0 or each.ndim == 2}
    if not math.isfinite(errors):
        raise CheckpointError(
            f"{stored.key} holds numbers up to {largest:.1e}, which {stored.word} cannot; download the file again."
        )
    nbytes = sum(tensor.nbytes for tensor in stored.tensors.values())
    whole = math.sqrt(errors / max(norms, _TINY))
    tell(Layer(stored.key, stored.word, stored.shape, nbytes, whole, math.sqrt(worst)))


def _largest(pieces: Sequence[Tensor], device: torch.device | None) -> float:
    """The largest absolute number of a matrix, NaN if there is one.

    As numbers of Python: a small tensor for each piece, kept until the end, would lie in the memory of a piece that was
    freed, and the next one would need new memory.
    """
    sizes = [torch.linalg.vector_norm(piece.to(device).float(), torch.inf).item() for piece in pieces]
    return math.nan if any(map(math.isnan, sizes)) else max(sizes)


def _read(stored: Stored, made: Mapping[str, Tensor], plain: Tensor) -> Tensor:
    """The numbers that rows stand for as they are written."""
    beside = {suffix: each for suffix, each in made.items() if suffix not in ("weight", MARKER)}
    weight = StoredWeight(stored.key, made["weight"], beside, made[MARKER])
    return WRITTEN[stored.word].dequantize(weight, tuple(plain.shape), torch.float32)


def _made(
    source: _Source, stored: Stored, kind: SafetensorsTarget | GGUFTarget, device: torch.device | None, tell: Tell
) -> Iterator[dict[str, Tensor]]:
    """A tensor as the new file holds it, one piece after the other."""
    if stored.word in WRITTEN:
        yield from _write_rows(source.file.get(stored.key), stored, device, tell)
    elif stored.word == BF16:
        yield {"weight": _expand(source, stored)}
    else:
        yield {"weight": kind.plain(stored.key, source.file.get(stored.key))}


def _expand(source: _Source, stored: Stored) -> Tensor:
    """A tensor in bfloat16, whatever it was stored in."""
    weight = source.weight(stored.key)
    format = find_format(weight)
    if format is None:
        return weight.weight.bfloat16()
    return format.dequantize(weight, stored.shape, torch.bfloat16)


def _check_name(source: _Source, target: Path) -> None:
    """Say so if a distilled model got a name by which it is taken for a dev model."""
    if source.distilled and "distilled" not in target.name.lower():
        _log.warning("%s is a distilled model and its name does not say so; put the word distilled into it.", target)
