"""Several clips of one graph or command: each prompt with each seed, and names that tell which is which."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Annotated, NamedTuple

from ..errors import SettingError, counted
from ..fields import FILLED_IN, Checked, Seed, Words, check_number, check_output_name

MOST = 1000  # prompts times seeds
LONGEST_NAME = 40  # letters of a prompt in a name
_SEEDS = re.compile(r"(\d{1,20})(?:-(\d{1,20}))?")


class Variation(NamedTuple):
    """One of several clips."""

    prompt: str
    seed: int
    name: str


@dataclass(frozen=True)
class Variations(Checked):
    """Prompts and seeds, each of which goes with each."""

    prompts: Annotated[
        str,
        Words(lines=True, dynamic=True, shown="a red ball bounces twice on the left", flag="prompt"),
        "A prompt in each line. Empty lines, and those that begin with #, are left out.",
    ] = ""
    seeds: Annotated[
        str,
        Words(),
        "Numbers and ranges, such as 7, 8, 20-23: each prompt is made once with each of them.",
    ] = "0"
    filename_prefix: Annotated[
        str,
        Words(flag="output"),
        "How each name begins, below ComfyUI's output folder; the words of the prompt and the seed follow. "
        f"{FILLED_IN}",
    ] = "LTX-2_"

    def __post_init__(self) -> None:
        """Raise SettingError for what no clips are made of."""
        super().__post_init__()
        self.all()

    def all(self) -> list[Variation]:
        """Return every clip, all seeds of the first prompt first.

        Raises:
            SettingError: no prompt, more than 1000 clips, or something that is no seed.
        """
        prompts, seeds = read_prompts(self.prompts), read_seeds(self.seeds)
        if not prompts:
            raise SettingError("There is no prompt: write one in each line.")
        if len(prompts) * len(seeds) > MOST:
            raise SettingError(
                f"{counted(len(prompts), 'prompt')} with {counted(len(seeds), 'seed')} are "
                f"{len(prompts) * len(seeds):,} clips, and at most {MOST:,} are made at once: take fewer."
            )
        prefix = check_output_name(self.filename_prefix, "x")[:-1]
        named = [*zip(prompts, names_of(prompts))]
        return [Variation(prompt, seed, f"{prefix}{name}_seed{seed}") for prompt, name in named for seed in seeds]


def read_prompts(text: str) -> list[str]:
    """Return the prompts in ``text``, one a line, without empty lines and those that begin with #."""
    lines = map(str.strip, text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def read_seeds(text: str) -> list[int]:
    """Return the seeds in a text such as "7, 8, 20-23", each once. Raises SettingError for anything else."""
    found: dict[int, None] = {}
    for word in re.split(r"[,;\s]+", text.strip(", \t\r\n")):
        for seed in _span(word, text):
            found[seed] = None
            if len(found) > MOST:
                raise SettingError(f"seeds are {text[:50]!r}, more than {MOST:,}: take fewer.")
    return [*found]


def _span(word: str, text: str) -> range:
    """The seeds of a number or a range, as far as they may be too many."""
    read = _SEEDS.fullmatch(word)
    if read is None:
        raise SettingError(f"seeds are {text[:50]!r}; write whole numbers and ranges, such as 7, 8, 20-23.")
    first, last = int(read[1]), int(read[2] or read[1])
    for seed in (first, last):
        check_number("seed", seed, Seed.least, Seed.most)
    if last < first:
        raise SettingError(f"seeds are {text[:50]!r}; write ranges that go up, such as {last}-{first}.")
    return range(first, last + 1)


def names_of(prompts: list[str]) -> list[str]:
    """Return for each prompt its first words as the name of a file, with a number behind those that begin alike."""
    return [*_told_apart(map(_name_of, prompts))]


def _name_of(prompt: str) -> str:
    words, name = re.findall(r"\w+", prompt.lower()), ""
    for word in words:
        longer = f"{name}_{word}" if name else word[:LONGEST_NAME]
        if len(longer) > LONGEST_NAME:
            break
        name = longer
    return name or "clip"


def _told_apart(names: Iterable[str]) -> Iterator[str]:
    seen = set[str]()
    for name in names:
        tries = (name if number == 1 else f"{name}_{number}" for number in count(1))
        seen.add(free := next(each for each in tries if each not in seen))
        yield free
