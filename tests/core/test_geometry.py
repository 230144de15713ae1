"""Lengths and positions of both streams."""

from fractions import Fraction

import pytest
import torch
from agreement import compare

from ltx2_core import geometry
from ltx2_core.audio_vae.config import LATENT_RATE
from ltx2_core.geometry import ClipShape, exact_fps
from ltx2_core.latents import AVLatent, empty


@pytest.mark.parametrize(
    "fps, exact",
    [
        *((23.976, "24000/1001"), (23.98, "24000/1001"), ("24000/1001", "24000/1001")),
        *((29.97, "30000/1001"), (59.94, "60000/1001"), (24, "24"), (25.0, "25"), (12.5, "25/2"), (48, "48")),
    ],
)
def test_frame_rates_are_exact(fps, exact):
    assert exact_fps(fps) == Fraction(exact)


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf"), "fast", 1000])
def test_impossible_frame_rates(fps):
    with pytest.raises(ValueError, match="fps is"):
        exact_fps(fps)


@pytest.mark.parametrize("frames, fps, latents", [(121, 24, 126), (121, 25, 121), (97, 24, 101), (241, 24, 251),
                                                  (257, 25, 257), (1, 24, 1), (9, 24, 9), (161, 24, 168),
                                                  (49, 10, 123), (153, 30, 127), (537, 30, 447), (249, 50, 125),
                                                  (913, 50, 457), (1, 50, 1), (1, 240, 1)])  # fmt: skip
def test_audio_lengths_of_the_official_code(frames, fps, latents):
    """Half latents, too, where its rounding errors decide.

    Not single frames at high rates: of these the official code makes no sound, and then fails.
    """
    assert ClipShape(64, 64, frames, Fraction(fps)).audio_latents == latents


@pytest.mark.parametrize("fps", [23.976, 24, 25, 29.97, 30, 50])
@pytest.mark.parametrize("sample_rate", [24000, 48000])
def test_picture_and_sound_end_together(fps, sample_rate):
    for frames in range(1, 1002, 8):
        shape = ClipShape(64, 64, frames, exact_fps(fps))
        assert abs(Fraction(shape.samples(sample_rate), sample_rate) - shape.seconds) <= Fraction(1, 2 * sample_rate)
        # What the decoder makes of the audio latents is at most two and a half latents shorter or longer than that.
        decoded = (4 * shape.audio_latents - 3) * Fraction(1, 100)
        assert abs(decoded - shape.seconds) <= Fraction(5, 100)


def test_wrong_sizes_name_the_nearest_right_one():
    with pytest.raises(ValueError, match=r"frames is 120; it must be 8 k \+ 1, for example 121"):
        ClipShape(96, 96, 120, Fraction(24))
    with pytest.raises(ValueError, match="width is 100; it must be a multiple of 32, for example 96"):
        ClipShape(100, 96, 121, Fraction(24))
    with pytest.raises(ValueError, match="frames is 0"):
        ClipShape(96, 96, 0, Fraction(24))


def test_positions_of_the_spec():
    times = geometry.video_positions((3, 2, 2), Fraction(24))[0, 0, ::4]
    expected = torch.tensor([[0, 0.0416667], [0.0416667, 0.375], [0.375, 0.7083333]])
    assert torch.allclose(times, expected, atol=1e-6)
    sound = geometry.audio_positions(5)[0, 0]
    expected = torch.tensor([[0, 0.01], [0.01, 0.05], [0.05, 0.09], [0.09, 0.13], [0.13, 0.17]])
    assert torch.allclose(sound, expected, atol=1e-7)


@pytest.mark.parametrize("fps", [24.0, 24000 / 1001, 50.0])
def test_positions_agree(fps):
    patchifiers = pytest.importorskip("ltx_core.components.patchifiers")
    from ltx_core.types import AudioLatentShape, VideoLatentShape

    shape = VideoLatentShape(1, 128, 4, 2, 3)
    grid = patchifiers.VideoLatentPatchifier(1).get_patch_grid_bounds(shape)
    pixels = patchifiers.get_pixel_coords(grid, patchifiers_scale(), causal_fix=True).float()
    pixels[:, 0] /= fps
    compare("positions (video)", geometry.video_positions((4, 2, 3), exact_fps(fps)), pixels)
    theirs = patchifiers.AudioPatchifier(1).get_patch_grid_bounds(AudioLatentShape(1, 8, 7, 16))
    compare("positions (audio)", geometry.audio_positions(7), theirs)


def patchifiers_scale():
    from ltx_core.types import VIDEO_SCALE_FACTORS

    return VIDEO_SCALE_FACTORS


def test_lengths_and_the_networks_count_sound_at_the_same_rate():
    assert geometry.AUDIO_RATE == LATENT_RATE


def test_tokens_and_back():
    video, audio = torch.randn(2, 128, 3, 2, 4), torch.randn(2, 8, 5, 16)
    assert torch.equal(geometry.video_latent(geometry.video_tokens(video), (3, 2, 4)), video)
    assert torch.equal(geometry.audio_latent(geometry.audio_tokens(audio)), audio)
    counting = torch.arange(12.0).reshape(1, 2, 3, 2)
    assert geometry.audio_tokens(counting).tolist() == [[[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]]


def test_a_latent_knows_its_clip_and_a_sound_alone_how_long_it_is():
    clip, fps = ClipShape(64, 96, 33, Fraction(24)), Fraction(24)
    latent = empty(clip)
    assert latent.shape(fps) == clip
    assert AVLatent(None, latent.audio).shape(fps) == ClipShape(32, 32, 33, fps)
