"""The vocoder that is written down makes of a true sound's mel what sounds like it."""

import numpy as np
import pytest
import torch

from ltx2_core.audio_vae import log_mel
from ltx2_core.checkpoint.components import COMPONENTS
from ltx2_core.mini import measure, world
from ltx2_core.mini.recipe.audio import ARCHITECTURE
from ltx2_core.mini.recipe.config import CONFIG
from ltx2_core.mini.recipe.vocoder import write_vocoder

RATE = ARCHITECTURE.sample_rate


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["exact", "as stored"])
def vocoder(request, tmp_path_factory):
    work = tmp_path_factory.mktemp("work")
    write_vocoder(work, 1, "cpu", 0)
    state = torch.load(work / "vocoder.pt", weights_only=True)["vocoder"]
    vocoder = COMPONENTS["vocoder"].make(CONFIG, {})
    vocoder.load_state_dict({name: value.to(request.param) for name, value in state.items()})
    return vocoder.requires_grad_(False)


def again(vocoder, sound) -> np.ndarray:
    """(2, N) at 16 kHz, made to a mel and back, at 24 kHz."""
    return vocoder(log_mel(torch.as_tensor(sound, dtype=torch.float32)[None], RATE, ARCHITECTURE))[0].numpy()


@pytest.mark.parametrize("colour", world.COLOURS)
def test_true_sounds_are_heard_truly(vocoder, colour):
    rng = np.random.default_rng(1)
    for count, place in enumerate(world.PLACES, start=1):
        scene = world.sample_scene(rng, colour, place, count)
        heard = measure.listen(again(vocoder, world.render_audio(scene, RATE)))
        assert (heard.colour, heard.place) == (colour, place)
        assert heard.onsets == pytest.approx(scene.impacts, abs=0.02)


@pytest.mark.parametrize("pitch", world.PITCHES.values())
def test_each_side_is_as_loud_as_it_was(vocoder, pitch):
    tone = np.sin(2 * np.pi * pitch * np.arange(RATE) / RATE)
    made = again(vocoder, np.stack([0.4 * tone, 0.1 * tone]))[:, 6000:18000]  # half a second
    assert np.abs(made).max(axis=1) == pytest.approx([0.4, 0.1], rel=0.1)
    spectrum = np.abs(np.fft.rfft(made)) ** 2  # in steps of 2 Hz
    assert (spectrum[:, round(pitch / 2)] > 0.97 * spectrum.sum(axis=1)).all()


def test_silence_stays_silent(vocoder):
    assert np.abs(again(vocoder, np.zeros((2, RATE)))).max() < 0.003
