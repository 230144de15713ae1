"""What the miniature made when it was recorded, it makes still: bit for bit on the same kind of machine."""

import pytest
import torch
from golden import FOLDER
from recorded.clips import CLIPS
from recorded.platform import fingerprint
from recorded.record import RECORDING, TOLERANCE, Recording, differences, facts_of

RECORDED = Recording(FOLDER / "recorded_clips.json")


@pytest.mark.slow
@pytest.mark.parametrize("name", CLIPS)
def test_a_clip_is_what_was_recorded(miniature, name):
    clip = CLIPS[name](miniature)
    tensors = {
        "video latent": clip.latent.video,
        "audio latent": clip.latent.audio,
        "frames": clip.frames,
        "waveform": clip.waveform,
    }
    made = {key: facts_of(tensor) for key, tensor in tensors.items() if tensor is not None}
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values() if tensor is not None)
    if RECORDING:
        RECORDED.write(name, {"platform": fingerprint(), "tensors": made})
    entry = RECORDED.entry(name)
    assert differences(made, entry["tensors"], entry["platform"] == fingerprint()) == []


def test_nothing_is_recorded_that_is_not_made():
    assert RECORDED.read().keys() == CLIPS.keys()


def test_one_changed_bit_is_noticed_here_and_a_changed_value_elsewhere():
    one = torch.linspace(0, 1, 1000)
    other = one.clone()
    other[500] = torch.nextafter(other[500], torch.tensor(2.0))
    recorded = {"x": facts_of(one)}
    assert differences({"x": facts_of(one)}, recorded, True) == []
    (sentence,) = differences({"x": facts_of(other)}, recorded, True)
    assert "x: other bits" in sentence
    assert differences({"x": facts_of(other)}, recorded, False) == []
    assert differences({"x": facts_of(one + TOLERANCE * 0.9)}, recorded, False) == []
    for changed in (one + TOLERANCE * 1.1, one[:-1], one * float("nan")):
        assert len(differences({"x": facts_of(changed)}, recorded, False)) == 1
    assert len(differences({"y": facts_of(one)}, recorded, True)) == 1
