"""A clip as one strip of time: read from JSON, refused by the entry that is wrong, and the same as its parts."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from ltx2_core.checkpoint import open_models
from ltx2_core.cli.arguments import request_of
from ltx2_core.cli.parser import parse
from ltx2_core.conditioning import KeepAudio, Picture, ReferenceAudio, Retake, Timeline
from ltx2_core.conditioning.characters import PictureBefore
from ltx2_core.disk_cache import fingerprint
from ltx2_core.errors import MissingFileError, SettingError
from ltx2_core.geometry import ClipShape

STRIP = {
    "seconds": 2,
    "fps": 24,
    "prompts": [{"text": "then blue", "at": 1}, {"text": "a red ball"}],
    "pictures": [{"file": "a.png"}, {"file": "a.png", "at": 2, "strength": 0.5}],
    "sounds": [{"file": "a.wav", "start": 0.5}],
    "references": [{"file": "a.wav", "strength": 0.25}],
    "retakes": [{"start": 0.2, "end": 0.5, "streams": "picture"}, {"start": 1, "end": 1.5}],
}


@pytest.fixture
def folder(tmp_path) -> Path:
    Image.new("RGB", (64, 32), "red").save(tmp_path / "a.png")
    wavfile.write(tmp_path / "a.wav", 24000, np.zeros(24000, np.int16))
    return tmp_path


def read(**changes: object) -> Timeline:
    return Timeline.parse(json.dumps(STRIP | changes))


def test_prompts_stand_in_the_order_of_time_and_the_first_counts_from_the_beginning():
    assert [(each.at, each.text) for each in read().script] == [(0, "a red ball"), (1, "then blue")]
    assert [each.at for each in read(prompts=[{"text": "late", "at": 1.5}]).script] == [0]


def test_entries_become_conditions_at_their_frames(folder):
    strip = read()
    assert strip.frames == 49
    first, last, sound, voice = strip.conditions(lambda name: folder / name)
    assert isinstance(first, Picture) and (first.frame, first.strength) == (0, 1)
    assert isinstance(last, Picture) and (last.frame, last.strength) == (48, 0.5)
    assert isinstance(sound, KeepAudio) and sound.audio.seconds == 0.5
    assert isinstance(voice, ReferenceAudio) and voice.strength == 0.25


def test_what_lies_on_the_strip_is_said():
    said = "49 frames, 2.04 s at 24 fps: 2 prompts, 2 pictures, 1 sound, 1 reference, 2 retakes"
    assert read().describe() == said


def test_ranges_are_made_anew_each_in_its_streams():
    (changes,) = read().changes()
    video, audio = changes.encode(ClipShape(64, 32, 49, 24), ("video", "audio"), None)
    assert isinstance(video, Retake) and (video.start, video.end, video.more) == (0.2, 0.5, ((1, 1.5),))
    assert isinstance(audio, Retake) and (audio.start, audio.end, audio.more) == (1, 1.5, ())
    assert read(retakes=[]).changes() == ()


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"picturs": []}, "no picturs.*Did you mean pictures"),
        ({"pictures": {}}, "pictures of the timeline is {}; it must be a list"),
        ({"pictures": ["a.png"]}, 'Entry 1 of pictures is "a.png"; it must be an object'),
        ({"pictures": [{"at": 1}]}, "Entry 1 of pictures has no file"),
        ({"pictures": [{"file": "a.png", "at": "1"}]}, 'Entry 1 of pictures: at is "1"; it must be a number'),
        ({"pictures": [{"file": "a.png", "at": True}]}, "at is true; it must be a number"),
        ({"pictures": [{"file": "a.png", "at": float("nan")}]}, "at is nan; it must be between"),
        ({"pictures": [{"file": 7}]}, "file is 7; it must be text"),
        ({"pictures": [{"file": "a.png", "strength": 2}]}, "strength is 2; it must be between 0 and 1"),
        ({"pictures": [{"file": "a.png", "at": 3}]}, "stands at 3 s, but the clip ends at 2 s"),
        ({"sounds": [{"file": "a.wav"}] * 2}, "has 2 sounds; a clip keeps one"),
        ({"retakes": [{"start": 1}]}, "Entry 1 of retakes has no end"),
        ({"retakes": [{"start": 1, "end": 2, "streams": "sounds"}]}, "streams is 'sounds'.*Did you mean sound"),
        ({"characters": [{"voice": "a.wav"}]}, "Entry 1 of characters has no file"),
        ({"characters": [{"file": "a.png", "way": "keyframes"}]}, "way is 'keyframes'.*Did you mean keyframe"),
        ({"seconds": 0}, "seconds is 0; it must be between 0.1 and 3600"),
        ({"fps": 10**400}, "digits; it must be between 1 and 240"),
    ],
)
def test_what_is_wrong_is_said_with_its_entry(changes, words):
    with pytest.raises(SettingError, match=words):
        read(**changes)


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 100_000, "7", "null", '"a"', "[]", '{"fps": 24, "fps": 25}', "x" * 1_000_001]
)
def test_what_is_no_timeline_is_refused(text):
    with pytest.raises(SettingError, match="timeline"):
        Timeline.parse(text)


def test_prompts_that_are_missing_or_at_one_moment_are_refused():
    with pytest.raises(SettingError, match="has no prompt"):
        _ = read(prompts=[]).script
    with pytest.raises(SettingError, match="begin at 0 s"):
        _ = read(prompts=[{"text": "a"}, {"text": "b"}]).script


def test_a_range_that_ends_before_it_begins_and_a_sound_that_is_over_are_refused(folder):
    with pytest.raises(SettingError, match="must end after its beginning"):
        read(retakes=[{"start": 1, "end": 1}]).changes()
    with pytest.raises(SettingError, match=r"a\.wav is a voice, and a\.wav is one, too"):
        read(characters=[{"file": "a.wav", "voice": "a.wav"}]).cast(lambda name: folder / name)
    with pytest.raises(SettingError, match=r"lasts 1\.00 s, but is to be heard from 3 s on"):
        read(sounds=[{"file": "a.wav", "start": 3}]).conditions(lambda name: folder / name)


def asked(folder: Path, strip: dict, *flags: str):
    (folder / "strip.json").write_text(json.dumps(strip))
    words = ["generate", "--timeline", str(folder / "strip.json"), "--output", str(folder / "clip.mp4"), *flags]
    return request_of(parse(words), open_models("miniature"))


def test_the_command_line_takes_a_timeline_with_files_beside_it(folder):
    request = asked(folder, {**STRIP, "retakes": []})
    assert request.prompt == "a red ball" and request.clip.frames == 49 and request.clip.fps == 24
    assert [(each.start, each.prompt) for each in request.long.segments] == [(1, "then blue")]
    assert [type(each) for each in request.conditions] == [Picture, Picture, KeepAudio, ReferenceAudio]
    assert asked(folder, {**STRIP, "retakes": []}, "--frames", "25").clip.frames == 25


def test_characters_are_placed_as_the_flag_places_them(folder):
    people = [{"file": "a.png", "voice": "a.wav", "strength": 0.5}, {"file": "a.wav", "way": "voice only"}]
    strip = {"seconds": 2, "prompts": STRIP["prompts"], "characters": people}
    assert {*Timeline.parse(json.dumps(strip)).files} == {"a.png", "a.wav"}
    files = f"{folder / 'a.png'}:{folder / 'a.wav'}:strength=0.5", f"{folder / 'a.wav'}:way=voice only"
    by_flags = asked(folder, {**strip, "characters": []}, "--character", files[0], "--character", files[1])
    placed, flagged = asked(folder, strip).conditions, by_flags.conditions
    assert [type(each) for each in placed] == [PictureBefore, ReferenceAudio, ReferenceAudio]
    assert fingerprint(placed) == fingerprint(flagged)
    assert fingerprint(placed) != fingerprint(asked(folder, {**strip, "characters": people[:1]}).conditions)


def test_what_does_not_go_with_a_timeline_is_refused(folder):
    with pytest.raises(SettingError, match="leave --prompt and --segments out"):
        asked(folder, STRIP, "--prompt", "a ball")
    with pytest.raises(SettingError, match="with --source FILE"):
        asked(folder, STRIP)
    strip = {**STRIP, "retakes": []}
    with pytest.raises(SettingError, match="no name of a file in the folder of the timeline"):
        asked(folder, {**strip, "pictures": [{"file": "../a.png"}]})
    with pytest.raises(MissingFileError, match=r"There is no file b\.png"):
        asked(folder, {**strip, "pictures": [{"file": "b.png"}]})
