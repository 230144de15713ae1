"""Settings are declared beside their fields: every one has limits and whole sentences, and begins within them."""

from dataclasses import MISSING

import pytest

from ltx2_core.conditioning.characters import Character
from ltx2_core.conditioning.conditions import (
    InpaintMask,
    KeepAudio,
    Picture,
    ReferenceAudio,
    ReferenceVideo,
    RetakeRange,
)
from ltx2_core.conditioning.sources import VideoSource
from ltx2_core.fields import Words, settings_of
from ltx2_core.sampling import Guidance, ScheduleSettings, TileSettings
from ltx2_core.sampling.windows import Segment, Windowing

OWNERS = {
    Guidance: 13,
    ScheduleSettings: 7,
    TileSettings: 7,
    Windowing: 5,
    Segment: 1,
    Picture: 4,
    KeepAudio: 1,
    ReferenceAudio: 1,
    ReferenceVideo: 9,
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
