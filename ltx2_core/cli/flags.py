"""How flags are made from settings: their names, limits, units, defaults and texts, in groups of a command."""

import argparse
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, get_args

from ..errors import SettingError, short
from ..fields import Choice, Number, Seed, Setting, Switch, Whole, did_you_mean, settings_of
from . import syntax


class Parser(argparse.ArgumentParser):
    """A parser whose errors are SettingErrors of one sentence, and that knows no abbreviations."""

    def __init__(self, **options: Any):
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        """Raise SettingError instead of leaving the program."""
        message = re.sub(r"^argument (--[\w-]+)(/--[\w-]+)*: ", r"\1: ", message)
        # A setting by its flag, which says what its name, and the label of its widget, do.
        message = re.sub(r"^(--[\w-]+): (?:[\w -]+ \(\w+\)|\w+) (is .*; it must be between)", r"\1 \2", message)
        message = re.sub(r"^argument \w+: ", "", message)  # a word by its place, which has no name on the command line
        message = re.sub(r"^unrecognized arguments: (.*)", r"\1: a text of several words is written in quotes", message)
        message = re.sub(
            r"^the following arguments are required: (.*)", r"\1 is missing: --help says what it is", message
        )
        message = re.sub(r"^(--[\w-]+): (expected .*)", r"\1: \2; one that begins with - is written \1=-...", message)
        raise SettingError(message if message.endswith((".", "?")) else f"{message}.")


SWITCH, YES, ONE, REPEATED, SEVERAL = "switch", "yes", "one", "repeated", "several"


@dataclass
class Command:
    """A command, and the flags that it knows.

    ``forms`` says of each flag how it is written: as a switch (with a --no-), alone, before one word, repeatedly before
    one word, or before several; ``aliases`` are names of settings that their flags do not have, and ``settings`` the
    flags that were made from settings, by class and field. ``files`` are flags whose words name files or folders;
    ``reader`` reads a command line as it is written, by the names of its flags.
    """

    parser: argparse.ArgumentParser
    flags: list[str] = field(default_factory=lambda: ["--help"])
    forms: dict[str, str] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    settings: dict[type, dict[str, str]] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)
    reader: argparse.ArgumentParser = field(default_factory=lambda: Parser(add_help=False))

    def group(self, title: str, description: str | None = None) -> "Group":
        """Begin a group of flags with a title of its own on the help page."""
        return Group(self, self.parser.add_argument_group(title, description))


class Group:
    """Flags under one title of the help page."""

    def __init__(self, command: Command, group: argparse._ArgumentGroup):
        self._command, self._group, self._reader = command, group, command.reader.add_argument_group()

    def add(self, flag: str, **options: Any) -> None:
        """Add a flag.

        Args:
            flag: its name, with dashes.
            options: as for ``argparse.ArgumentParser.add_argument``; ``type`` may raise SettingError.
        """
        metavar = str(options.get("metavar"))
        if re.search("FILE|FOLDER|PICTURE", metavar):
            self._command.files.add(flag[2:])
        if metavar.startswith(("FILE", "FOLDER")):
            options.setdefault("type", syntax.file_name)
        if callable(options.get("type")):
            options["type"] = in_words(options["type"])
        if "help" in options and options["help"] is not argparse.SUPPRESS:
            options["help"] = options["help"].replace("%", "%%")
        self._group.add_argument(flag, **options)
        written = {name: options[name] for name in ("action", "nargs") if name in options}
        self._reader.add_argument(flag, dest=flag[2:], default=argparse.SUPPRESS, **written)
        self._command.forms[flag[2:]] = form_of(options)
        negative = [f"--no-{flag[2:]}"] if options.get("action") is argparse.BooleanOptionalAction else []
        self._command.flags += [flag, *negative]

    def add_settings(
        self,
        owner: type,
        *,
        prefix: str = "",
        scope: str = "",
        only: Iterable[str] | None = None,
        named: dict[str, str] | None = None,
        default: str = "",
        hidden: bool = False,
    ) -> None:
        """Add a flag for each setting of a class; ``given`` collects what a person wrote.

        Args:
            owner: a dataclass with settings.
            prefix: is put before the names of the flags, but not before those that the class or ``named`` chooses.
            scope: tells two uses of one class from each other.
            only: names of fields; all by default.
            named: names of flags for some fields.
            default: words for the help page in place of the default of the field.
            hidden: leave these flags out of the help page.
        """
        for name, setting in settings_of(owner).items():
            if only is not None and name not in only:
                continue
            chosen = (named or {}).get(name)
            flag = flag_of(setting, prefix, chosen)
            if chosen or setting.look.flag:
                self._command.aliases.setdefault(name.replace("_", "-"), flag[2:])
            if not scope:
                self._command.settings.setdefault(owner, {})[name] = flag
            self.add(
                flag,
                dest=destination(owner, name, scope),
                help=argparse.SUPPRESS if hidden else described(setting, default),
                **_options_for(setting),
            )


def form_of(options: dict[str, Any]) -> str:
    """Return how a flag is written that ``add_argument`` gets these options for."""
    actions = {argparse.BooleanOptionalAction: SWITCH, "store_true": YES, "append": REPEATED}
    usual = SEVERAL if options.get("nargs") in ("+", "*") else ONE
    return actions.get(options.get("action"), usual)  # type: ignore[call-overload, no-any-return]


def flag_of(setting: Setting, prefix: str = "", name: str | None = None) -> str:
    """Return the flag of a setting: ``name`` or what the setting says, else its own name behind ``prefix``."""
    own = setting.flag if setting.look.flag else f"{prefix}{setting.name}"
    return "--" + (name or own).replace("_", "-")


def destination(owner: type, name: str, scope: str = "") -> str:
    """Return under which name the parser keeps a setting."""
    return f"{scope}{owner.__name__}.{name}"


def given(options: argparse.Namespace, owner: type, scope: str = "") -> dict[str, Any]:
    """Return the fields of ``owner`` that were set on the command line."""
    found = {name: _joined(vars(options).get(destination(owner, name, scope))) for name in settings_of(owner)}
    return {name: value for name, value in found.items() if value is not None}


def _joined(value: Any) -> Any:
    """Lists that were written one after the other as one; None where one of them leaves it to the recipe."""
    if not isinstance(value, list):
        return value
    return None if None in value else [each for part in value for each in part]


def described(setting: Setting, default: str = "") -> str:
    """Return the help of a setting: its text, its limits with their unit, and what holds where it is not set."""
    look, notes = setting.look, []
    if isinstance(look, Number | Whole):
        notes.append(f"{short(look.least)} to {short(look.most)}{f' {look.unit}' if look.unit else ''}")
    if default:
        notes.append(f"default: {default}")
    elif setting.default is None:
        notes.append("default: as the recipe" if "Not set" not in setting.text else "")
    elif isinstance(setting.default, bool):
        notes.append(f"default: {'on' if setting.default else 'off'}")
    elif setting.default not in ("", ()):
        notes.append(f"default: {setting.default:g}" if isinstance(setting.default, float) else f"{_word(setting)}")
    limits = "; ".join(filter(None, notes))
    return f"{setting.text} ({limits})" if limits else setting.text


def _word(setting: Setting) -> str:
    return f"default: {_dashed(setting.default) if isinstance(setting.look, Choice) else setting.default}"


def one_of(words: Sequence[str]) -> Callable[[str], str]:
    """Return what reads one of ``words``, with blanks or dashes; its SettingError says which is meant."""

    def read(word: str) -> str:
        for each in words:
            if word in (each, _dashed(each)):
                return each
        hint = did_you_mean(word, map(_dashed, words))
        if len(words) == 1:
            raise SettingError(f"{word!r} stands where the word {words[0]} is expected.{hint}")
        if pixels := re.fullmatch(r"(\d+)[x\u00d7*,:](\d+)", word):
            hint = hint or " A size in pixels is --width {} --height {}.".format(*pixels.groups())
        raise SettingError(f"{word!r} is not one of {', '.join(map(_dashed, words))}.{hint}")

    return read


def _dashed(word: str) -> str:
    return word.replace(" ", "-")


def in_words(convert: Callable[[str], Any]) -> Callable[[str], Any]:
    """``convert`` with its errors as argparse shows them."""

    def read(word: str) -> Any:
        try:
            return convert(word)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def _options_for(setting: Setting) -> dict[str, Any]:
    """How argparse reads a setting."""
    look = setting.look
    if isinstance(look, Switch):
        return {"action": argparse.BooleanOptionalAction, "default": None}
    if isinstance(look, Choice):
        return {"type": one_of(look.words), "metavar": f"{{{','.join(map(_dashed, look.words))}}}"}
    if isinstance(look, Whole | Seed | Number):
        return {"type": syntax.within(setting), "metavar": _metavar(setting)}
    if setting.default == () or tuple[int, ...] in (setting.type, *get_args(setting.type)):
        return {"type": syntax.blocks_or_auto, "nargs": "*", "metavar": "BLOCK"}
    if tuple[float, ...] in (setting.type, *get_args(setting.type)):
        return {"type": syntax.sigmas, "metavar": "SIGMAS"}
    return {"metavar": setting.name.rpartition("_")[2].upper()}


def _metavar(setting: Setting) -> str:
    unit = getattr(setting.look, "unit", "")
    return {"frames per second": "FPS"}.get(unit, unit.upper() or "N")
