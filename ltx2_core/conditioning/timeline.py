"""A clip as one strip of time: prompts, pictures, a sound, references, and what is made anew, each at its second.

A timeline is JSON, as the widget of the node writes it and anybody may::

    {"seconds": 5, "fps": 24,
     "prompts": [{"text": "a red ball bounces", "at": 0}, {"text": "it turns blue", "at": 2.5}],
     "pictures": [{"file": "ball.png", "at": 0, "strength": 1}],
     "sounds": [{"file": "song.wav", "start": 30}],
     "references": [{"file": "pose.mp4", "strength": 1}],
     "characters": [{"file": "anna.png", "voice": "anna.wav"}],
     "retakes": [{"start": 1, "end": 2, "streams": "sound"}]}

Everything but what an entry is about may be left out.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar

from ..errors import SettingError, counted
from ..errors.foreign import json_fault, unique_names
from ..fields import Checked, Choice, Number, Setting, Words, did_you_mean, settings_of
from ..geometry import nearest_frames
from ..media import probe, read_picture
from .characters import AUTO, Character, Way
from .conditions import RETAKEN_STREAMS, Condition, KeepAudio, ReferenceAudio, ReferenceVideo, RetakeRange, RetakeRanges
from .pictures import Picture
from .sources import AudioSource, SoundPart, VideoSource

LONGEST = 1_000_000  # letters of a timeline

Second = Annotated[float, Number(0, 3600, 0.01, digits=0.001, unit="s"), "From this second of the clip on."]
Share = Annotated[float, Number(0, 1, 0.01, digits=0), "How firmly the clip keeps to it."]

Entry = TypeVar("Entry")


@dataclass(frozen=True)
class PromptAt(Checked):
    """What is seen and heard from a second on."""

    text: str
    at: Second = 0.0


@dataclass(frozen=True)
class PictureAt(Checked):
    """A picture that the clip shows at a second."""

    file: str
    at: Second = 0.0
    strength: Share = 1.0


@dataclass(frozen=True)
class Sound(Checked):
    """The sound of the clip, taken from its second ``start`` on."""

    file: str
    start: Annotated[float, Number(0, 86400, 0.01, digits=0.001, unit="s"), "The sound is taken from here on."] = 0.0
    noise: Share = 0.0


@dataclass(frozen=True)
class Reference(Checked):
    """A video that an IC-LoRA follows, or a voice that a LoRA takes over."""

    file: str
    strength: Share = 1.0


@dataclass(frozen=True)
class CharacterAt(Checked):
    """Somebody who is seen or heard from the beginning to the end, whatever prompt counts."""

    file: str
    voice: str = ""
    way: Way = AUTO
    strength: Share = 1.0


@dataclass(frozen=True)
class RetakeAt(Checked):
    """A range that is made anew."""

    start: Second
    end: Second
    streams: Annotated[str, Choice(tuple(RETAKEN_STREAMS)), "What is made anew; the other one stays."] = (
        "picture and sound"
    )


@dataclass(frozen=True)
class Timeline(Checked):
    """A clip as one strip of time; ``parse`` makes one of JSON."""

    seconds: Annotated[float, Number(0.1, 3600, 0.1, unit="s"), "How long the clip is."] = 5.0
    fps: Annotated[float, Number(1, 240, 0.001, 0.001, unit="frames per second"), "Its frame rate."] = 24.0
    prompts: tuple[PromptAt, ...] = ()
    pictures: tuple[PictureAt, ...] = ()
    sounds: tuple[Sound, ...] = ()
    references: tuple[Reference, ...] = ()
    characters: tuple[CharacterAt, ...] = ()
    retakes: tuple[RetakeAt, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Timeline":
        """Read a timeline.

        Args:
            text: JSON, in the form that the head of this file shows.

        Raises:
            SettingError: what is not of this form; it says which entry, and what would be right.
        """
        if len(text) > LONGEST:
            raise SettingError(f"This timeline has {len(text):,} letters; at most {LONGEST:,} are read.")
        try:
            content = json.loads(text, object_pairs_hook=unique_names)
        except (ValueError, RecursionError) as error:
            raise SettingError(
                f"The timeline is no JSON ({json_fault(error)}): write it as the page of the node shows."
            ) from None
        own = {name: content[name] for name in content if name not in LANES} if isinstance(content, dict) else content
        read = _entry(cls, own, "The timeline")
        lanes = {name: _lane(name, content.get(name, [])) for name in LANES}
        return cls(read.seconds, read.fps, **lanes)

    def __post_init__(self) -> None:
        """Raise SettingError for more than one sound, and for what begins after the end of the clip."""
        super().__post_init__()
        if len(self.sounds) > 1:
            raise SettingError(f"The timeline has {len(self.sounds)} sounds; a clip keeps one: leave the others out.")
        for lane in (self.prompts, self.pictures):
            for each in lane:
                if each.at > self.seconds:
                    raise SettingError(
                        f"An entry of the timeline stands at {each.at:g} s, but the clip ends at {self.seconds:g} s: "
                        "move it, or make the clip longer."
                    )

    @property
    def frames(self) -> int:
        """The length in frames, 8 k + 1."""
        return nearest_frames(self.seconds * self.fps)

    def describe(self) -> str:
        """Say how long the clip is, and what lies on the strip."""
        counts = {name: len(getattr(self, name)) for name in LANES}
        lanes = (counted(count, name.removesuffix("s")) for name, count in counts.items() if count)
        return (
            f"{counted(self.frames, 'frame')}, {self.frames / self.fps:.2f} s at {self.fps:g} fps: {', '.join(lanes)}"
        )

    @property
    def script(self) -> tuple[PromptAt, ...]:
        """The prompts in the order of time; the first one counts from the beginning.

        Raises SettingError without any, and for two that begin at one moment.
        """
        if not self.prompts:
            raise SettingError("The timeline has no prompt: add one that says what is seen and heard.")
        first, *others = sorted(self.prompts, key=lambda each: each.at)
        script = (PromptAt(first.text, 0.0), *others)
        for before, each in zip(script, script[1:]):
            if each.at == before.at:
                raise SettingError(f"Two prompts of the timeline begin at {each.at:g} s: move one of them.")
        return script

    @property
    def files(self) -> list[str]:
        """The names of all files that it shows."""
        lanes = (self.pictures, self.sounds, self.references, self.characters)
        return [each.file for lane in lanes for each in lane] + [each.voice for each in self.characters if each.voice]

    def conditions(self, find: Callable[[str], Path], scale: tuple[int, int] = (1, 1)) -> tuple[Condition, ...]:
        """Return the pictures, the sound and the references, files opened.

        Args:
            find: returns where a file of this name lies.
            scale: how many times smaller, and of how many frames one, the IC-LoRA wants a reference.

        Raises:
            LTX2Error: a file that is missing or cannot be read.
        """
        given: list[Condition] = [self._picture(each, find) for each in self.pictures]
        given += [KeepAudio(_sound(find(each.file), each.start), each.noise) for each in self.sounds]
        given += [_reference(find(each.file), each.strength, scale) for each in self.references]
        return tuple(given)

    def cast(self, find: Callable[[str], Path]) -> tuple[Character, ...]:
        """Return who is seen and heard; how they are given, the model and its LoRAs say.

        Args:
            find: returns where a file of this name lies.

        Raises:
            LTX2Error: a file that is missing or cannot be read; two voices of one character.
        """
        return tuple(_character(each, find) for each in self.characters)

    def changes(self) -> tuple[Condition, ...]:
        """Return what is made anew of a clip."""
        ranges = tuple(RetakeRange(each.start, each.end, each.streams) for each in self.retakes)
        return (RetakeRanges(ranges),) if ranges else ()

    def _picture(self, entry: PictureAt, find: Callable[[str], Path]) -> Picture:
        frame = min(round(entry.at * self.fps), self.frames - 1)
        return Picture(read_picture(find(entry.file)), frame, entry.strength)


LANES: Mapping[str, type] = {
    "prompts": PromptAt, "pictures": PictureAt, "sounds": Sound, "references": Reference, "characters": CharacterAt,
    "retakes": RetakeAt,
}  # fmt: skip


@dataclass(frozen=True)
class TimelineText(Checked):
    """A timeline as it is written."""

    timeline: Annotated[
        str,
        Words(lines=True, reads=lambda text: Timeline.parse(text).script),
        "The strip as JSON. In the browser it is drawn: add, drag and snap there; files come from ComfyUI's input "
        "folder.",
    ] = '{"seconds": 5, "fps": 24, "prompts": [{"at": 0, "text": "a red ball bounces twice on the left"}]}'


def _sound(path: Path, start: float) -> AudioSource:
    source = AudioSource.of(path)
    part = SoundPart(start).of(source.waveform, source.sample_rate)
    if not part.shape[-1]:
        raise SettingError(
            f"{path.name} lasts {source.seconds:.2f} s, but is to be heard from {start:g} s on: begin earlier."
        )
    return AudioSource(part, source.sample_rate)


def _reference(path: Path, strength: float, scale: tuple[int, int]) -> Condition:
    """A video where the file has pictures, else a voice."""
    if probe(path).size is None:
        return ReferenceAudio(AudioSource.of(path), strength)
    return ReferenceVideo(VideoSource(path), *scale, strength)


def _character(entry: CharacterAt, find: Callable[[str], Path]) -> Character:
    """One with a picture where the file is one, else with a voice alone."""
    path = find(entry.file)
    voices = [find(entry.voice)] if entry.voice else []
    is_picture = probe(path).size is not None
    voices += [] if is_picture else [path]
    if len(voices) > 1:
        raise SettingError(f"{entry.file} is a voice, and {entry.voice} is one, too: give a character one of them.")
    heard = AudioSource.of(voices[0]) if voices else None
    return Character(read_picture(path) if is_picture else None, heard, entry.way, entry.strength)


def _lane(name: str, entries: object) -> tuple[Any, ...]:
    if not isinstance(entries, Sequence) or isinstance(entries, str):
        raise SettingError(f"{name} of the timeline is {_shown(entries)}; it must be a list.")
    return tuple(_entry(LANES[name], each, f"Entry {number} of {name}") for number, each in enumerate(entries, 1))


def _entry(owner: type[Entry], value: object, where: str) -> Entry:
    """Return ``value`` as ``owner``, each field of its type and within its limits; ``where`` begins the sentence."""
    if not isinstance(value, Mapping):
        raise SettingError(f"{where} is {_shown(value)}; it must be an object such as {{...}}.")
    own = [field for field in fields(owner) if field.name not in LANES]  # type: ignore[arg-type]
    _check_names(where, value, [field.name for field in own], LANES if owner is Timeline else ())
    if missing := [field.name for field in own if field.default is MISSING and field.name not in value]:
        raise SettingError(f"{where} has no {missing[0]}; it needs one.")
    settings = settings_of(owner)
    for name, each in value.items():
        _check_field(settings.get(name), name, each, where)
    return owner(**value)


def _check_names(where: str, given: Iterable[object], known: Sequence[str], more: Iterable[str]) -> None:
    for name in given:
        if name not in known:
            hint = did_you_mean(str(name), [*known, *more])
            raise SettingError(f"{where} has no {name}; it has {', '.join([*known, *more])}.{hint}")


def _check_field(setting: Setting | None, name: str, value: object, where: str) -> None:
    numeric = setting is not None and isinstance(setting.look, Number)
    if not (_is_number(value) if numeric else isinstance(value, str)):
        raise SettingError(f"{where}: {name} is {_shown(value)}; it must be {'a number' if numeric else 'text'}.")
    try:
        if setting is not None:
            setting.check(value)
    except SettingError as error:
        raise SettingError(f"{where}: {error}") from None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)  # NaN lies outside of all limits


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
