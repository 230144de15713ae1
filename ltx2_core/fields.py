"""How a setting looks to a person: declared once, beside the field, and read by every surface.

A setting is a field of a dataclass, wherever that dataclass lives::

    text_scale: Annotated[float, Slider(1, 10, 0.1), "How closely picture and sound follow the prompt."] = 1.0

Node widgets, flags of the command line, tables of help pages and API pages are all made from ``settings_of``.
"""

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields
from difflib import get_close_matches
from fractions import Fraction
from functools import cache
from numbers import Integral, Real
from pathlib import PureWindowsPath
from types import MappingProxyType
from typing import Annotated, Any, TypeVar, cast, get_args, get_origin, get_type_hints

from .errors import SettingError, short
from .errors.files import NOT_ON_WINDOWS, has_controls, is_refused, leads_out
from .errors.kinds import fits, other_kind

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class Instead:
    """Words that a surface offers in place of numbers that mean something else.

    Attributes:
        words: each such number, and what it means.
        usual: the number that is offered first to whoever chooses none of the words.
    """

    words: tuple[tuple[float, str], ...]
    usual: float


def zero(words: str, usual: float) -> Instead:
    """Return the words for 0, where it means something else; ``usual`` is the number that is offered first."""
    return Instead(((0, words),), usual)


@dataclass(frozen=True, kw_only=True)
class Look:
    """What all kinds of inputs have in common.

    ``shown`` is what a widget starts with, where that is not the field's own default (None, "as the recipe", cannot be
    drawn as a number). ``label`` is the name on the node, ``flag`` the one on the command line; both default to the
    field's name. ``advanced`` inputs are folded away. ``instead`` are the words for numbers that mean something else.
    """

    shown: Any = ...
    label: str = ""
    flag: str = ""
    advanced: bool = False
    instead: "Instead | None" = None


@dataclass(frozen=True)
class Number(Look):
    """A decimal number from ``least`` to ``most``; ``unit`` is written behind it in tables."""

    least: float
    most: float
    step: float = 0.01
    digits: float = 0.01  # to which it is rounded
    unit: str = ""


@dataclass(frozen=True)
class Slider(Number):
    """A number that is drawn as a slider."""


@dataclass(frozen=True)
class Whole(Look):
    """A whole number from ``least`` to ``most``."""

    least: int
    most: int
    step: int = 1
    unit: str = ""


@dataclass(frozen=True)
class Seed(Look):
    """A number that starts random numbers, of 64 bits as everywhere; a browser's own are exact up to 2^53 - 1."""

    least: int = 0
    most: int = 2**64 - 1


@dataclass(frozen=True)
class Choice(Look):
    """One of ``options``; a function gives those that are only known when the surface is drawn."""

    options: Sequence[str] | Callable[[], Sequence[str]]

    @property
    def words(self) -> list[str]:
        """The options as they are now."""
        return list(self.options() if callable(self.options) else self.options)


@dataclass(frozen=True)
class Words(Look):
    """Text: one line, or several; ``dynamic`` lets the host choose among words in braces.

    ``reads`` raises SettingError for text that can mean nothing, whatever it is used with; it is asked before a run.
    """

    lines: bool = False
    dynamic: bool = False
    reads: Callable[[str], object] | None = None


@dataclass(frozen=True)
class Switch(Look):
    """On or off."""


@dataclass(frozen=True)
class Setting:
    """A field as a surface needs it."""

    name: str
    look: Look
    text: str  # what changing it does, in whole sentences
    default: Any  # of the field
    type: Any  # without the annotation
    owner: type  # the dataclass of the field

    @property
    def shown(self) -> object:
        """What a widget starts with."""
        return self.default if self.look.shown is ... else self.look.shown

    @property
    def called(self) -> str:
        """Its name in a sentence, which the label of its widget comes before where that is another one."""
        return f"{self.look.label} ({self.name})" if self.look.label else self.name

    @property
    def flag(self) -> str:
        """Its name on the command line, without the dashes in front."""
        return (self.look.flag or self.name).replace("_", "-")

    def word_for(self, value: object) -> str:
        """Return the word of a command line that sets it to ``value``."""
        if isinstance(value, bool):
            return f"--{self.flag}" if value else f"--no-{self.flag}"
        return f"--{self.flag}={value}"

    def settled(self, value: object) -> object:
        """Return ``value`` as plain Python has it: other numbers as float or int, lists as tuples, nothing as it is.

        Raises SettingError if it is of another kind than the field.
        """
        kinds = {*get_args(self.type), self.type}
        if isinstance(value, list) and any(get_origin(kind) is tuple for kind in kinds):
            value = tuple(value)
        if value is not None and not fits(value, self.type):
            raise other_kind(self.called, value, self.type)
        if isinstance(value, Real) and type(value) not in (bool, int, float) and Fraction not in kinds:
            with suppress(OverflowError):  # of a fraction beyond all limits
                return float(value) if float in kinds else int(cast(Integral, value))
        return value

    def check(self, value: object) -> None:
        """Raise SettingError if ``value`` is of another kind than the field, or outside its limits; None never is."""
        look = self.look
        if value is None:
            return
        if isinstance(look, Choice):
            if not isinstance(value, str) or value not in look.words:
                hint = did_you_mean(str(value), look.words)
                raise SettingError(f"{self.called} is {value!r}; choose one of {', '.join(look.words)}.{hint}")
            return
        if isinstance(look, Number | Whole | Seed):
            check_number(self.called, value, look.least, look.most, getattr(look, "unit", ""))
        self.settled(value)


def check_number(name: str, value: object, least: float, most: float, unit: str = "") -> None:
    """Raise SettingError if ``value`` is not a number from ``least`` to ``most`` of a unit; NaN lies nowhere."""
    if not isinstance(value, Real):
        raise other_kind(name, value, float)
    if not least <= cast(float, value) <= most:
        found = short(cast(float, value))
        limits = f"{short(least)} and {short(most)} {unit}".strip()
        raise SettingError(f"{name} is {found}; it must be between {limits}.")


class Checked:
    """Settings that are of their kinds from the moment they are made; limits are held by whoever takes them."""

    def __post_init__(self) -> None:
        """Raise SettingError for a value of another kind than its field; numbers of NumPy become plain ones."""
        for name, setting in settings_of(type(self)).items():
            value = getattr(self, name)
            if value is None and not fits(None, setting.type):
                raise other_kind(setting.called, value, setting.type)
            if (plain := setting.settled(value)) is not value:
                object.__setattr__(self, name, plain)


FILLED_IN = (
    "The browser fills in %date:yyyy-MM-dd% and %Node.widget%, ComfyUI %year%, %month%, %day%, %hour%, %minute% and "
    "%second%."
)


@dataclass(frozen=True)
class OutputName(Checked):
    """How a file is called that a node of a graph writes."""

    filename_prefix: Annotated[
        str,
        Words(flag="output"),
        f"How the name begins, below ComfyUI's output folder; a number follows. {FILLED_IN}",
    ] = "LTX-2"

    def __post_init__(self) -> None:
        """Raise SettingError for a name that leads out of the folder."""
        super().__post_init__()
        check_output_name(self.filename_prefix)


LONGEST_NAME = 220  # bytes; almost every system has 255, and a number and an ending follow


def check_output_name(prefix: str, more: str = "") -> str:
    """Return a prefix of names and ``more`` with folders as every system writes them, and no slash at its end, before
    which the host sees no name to number; SettingError if it is no file below the output."""
    path = PureWindowsPath(prefix + more)
    if leads_out(path) or has_controls(prefix):
        raise SettingError(
            f"filename_prefix is {prefix!r}; write a name below ComfyUI's output folder, for example video/clip."
        )
    if (longest := max(len(part.encode(errors="replace")) for part in path.parts)) > LONGEST_NAME:
        raise SettingError(
            f"filename_prefix has a name of {longest:,} bytes; at most {LONGEST_NAME} fit before its number and "
            "ending: write a shorter one."
        )
    if refused := next(filter(is_refused, path.parts), None):
        raise SettingError(f"filename_prefix has {refused!r}, {NOT_ON_WINDOWS}")
    return path.as_posix()


def settings_of(owner: type) -> Mapping[str, Setting]:
    """Return every annotated field of the dataclass ``owner``, by name, in its order."""
    return _read_settings(owner)


@cache  # Python reads all hints of a class anew whenever they are asked for
def _read_settings(owner: type) -> Mapping[str, Setting]:
    hints, found = get_type_hints(owner, include_extras=True), {}
    for field in fields(owner):
        hint = hints[field.name]
        if get_origin(hint) is not Annotated:
            continue
        kind, *notes = get_args(hint)
        look = next((note for note in notes if isinstance(note, Look)), None)
        text = next((note for note in notes if isinstance(note, str)), "")
        if look is None:
            continue
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        found[field.name] = Setting(field.name, look, text, default, kind, owner)
    return MappingProxyType(found)


def settings_from(owner: type[Settings], values: dict[str, Any], **more: Any) -> Settings:
    """Return ``owner`` made of those ``values`` of widgets that it has fields for; they are taken out of ``values``."""
    taken = {name: values.pop(name) for name in settings_of(owner) if name in values}
    return owner(**taken, **more)


def check_together(owner: type, values: Mapping[str, Any]) -> None:
    """Raise SettingError if these ``values`` of settings of the dataclass ``owner`` cannot be together.

    What is of another kind than its field, as a list that is still a text, does not count. Where its other fields have
    no defaults it cannot be made of settings alone, and nothing is checked.
    """
    settings = settings_of(owner)
    fitting = {
        name: value
        for name, value in values.items()
        if value is None or name not in settings or fits(value, settings[name].type)
    }
    asked = (each for each in fields(owner) if each.init)
    if {each.name for each in asked if each.default is each.default_factory is MISSING} <= fitting.keys():
        owner(**fitting)


def check_settings(value: object) -> None:
    """Raise SettingError if a setting of the dataclass ``value`` lies outside its limits."""
    for name, setting in settings_of(type(value)).items():
        setting.check(getattr(value, name))


_NUMBER_SIGNS = str.maketrans(
    {"\u2212": "-", "\u2010": "-", "\u2012": "-", "\u2013": "-", "\u3001": ",", "\u061b": ";"}
)


def plain_numbers(text: str) -> str:
    """Return a list of numbers with ASCII digits, commas and signs, as whatever keyboard it was written."""
    return unicodedata.normalize("NFKC", text).translate(_NUMBER_SIGNS)


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """Suggest the nearest of ``options`` to a mistyped ``word``: " Did you mean ...?", or nothing."""
    nearest = get_close_matches(word, list(options), n=1, cutoff=0.6)
    return f" Did you mean {nearest[0]}?" if nearest else ""
