"""How people write several settings in one word: PATH:0.8:video=1, 0:cat.png:0.9, video:0.8:text_scale=2.

A path may hold colons itself, as that of a file on a Windows drive does ("C:\\clips\\cat.png"): whatever stands behind
it is told from it by its form, a number or name=value.
"""

import codecs
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..conditioning import Timeline
from ..conditioning.characters import Character
from ..conditioning.conditions import ReferenceVideo, RetakeRange
from ..conditioning.pictures import GeneratedKeyframes, Picture
from ..conditioning.sources import VideoSource
from ..conditioning.tracks import MotionTracks
from ..errors import SettingError
from ..errors.files import check_names, named_path
from ..fields import Choice, Seed, Setting, Switch, Whole, check_number, did_you_mean, plain_numbers, settings_of
from ..geometry import exact_fps
from ..lora import Shrink, Strengths, strengths
from ..media import open_local
from ..sampling import Guidance, schedules
from ..sampling.windows import Segment

# What is meant as a number, whether or not it is one that can be taken.
_NUMBER = r"[-+]?(?:[\d.,]+%?(?:e[-+]?\d+)?|nan|inf(?:inity)?)"
_PICTURE = re.compile(
    rf"(?:(?P<frame>[-+]?\d[\d.]*s?):)?(?P<path>.+?)(?::(?P<strength>{_NUMBER}))?(?::(?P<compression>{_NUMBER}))?",
    re.IGNORECASE | re.DOTALL,
)
_LORA = re.compile(rf"(?P<path>.+?)(?::(?P<strength>{_NUMBER}))?", re.IGNORECASE | re.DOTALL)
_CHARACTER = re.compile(r"(?P<first>.+?\.\w+)(?::(?P<second>.+\.\w+))?", re.DOTALL)
_MORE = re.compile(rf".+:(?P<number>{_NUMBER})", re.IGNORECASE)
_OPTIONS = re.compile(r"(?P<head>.+?):(?P<options>\w[\w-]*=[^:]*)")
_GUIDANCE = re.compile(r"(?:(?P<stream>video|audio):)?(?:(?P<sigma>[\d.]+):)?(?P<options>\w[\w-]*=[^:]*)")
MOST_BLOCKS = 1000  # far more than any model has, whose own number is known only when it is open
MOST_TILES = 64
LONGEST_SCRIPT = 1_000_000  # bytes of a file of segments
_YES_NO = {"yes": True, "on": True, "true": True, "1": True, "no": False, "off": False, "false": False, "0": False}

Convert = Callable[[str], Any]


def file_name(word: str) -> str:
    """Read the name of a file or folder, with what may stand behind it; SettingError for none.

    A ~ before it is the home of a user, which shells leave as it is behind a flag and =, and in a text.
    """
    if not word.strip():
        raise SettingError(f"{word!r} is no name of a file; leave the flag out if there is none.")
    return os.path.expanduser(word)


def file_path(word: str) -> Path:
    """Read the path of a file or folder, which sentences can call by its name; SettingError for none."""
    return named_path(Path(file_name(word)))


def new_path(word: str) -> Path:
    """Read the path of what is written; SettingError for none, for what others call the standard output, and for what
    this system has no file of."""
    if word == "-" or word.startswith(("/dev/std", "/dev/fd/", "/proc/self/fd/")):
        raise SettingError(f"{word!r} means the standard output elsewhere, and here files are written: give a name.")
    check_names(path := Path(file_name(word)))
    return path


def some_of(words: Sequence[str]) -> Convert:
    """Return what reads some of ``words``, joined by commas, or "none"; its SettingError says which is meant."""

    def read(text: str) -> tuple[str, ...]:
        found = () if text == "none" else tuple(text.split(","))
        if (unknown := next((word for word in found if word not in words), None)) is not None:
            hint = did_you_mean(unknown, words)
            raise SettingError(f"{unknown!r} is not one of {', '.join(words)}, or none.{hint}")
        return found

    return read


def whole_number(word: str) -> int:
    """Read a whole number. SettingError for anything else."""
    try:
        return int(re.sub(r"\.0*$", "", word.strip()))  # tables write 7.0 beside empty cells
    except ValueError:
        raise SettingError(f"{word!r} is not a whole number.") from None


def number(word: str) -> float:
    """Read a number. SettingError for anything else."""
    try:
        return float(word)
    except ValueError:
        raise SettingError(f"{word!r} is not a number.") from None


def frame_rate(word: str) -> str:
    """Return frames per second as they are written, such as 24 or 30000/1001. Raises SettingError for what is none."""
    exact_fps(word)
    return word


def switch(word: str) -> bool:
    """Read yes or no. SettingError for anything else."""
    if word.lower() not in _YES_NO:
        raise SettingError(f"{word!r} is neither yes nor no.")
    return _YES_NO[word.lower()]


def blocks(word: str) -> tuple[int, ...]:
    """Read numbers of blocks and ranges of them, joined by +, such as 0-23+40. SettingError for what cannot be."""
    numbers: list[int] = []
    for part in filter(None, re.split(r"[+,\s]", word)):
        first, _, last = part.partition("-")
        span = whole_number(first), whole_number(last or first)
        if not 0 <= span[0] <= span[1] < MOST_BLOCKS:
            raise SettingError(f"{part!r} are no blocks: ranges go up, and no model has {MOST_BLOCKS} blocks.")
        numbers.extend(range(span[0], span[1] + 1))
    return tuple(numbers)


def blocks_or_auto(word: str) -> tuple[int, ...] | None:
    """Read numbers of blocks as ``blocks`` does; None for "auto"."""
    return None if word.strip() == "auto" else blocks(word)


def sigmas(word: str) -> tuple[float, ...]:
    """Read noise levels such as "0.9, 0.7, 0.4, 0"; SettingError where no sampler can follow them."""
    return tuple(schedules.custom(word))


def split_options(text: str, converters: dict[str, Convert]) -> tuple[str, dict[str, Any]]:
    """Split "HEAD:name=value,name=value" into its head and its values.

    Args:
        text: what was written; without options all of it is the head.
        converters: for each name that is possible, what reads its value.

    Raises:
        SettingError: an unknown name, or a value that cannot be read.
    """
    found = _OPTIONS.fullmatch(text)
    return (text, {}) if found is None else (found["head"], read_options(found["options"], converters, text))


def read_options(options: str, converters: dict[str, Convert], text: str) -> dict[str, Any]:
    """Read "name=value,name=value"; ``text`` is quoted in the SettingError for what cannot be read."""
    values = {}
    for option in filter(None, options.split(",")):
        name, equals, value = option.partition("=")
        name = name.strip().replace("-", "_")
        if name not in converters or not equals:
            hint = did_you_mean(name, converters)
            raise SettingError(f"{text!r} names {name!r}; possible are {', '.join(converters)}.{hint}")
        if name in values:
            raise SettingError(f"{text!r} says {name} twice: leave one of them out.")
        values[name] = _read_value(name, value.strip(), converters, text)
    return values


def _read_value(name: str, word: str, converters: dict[str, Convert], text: str) -> Any:
    try:
        return converters[name](word)
    except ValueError as error:
        raise SettingError(f"{text!r}: {name} cannot be read: {error}") from None


def parse_picture(text: str) -> tuple[str, dict[str, Any]]:
    """Read FRAME:PATH, FRAME:PATH:STRENGTH, FRAME:PATH:STRENGTH:CRF, each with :strength=..,compression=..,append=..

    Returns the file and the settings of ``Picture``; without FRAME: none is said, which is the first one.

    Raises:
        SettingError: it is written in another way.
    """
    settings = settings_of(Picture)
    converters: dict[str, Convert] = {name: within(settings[name]) for name in ("strength", "compression", "append")}
    head, options = split_options(text, converters)
    found = _PICTURE.fullmatch(head)
    if found is None:
        raise SettingError(
            f"--image is {text!r}; write PATH, FRAME:PATH or FRAME:PATH:STRENGTH, for example 0:cat.png:0.9."
        )
    _check_path(found["path"], text)
    converters["frame"] = within(settings["frame"])
    written = {name: found[name] for name in ("frame", "strength", "compression") if found[name] is not None}
    values = {name: _read_value(name, word, converters, text) for name, word in written.items()}
    return os.path.expanduser(found["path"]), values | options


class LoraFile(NamedTuple):
    """A LoRA as it was written: its file, how strongly it acts, and how small it becomes."""

    path: Path
    strengths: Strengths
    shrink: Shrink = Shrink()


def parse_lora(text: str, layers: int) -> LoraFile:
    """Read PATH, PATH:STRENGTH and PATH:STRENGTH:video=1,audio=0.5,blocks=0-23+40,schedule=1.0@1+0.5@0.3,energy=0.9.

    Args:
        text: what was written. The points of a schedule are MOMENT@STRENGTH, joined by + or ;
        layers: how many blocks the model has.

    Raises:
        SettingError: it is written in another way, or names blocks that the model does not have.
    """
    streams = ("video", "audio", "audio_to_video", "video_to_audio", "text")
    settings = settings_of(Strengths)
    converters: dict[str, Convert] = {name: within(settings[name]) for name in streams}
    converters |= {
        "blocks": lambda word: strengths.parse_blocks(word.replace("+", ","), layers),
        "schedule": lambda word: strengths.parse_schedule(re.sub("[;+]", ",", word).replace("@", ":")),
        "schedule_over": str,
        "energy": within(settings_of(Shrink)["energy"]),
    }
    head, options = split_options(text, converters)
    found = _LORA.fullmatch(head)
    assert found is not None, text
    _check_path(found["path"], text)
    converters["strength"] = within(settings["strength"])
    strength = _read_value("strength", found["strength"] or "1", converters, text)
    shrink = Shrink(options.pop("energy", 1.0))
    return LoraFile(Path(found["path"]), Strengths(strength, **options), shrink)


def _check_path(path: str, text: str) -> None:
    """Raise SettingError if ``path``, in front of all numbers that were expected in ``text``, ends with another."""
    if more := _MORE.fullmatch(path):
        raise SettingError(f"{text!r} has more numbers than are read behind a file: {more['number']} is one too many.")


def parse_file(text: str, *names: str) -> tuple[Path, dict[str, Any]]:
    """Read PATH or PATH:name=value,name=value with some of ``names``: of a reference, a source, tracks or a LoRA."""
    owners = (ReferenceVideo, VideoSource, MotionTracks, Shrink)
    settings = {name: setting for owner in owners for name, setting in settings_of(owner).items()}
    path, options = split_options(text, {name: within(settings[name]) for name in names})
    return Path(path), options


def parse_character(text: str) -> tuple[list[Path], dict[str, Any]]:
    """Read PICTURE, VOICE or PICTURE:VOICE, each with :way=..,strength=..,start=..,seconds=.. behind it.

    Returns the files, one or two, and the settings. Raises SettingError if it is written in another way.
    """
    settings = {**settings_of(Character), **settings_of(VideoSource)}
    head, options = split_options(text, {name: within(setting) for name, setting in settings.items()})
    found = _CHARACTER.fullmatch(head)
    if found is None:
        raise SettingError(
            f"--character is {text!r}; write PICTURE, VOICE or PICTURE:VOICE, for example anna.png:anna.wav."
        )
    return [file_path(file) for file in found.groups() if file is not None], options


@dataclass(frozen=True)
class GuidanceRow:
    """A change of the guidance of some streams, up to a noise level or, without ``sigma``, at all of them."""

    streams: tuple[str, ...]
    sigma: float | None
    changes: dict[str, Any]


def parse_guidance(text: str) -> GuidanceRow:
    """Read [video:|audio:][SIGMA:]NAME=VALUE,NAME=VALUE, such as audio:0.8:text_scale=4,stg_blocks=14+28.

    Raises:
        SettingError: it is written in another way, or names what guidance does not have.
    """
    found = _GUIDANCE.fullmatch(text)
    if found is None:
        raise SettingError(
            f"{text!r} is no guidance; write SIGMA:NAME=VALUE,..., for example 0.8:text_scale=2 or "
            "audio:0.5:text_scale=4,stg_scale=0."
        )
    converters = {name: within(setting) for name, setting in settings_of(Guidance).items()}
    changes = read_options(found["options"], converters, text)
    streams = ("video", "audio") if found["stream"] is None else (found["stream"],)
    sigma = None if found["sigma"] is None else number(found["sigma"])
    if sigma is not None:
        check_number(f"the sigma of {text!r}", sigma, 0, 1)
    return GuidanceRow(streams, sigma, changes)


def converter_of(setting: Setting) -> Convert:
    """Return what reads the value of a setting from a word."""
    if isinstance(setting.look, Switch):
        return switch
    if isinstance(setting.default, tuple):
        return blocks
    if isinstance(setting.look, Choice):
        return str
    return whole_number if isinstance(setting.look, Whole | Seed) else number


def within(setting: Setting) -> Convert:
    """Return what reads the value of a setting and holds it to its limits; both raise SettingError."""
    convert = converter_of(setting)

    def read(word: str) -> Any:
        value = convert(word)
        setting.check(value)
        return value

    return read


def parse_range(text: str) -> RetakeRange:
    """Read START:END in seconds.

    Raises:
        SettingError: it is written in another way, or does not end after its beginning.
    """
    start, _, end = text.partition(":")
    try:
        found = float(start), float(end)
    except ValueError:
        raise SettingError(f"{text!r} is no range of time; write START:END in seconds, for example 1.5:3.") from None
    for name, value in zip(("start", "end"), found):
        settings_of(RetakeRange)[name].check(value)
    return RetakeRange(*found)


def parse_keyframes(text: str) -> GeneratedKeyframes:
    """Read N or FRAME,FRAME,... of --generated-keyframes; one frame alone is written with a comma behind it."""
    if "," in text:
        return GeneratedKeyframes(frames=text.strip(" ,"))
    settings_of(GeneratedKeyframes)["count"].check(count := whole_number(text))
    return GeneratedKeyframes(count)


def parse_tiles(text: str) -> tuple[int, int, int] | None:
    """Read how many tiles there are in time, down and across, such as 2x2x3; None for "auto".

    Raises SettingError for anything else.
    """
    if text == "auto":
        return None
    counts = [int(word) if word.isdecimal() and len(word) < 9 else 0 for word in text.lower().split("x")]
    if len(counts) != 3 or not 1 <= min(counts) <= max(counts) <= MOST_TILES:
        raise SettingError(
            f"{text!r} are no tiles; write auto, or how many in time, down and across, 1 to {MOST_TILES} of each, such "
            "as 1x2x2."
        )
    return counts[0], counts[1], counts[2]


def read_segments(path: Path) -> list[Segment]:
    """Read prompts and when they begin: in each line seconds, then the prompt; lines with # at their start are skipped.

    The time may also be written as minutes:seconds or hours:minutes:seconds. The text is UTF-8 or UTF-16, else the
    code page of Western Windows (cp1252).

    Raises:
        SettingError: a line that begins with anything else, no segment at all, or a file that is no text.
        MissingFileError: there is no such file.
    """
    found = []
    for count, line in enumerate(read_text(path, "write seconds and a prompt in each line").splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        time, *prompt = line.split(maxsplit=1)
        try:
            found.append(Segment(_seconds(time), "".join(prompt).strip()))
        except ValueError:
            raise SettingError(
                f"Line {count} of {path.name} is {line!r}; write seconds or minutes:seconds, then the prompt, such as "
                "2.5 a dog barks or 1:02 a dog barks."
            ) from None
        try:
            settings_of(Segment)["start"].check(found[-1].start)
        except SettingError as error:
            raise SettingError(f"Line {count} of {path.name}: {error}") from None
    if not found:
        raise SettingError(f"There is no segment in {path.name}; write seconds and a prompt in each line.")
    return found


def read_timeline(path: Path) -> Timeline:
    """Read a timeline; MissingFileError without such a file, SettingError for what is none."""
    return Timeline.parse(read_text(path, "write JSON as LTX-2 Timeline does"))


def read_tracks(path: Path, **size: int) -> MotionTracks:
    """Read a file of motion tracks; arguments and errors as MotionTracks, and it may be missing."""
    return MotionTracks(read_text(path, "write JSON with fewer points"), **size)


def read_text(path: Path, hint: str, longest: int = LONGEST_SCRIPT) -> str:
    """Read what people wrote, as editors and shells keep it: in UTF-8 or UTF-16, else in cp1252 (Western Windows).

    Args:
        path: of the file, which begins with ASCII if it is UTF-16 without a mark of that.
        hint: what to do, if it has more bytes than ``longest``.
        longest: that are read.

    Raises:
        LTX2Error: it is too long, no text, or cannot be read.
    """
    with open_local(path) as file:
        content = file.read(longest + 1)
    if len(content) > longest:
        raise SettingError(f"{path.name} has more than {longest:,} bytes; {hint}.")
    if "\0" in (text := _decoded(content)):
        raise SettingError(f"{path.name} is no text: choose another file, or save it as text in UTF-8.")
    return text


def _decoded(content: bytes) -> str:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", "replace")
    if b"\0" in content[:2]:
        return content.decode("utf-16-be" if content[0] == 0 else "utf-16-le", "replace")
    content = content.removeprefix(codecs.BOM_UTF8)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")


def _seconds(time: str) -> float:
    """Read 62.5, 62,5, 62.5s, 1:02.5 or 0:01:02.5 in digits of any width; ValueError for anything else."""
    first, *smaller = (float(word) for word in plain_numbers(time).replace(",", ".").rstrip(":s").split(":"))
    if len(smaller) > 2 or not all(0 <= part < 60 for part in smaller):
        raise ValueError(time)
    for part in smaller:
        first = first * 60 + part
    return first
