"""Settings are declared beside their fields: every one has limits and whole sentences, and begins within them."""

import importlib
import pkgutil
from dataclasses import MISSING, fields, is_dataclass
from fractions import Fraction

import numpy as np
import pytest
import torch

import ltx2_core
from ltx2_core.conditioning.characters import Character
from ltx2_core.conditioning.conditions import InpaintMask, KeepAudio, ReferenceAudio, ReferenceVideo, RetakeRange
from ltx2_core.conditioning.pictures import Picture
from ltx2_core.conditioning.sources import AudioSource, VideoSource
from ltx2_core.errors import LTX2Error, SettingError
from ltx2_core.fields import Checked, Words, settings_of
from ltx2_core.lora import Strengths
from ltx2_core.sampling import Guidance, ScheduleSettings, TileSettings
from ltx2_core.sampling.windows import Segment, Windowing
from ltx2_core.settings import ClipSettings, StreamScales

OWNERS = {
    Guidance: 13,
    ScheduleSettings: 7,
    TileSettings: 7,
    Windowing: 5,
    Segment: 1,
    Picture: 4,
    KeepAudio: 1,
    ReferenceAudio: 1,
    ReferenceVideo: 10,
    Character: 2,
    RetakeRange: 3,
    InpaintMask: 2,
    VideoSource: 2,
}


@pytest.mark.parametrize("owner", OWNERS, ids=lambda owner: owner.__name__)
def test_settings_have_limits_and_whole_sentences(owner):
    settings = settings_of(owner)
    assert len(settings) == OWNERS[owner]
    for name, setting in settings.items():
        assert setting.text.endswith((".", ".)")), name
        assert setting.shown is not MISSING, name
        if not isinstance(setting.look, Words):
            setting.check(setting.shown)


def test_a_scale_of_one_stream_reaches_as_far_as_that_of_both():
    both = settings_of(Guidance)
    for name, setting in settings_of(StreamScales).items():
        assert setting.look.most == both[name.split("_", 1)[1]].look.most, name


def _owners() -> list[type]:
    """Every class with settings, wherever it is."""
    found = {}
    for module in pkgutil.walk_packages(ltx2_core.__path__, "ltx2_core."):
        if "__main__" not in module.name:
            values = vars(importlib.import_module(module.name)).values()
            found |= dict.fromkeys(each for each in values if isinstance(each, type) and is_dataclass(each))
    return [each for each in found if settings_of(each)]


PICTURES = torch.zeros(1, 32, 32, 3)
NEEDED = {
    "image": PICTURES, "mask": PICTURES[..., 0], "source": PICTURES, "pictures": PICTURES, "tracks": "[]",
    "video": VideoSource(PICTURES), "audio": AudioSource(torch.zeros(2, 480), 48000), "end": 1.0,
    "prompt": "x", "text": "x", "file": "x",
}  # fmt: skip
ODD = (
    5, -1, 10**400, True, 0.5, float("nan"), float("inf"), "x", "", b"x", [], [1], (1,), [0.5], {"a": 1}, set(),
    object(), torch.zeros(3), torch.tensor(1.0), np.float32(0.5), np.int64(1), np.bool_(True), Fraction(1, 2),
    len, 1j, "\0",
)  # fmt: skip
PLAIN = {int, float, bool, str}


@pytest.mark.parametrize("owner", _owners(), ids=lambda owner: owner.__name__)
def test_whatever_is_given_for_a_setting_is_refused_in_a_sentence_or_becomes_plain(owner):
    made = [each for each in fields(owner) if each.init]
    needed = {each.name: NEEDED.get(each.name, 0) for each in made if each.default is each.default_factory is MISSING}
    needed |= {"pictures": PICTURES} if owner is Character else {}
    for name, setting in settings_of(owner).items():
        for odd in ODD:
            try:
                kept = getattr(owner(**needed | {name: odd}), name)
            except LTX2Error:
                continue
            if setting.type in PLAIN:
                assert type(kept) in PLAIN, (name, odd)


def test_a_value_of_another_kind_says_which_is_expected():
    with pytest.raises(SettingError, match="blocks is '5'; it must be a list, of which each is a whole number"):
        Strengths(blocks=5)
    with pytest.raises(SettingError, match="strength is 'None'; it must be a number"):
        Strengths(None)
    with pytest.raises(SettingError, match="fps is True"):
        ClipSettings(fps=True)
    assert ScheduleSettings(terminal=Fraction(1, 2)).terminal == 0.5
    assert Guidance(stg_blocks=[1, np.int64(2)]).stg_blocks == (1, 2)
    assert issubclass(Guidance, Checked)
