"""The settings of a clip as names and plain values: of a command line, a line of a batch, a file that was made."""

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import MediaError, SettingError
from ..errors.foreign import parse_json
from ..fields import did_you_mean
from ..media import read_tags
from ..media.notes import DIGEST_TAG, SETTINGS_TAG, VERSION
from ..pipeline.takes import load_take
from .flags import ONE, REPEATED, SEVERAL, SWITCH, YES, Command
from .syntax import switch

LATENTS = ".safetensors"  # how files of latents end

Value = str | bool | list[str]
Values = dict[str, Value]

# What is of one run or of one machine, and makes no other clip.
OF_A_RUN = frozenset(
    (
        *("output", "overwrite", "like", "latent", "save-latent", "metadata", "resume", "seeds"),
        *("device", "vram", "ram", "cache", "workers", "cluster"),
    )
)

MAKES_LONG = ("window", "segments", "timeline")  # flags that make a clip in windows, or may

# Flags of which one takes the place of the others.
_RIVALS = (
    ({"frames"}, {"seconds"}, {"as-prompt-needs"}),
    ({"size", "megapixels"}, {"width", "height"}),
    ({"sigmas"}, {"schedule", "steps"}),
    ({"sound-only"}, {"picture-only"}),
)


def values_of(words: Sequence[str], command: Command) -> Values:
    """Return what a command line that was parsed before says, by the names of its flags."""
    return _portable(vars(command.reader.parse_known_args(list(words))[0]), command)


def _portable(values: Values, command: Command) -> Values:
    """Return ``values`` with names of files that other systems read, too: Windows takes both separators."""
    if sys.platform != "win32":
        return values

    def plain(value: Value) -> Value:
        names = [str(each).replace("\\", "/") for each in (value if isinstance(value, list) else [value])]
        return names if isinstance(value, list) else names[0]

    return {name: plain(value) if name in command.files else value for name, value in values.items()}


def repeated_in(words: Sequence[str], command: Command) -> list[str]:
    """Return a sentence for each flag of a command line that counts once and is given more often."""
    flags = (word.partition("=")[0] for word in words)
    names = (flag[2:] for flag in flags if flag in command.flags and flag != "--help")
    given = Counter(name if name in command.forms else name.removeprefix("no-") for name in names)
    return [
        f"--{name} is given {count} times: the last one counts{', so write all behind it' if form == SEVERAL else ''}."
        for name, count in given.items()
        if count > 1 and (form := command.forms[name]) not in (REPEATED, YES)
    ]


def words_of(values: Mapping[str, Value], command: Command) -> list[str]:
    """Return the command line that says ``values``."""
    words: list[str] = []
    for name, value in values.items():
        form = command.forms[name]
        if form in (SWITCH, YES):
            if value:
                words.append(f"--{name}")
            elif form == SWITCH:
                words.append(f"--no-{name}")
        elif form == SEVERAL and isinstance(value, list):
            words += [f"--{name}", *value]
        else:
            words += [f"--{name}={each}" for each in (value if isinstance(value, list) else [value])]
    return words


def merged(usual: Mapping[str, Value], own: Mapping[str, Value]) -> Values:
    """Return ``usual`` with ``own``, which count before it, and take the place of what says the same otherwise."""
    replaced = {
        name
        for group in _RIVALS
        for one in group
        if one & own.keys()
        for other in group
        if other is not one
        for name in other
    }
    return {name: value for name, value in usual.items() if name not in replaced} | dict(own)


def checked_values(raw: Mapping[str, Any], command: Command) -> Values:
    """Return the values that JSON or CSV has by the names of flags or settings; null is left out.

    Raises:
        SettingError: an unknown name, which says which may be meant, or a value that no flag takes.
    """
    found: Values = {}
    for written, value in raw.items():
        name = written.strip().lower().removeprefix("--").replace("_", "-")
        name = name if name in command.forms else command.aliases.get(name, name)
        if name not in command.forms:
            hint = did_you_mean(name, [*command.forms, *command.aliases])
            raise SettingError(f"There is no setting {written[:50]!r}.{hint}")
        if name in found:
            raise SettingError(f"{name} is said twice: leave one of them out.")
        if value is not None:
            found[name] = _checked(name, value, command.forms[name])
    return _portable(found, command)


def _checked(name: str, value: Any, form: str) -> Value:
    if form in (SWITCH, YES):
        return switch("yes" if value is True else "no" if value is False else _word(name, value))
    items = [_word(name, each) for each in (value if isinstance(value, list) else [value])]
    if form == ONE:
        return ",".join(items)
    return items


_NO_NUMBERS = ("nan", "inf", "-inf")  # which JSON has, and the prompt would be taken for


def _word(name: str, value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    finite = isinstance(value, int | float) and not isinstance(value, bool) and str(value) not in _NO_NUMBERS
    if finite or (isinstance(value, str) and "\0" not in value):
        return str(value)
    raise SettingError(f"{name} is {json.dumps(value)[:50]}; write a text, a number, or a list of them.")


def lasting(values: Mapping[str, Value]) -> Values:
    """Return what of ``values`` makes the clip, in one order: not where it is written, and on which machine."""
    return {name: values[name] for name in sorted(values) if name not in OF_A_RUN}


@dataclass(frozen=True)
class Notes:
    """What the files of a clip say of themselves.

    Attributes:
        values: the settings, as they were written.
        model: what the clip was made with.
        digest: of settings and files (``digest_of``).
    """

    values: Values
    model: str
    digest: str

    def beside(self, tags: Mapping[str, str]) -> dict[str, str]:
        """Return ``tags`` with the settings; with --no-metadata only the digest, which tells nothing."""
        if self.values.get("metadata") is False:
            return {DIGEST_TAG: self.digest}
        usual = {} if "latent" in self.values else {"seed": "0"}  # what a latent does not say nobody knows
        settings = lasting({**usual, **self.values})
        note = {"settings": settings, "versions": {"ltx2-av": VERSION, "model": self.model}}
        return {**tags, DIGEST_TAG: self.digest, SETTINGS_TAG: json.dumps(note, ensure_ascii=False)}


def values_in(path: Path, command: Command) -> Values:
    """Return the settings that the file of a clip, or of a latent, says it was made with.

    Raises:
        MediaError: it says none.
        SettingError: it names a setting that there is not, as files of a later version may.
        LTX2Error: it cannot be read.
    """
    tags = load_take(path).tags if path.suffix.lower() == LATENTS else read_tags(path)
    if SETTINGS_TAG not in tags:
        raise MediaError(f"{path.name} does not say with which settings it was made: choose a file that was made here.")
    return settings_of_tags(tags, path.name, command)


def settings_of_tags(tags: Mapping[str, str], name: str, command: Command) -> Values:
    """Return the settings that the ``tags`` of the file ``name`` hold; none where they say nothing.

    Raises:
        MediaError, CheckpointError: they are damaged.
        SettingError: they name a setting that there is not.
    """
    if SETTINGS_TAG not in tags:
        return {}
    settings = parse_json(tags[SETTINGS_TAG], f"What {name} says of its settings").get("settings")
    if not isinstance(settings, dict):
        raise MediaError(f"What {name} says of its settings is damaged.")
    return lasting(checked_values(settings, command))
