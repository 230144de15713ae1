"""The lines of a batch as clips to make: read from JSON lines, a table or a list of prompts, and checked."""

import argparse
import csv
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from io import StringIO
from itertools import takewhile
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

from ..errors import LTX2Error, SettingError, counted
from ..errors.files import leads_out
from ..errors.foreign import json_fault, kind_of, unique_names
from ..media import check_target, read_tags
from ..media.notes import DIGEST_TAG
from ..settings import names_of, read_prompts
from .clips import batch_size_of, numbered
from .files import check_not_read, digest_of
from .flags import Command
from .parser import build_parser, parse
from .syntax import read_text
from .values import MAKES_LONG, Values, checked_values, lasting, merged, words_of

LARGEST = 2**26  # bytes of a file of lines
LONGEST = 2**20  # characters of a line or a cell
_NO_NAMES = re.compile(r"[\s,;]*(#.*|sep=.\s*)?$", re.IGNORECASE)  # lines before the names; Excel writes sep=;
WINDOWS, PROMPTS = ".windows", ".prompts"  # folders in the output: windows of long clips, encoded prompts

Raw = Mapping[str, Any] | LTX2Error


class Line(NamedTuple):
    """What a line asks for: its number, its settings or the error that it is, and how its clip is called otherwise."""

    number: int
    raw: Raw
    name: str


@dataclass(frozen=True)
class Job:
    """A clip, or several at once, to make.

    Attributes:
        number: of its line.
        values: its settings, with those of the command line.
        targets: its files.
        digest: of its settings, and of what was in the files that these name when the batch began.
    """

    number: int
    values: Values
    targets: tuple[Path, ...]
    digest: str

    def options(self) -> argparse.Namespace:
        """Return the settings as those of ``generate``. Raises SettingError for what cannot be."""
        return parse(["generate", *words_of(self.values, generate_command())])

    @property
    def files(self) -> tuple[str, ...]:
        """The names of its files, by which it is known among all others."""
        return tuple(map(str, self.targets))

    @property
    def name(self) -> str:
        """How it is called among the clips of its batch."""
        return self.targets[0].name

    @property
    def is_done(self) -> bool:
        """Whether all files are there and say that they were made with these settings and files."""
        return all(_digest_in(target) == self.digest for target in self.targets)

    @property
    def is_taken(self) -> bool:
        """Whether a file is there that was made otherwise."""
        return any(target.exists() and _digest_in(target) != self.digest for target in self.targets)


def _digest_in(target: Path) -> str | None:
    try:
        return read_tags(target).get(DIGEST_TAG)
    except (LTX2Error, OSError):  # of a file that is something else, or not there
        return None


@cache
def generate_command() -> Command:
    """Return the command whose flags are the settings of a line."""
    return build_parser()[1]["generate"]


def read_lines(path: Path) -> Iterator[Line]:
    """Yield each line that asks for a clip.

    Args:
        path: of JSON lines, of a table (.csv, .tsv) with names in its first line, or of prompts (.txt).

    Raises:
        SettingError: the file is something else, or there is no line in it.
        LTX2Error: it cannot be read.
    """
    text = read_text(path, "make several files of it", LARGEST)
    if path.suffix.lower() == ".txt":
        yield from _prompts(text, path.name)
        return
    readers = {".jsonl": _json_lines, ".csv": _table, ".tsv": _table}
    if path.suffix.lower() not in readers:
        raise SettingError(
            f"{path.name} is neither .jsonl, .csv, .tsv nor .txt: one clip is written in each line of such a file."
        )
    lines = list(readers[path.suffix.lower()](text, path.name))
    if not lines:
        raise SettingError(f'There is no clip in {path.name}: write lines such as {{"prompt": "a red ball"}}.')
    for number, raw in lines:
        yield Line(number, raw, f"line_{number:04}")


def lines_of_prompts(prompts: list[str]) -> list[Line]:
    """Return a line for each prompt, after which its clip is called."""
    return [
        Line(number, {"prompt": each}, name) for number, (each, name) in enumerate(zip(prompts, names_of(prompts)), 1)
    ]


def _prompts(text: str, name: str) -> list[Line]:
    if not (prompts := read_prompts(text)):
        raise SettingError(f"There is no prompt in {name}: write one in each line.")
    return lines_of_prompts(prompts)


def _json_lines(text: str, name: str) -> Iterator[tuple[int, Raw]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, _parsed(line)


def _parsed(line: str) -> Raw:
    if len(line) > LONGEST:
        return SettingError(f"it has more than {LONGEST:,} characters.")
    try:
        found = json.loads(line, object_pairs_hook=unique_names)
    except (ValueError, RecursionError) as error:
        return SettingError(f'it is no JSON ({json_fault(error)}); write a line such as {{"prompt": "a red ball"}}.')
    if not isinstance(found, dict):
        return SettingError(f"it is {kind_of(found)}, where an object of settings is expected.")
    return found


def _table(text: str, name: str) -> Iterator[tuple[int, Raw]]:
    lines = [*StringIO(text, newline="")]
    before = len([*takewhile(_NO_NAMES.match, lines)])
    rows = csv.reader(lines[before:], delimiter=_delimiter("".join(lines[before : before + 1])), strict=True)
    try:
        names = _without_empty(next(rows, []))
        _check_names(names, name)
        for row in map(_without_empty, rows):
            if row and not row[0].lstrip().startswith("#"):
                yield before + rows.line_num, _row(names, row)
    except csv.Error as error:
        raise SettingError(
            f"{name} is no table with commas between its cells: {error} in line {before + rows.line_num}. A cell that "
            'begins with " ends with one, and "" stands for each inside.'
        ) from None


def _check_names(names: list[str], file: str) -> None:
    try:
        checked_values(dict.fromkeys(names), generate_command())
    except SettingError as error:
        raise SettingError(f"{error} The first line of {file} has names of settings, such as prompt,seed.") from None


def _delimiter(names: str) -> str:
    """What stands between the names: spreadsheets write ; where numbers have commas, and some a tab."""
    return next((sign for sign in ",;\t" if sign in names), ",")


def _without_empty(row: list[str]) -> list[str]:
    """A row without the empty cells at its end, which spreadsheets write for empty columns."""
    filled = [place for place, cell in enumerate(row, 1) if cell.strip()]
    return row[: max(filled, default=0)]


def _row(names: list[str], row: list[str]) -> Raw:
    if len(row) > len(names):
        return SettingError(f"it has {counted(len(row), 'cell')}, and the first line {counted(len(names), 'name')}.")
    found: dict[str, Any] = {}
    for name, cell in zip(names, row):
        if cell.strip():
            found[name] = [*found[name], cell] if name in found else [cell]
    return {name: cells[0] if len(cells) == 1 else cells for name, cells in found.items()}


def job_of(line: Line, usual: Values, folder: Path, seed: int | None) -> Job:
    """Return what a line asks for.

    Args:
        line: with its settings, or its error.
        usual: the settings of the command line, which count where the line says nothing.
        folder: where its files are written.
        seed: of several with which it is made; None for its own.

    Raises:
        LTX2Error: what is wrong with it.
    """
    if isinstance(line.raw, LTX2Error):
        raise line.raw
    own = checked_values(line.raw, generate_command())
    values = merged(lasting(usual) | {name: usual[name] for name in _KEPT if name in usual}, own)
    if of_one := {"latent", "save-latent"} & values.keys():
        raise SettingError(f"{min(of_one)} is for one clip: leave it out here, and use generate.")
    if seed is not None:
        if "seed" in own:
            raise SettingError("it has a seed of its own: leave that out, or --seeds.")
        values["seed"] = str(seed)
    values["output"] = str(_inside(folder, _named(line, values, seed)))
    if any(name in values for name in MAKES_LONG):
        values.setdefault("resume", str(folder / WINDOWS))
    options = parse(["generate", *words_of(values, generate_command())])
    targets = numbered(options.output, batch_size_of(options))
    for target in targets:
        if not target.is_dir():
            check_target(target)
    check_not_read(targets, options.values, generate_command())
    return Job(line.number, options.values, tuple(targets), digest_of(options.values, generate_command()))


# Of the command line, although they make no other clip.
_KEPT = ("metadata", "device", "vram", "ram", "resume")


def _named(line: Line, values: Values, seed: int | None) -> str:
    """How a clip is called: as the line says, else after its number or prompt; behind it a seed of several."""
    name = str(values.get("output") or f"{line.name}{'.wav' if values.get('sound-only') else '.mp4'}")
    path = PureWindowsPath(name)
    return name if seed is None or not path.name else path.with_name(f"{path.stem}_seed{seed}{path.suffix}").as_posix()


def _inside(folder: Path, name: str) -> Path:
    path = PureWindowsPath(name)
    if leads_out(path) or path.parts[0].startswith("."):
        raise SettingError(f"output is {name[:50]!r}; write a name inside of {folder.name}, such as ball.mp4.")
    return folder.joinpath(*path.parts)
