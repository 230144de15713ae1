"""The settings of a clip as names and plain values: of a command line, a line of a batch, a file that was made."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import MediaError, SettingError
from ..errors.foreign import parse_json
from ..fields import did_you_mean
from ..media import read_tags
from ..media.notes import VERSION
from .flags import ONE, REPEATED, SEVERAL, SWITCH, YES, Command
from .syntax import switch

Value = str | bool | list[str]
Values = dict[str, Value]

SETTINGS_TAG, DIGEST_TAG = "ltx2", "ltx2_digest"

# What is of one run or of one machine, and makes no other clip.
OF_A_RUN = frozenset(
    ("output", "overwrite", "like", "metadata", "resume", "device", "vram", "ram", "cache", "workers", "cluster")
)

# Flags of which one takes the place of the others.
_RIVALS = (
    ({"frames"}, {"seconds"}, {"as-prompt-needs"}),
    ({"size", "megapixels"}, {"width", "height"}),
    ({"sigmas"}, {"schedule", "steps"}),
    ({"sound-only"}, {"picture-only"}),
)


def values_of(words: Sequence[str], command: Command) -> Values:
    """Return what a command line that was parsed before says, by the names of its flags."""
    found: Values = {}
    place = 0
    while place < len(words):
        flag, equals, value = words[place].partition("=")
        place += 1
        if not _is_flag(flag, command):
            continue
        name, form = _form(flag[2:], command)
        if form in (SWITCH, YES):
            found[name] = name == flag[2:]
            continue
        end = place
        while not equals and end < len(words) and not _is_flag(words[end].partition("=")[0], command):
            end += 1
            if form != SEVERAL:
                break
        taken = [value] if equals else list(words[place:end])
        place = place if equals else end
        found[name] = _joined(found.get(name), taken, form)
    return found


def _joined(before: Value | None, taken: list[str], form: str) -> Value:
    if form == REPEATED:
        return [*before, *taken] if isinstance(before, list) else taken
    return taken if form == SEVERAL else taken[0]


def _is_flag(word: str, command: Command) -> bool:
    return word in command.flags and word != "--help"


def _form(name: str, command: Command) -> tuple[str, str]:
    """The name of a flag without a no-, and how it is written."""
    if name not in command.forms and name.startswith("no-"):
        name = name[3:]
    return name, command.forms[name]


def words_of(values: Mapping[str, Value], command: Command) -> list[str]:
    """Return the command line that says ``values``."""
    words: list[str] = []
    for name, value in values.items():
        form = command.forms[name]
        if form in (SWITCH, YES):
            words += [f"--{name}"] if value else [f"--no-{name}"] if form == SWITCH else []
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
        name = written.strip().removeprefix("--").replace("_", "-")
        name = name if name in command.forms else command.aliases.get(name, name)
        if name not in command.forms:
            hint = did_you_mean(name, [*command.forms, *command.aliases])
            raise SettingError(f"There is no setting {written[:50]!r}.{hint}")
        if name in found:
            raise SettingError(f"{name} is said twice: leave one of them out.")
        if value is not None:
            found[name] = _checked(name, value, command.forms[name])
    return found


def _checked(name: str, value: Any, form: str) -> Value:
    if form in (SWITCH, YES):
        return switch(_word(name, value))
    items = [_word(name, each) for each in (value if isinstance(value, list) else [value])]
    if form == ONE:
        return ",".join(items)
    return items


def _word(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, str | int | float):
        return str(value)
    raise SettingError(f"{name} is {json.dumps(value)[:50]}; write a text, a number, true or false, or a list of them.")


def lasting(values: Mapping[str, Value]) -> Values:
    """Return what of ``values`` makes the clip, in one order: not where it is written, and on which machine."""
    return {name: values[name] for name in sorted(values) if name not in OF_A_RUN}


def digest_of(values: Mapping[str, Value]) -> str:
    """Return a text that differs where the settings of two clips do."""
    return hashlib.sha256(json.dumps(lasting(values)).encode()).hexdigest()


def notes_of(values: Mapping[str, Value], model: str) -> dict[str, str]:
    """Return the tags by which a file says its settings; with --no-metadata only a digest, which tells nothing.

    Args:
        values: of the command line.
        model: what it was made with.
    """
    digest = {DIGEST_TAG: digest_of(values)}
    if values.get("metadata") is False:
        return digest
    settings = {"seed": "0"} | lasting(values)
    note = {"settings": settings, "versions": {"ltx2-av": VERSION, "model": model}}
    return digest | {SETTINGS_TAG: json.dumps(note, ensure_ascii=False)}


def values_in(path: Path, command: Command) -> Values:
    """Return the settings that the file of a clip says it was made with.

    Raises:
        MediaError: it says none.
        SettingError: it names a setting that there is not, as files of a later version may.
        LTX2Error: it cannot be read.
    """
    text = read_tags(path).get(SETTINGS_TAG)
    if text is None:
        raise MediaError(f"{path.name} does not say with which settings it was made: choose a file that was made here.")
    settings = parse_json(text, f"What {path.name} says of its settings").get("settings")
    if not isinstance(settings, dict):
        raise MediaError(f"What {path.name} says of its settings is damaged.")
    return lasting(checked_values(settings, command))


def described_tags(path: Path) -> str:
    """Return in a few lines what a clip says of itself, for people. Raises as ``read_tags``."""
    tags = read_tags(path)
    if not tags:
        return f"{path.name}: it does not say how it was made"
    lines = [f"{path.name}: it says of itself"]
    note = parse_json(tags.pop(SETTINGS_TAG), f"What {path.name} says of its settings") if SETTINGS_TAG in tags else {}
    for part in note.values():
        if isinstance(part, dict):
            lines += [f"  {name:<20} {_shown(value)}" for name, value in part.items()]
    left_out = re.compile(rf"{DIGEST_TAG}|xml:.*|major_brand|minor_version|compatible_brands", re.IGNORECASE)
    for name, text in tags.items():
        if not left_out.fullmatch(name):
            lines.append(f"  {name:<20} {text.replace(chr(10), chr(10) + ' ' * 23)}")
    return "\n".join(lines)


def _shown(value: object) -> str:
    return "  ".join(map(str, value)) if isinstance(value, list) else str(value)
