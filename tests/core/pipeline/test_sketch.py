"""A sketch shows a running clip coarsely, frame by frame and as long as it will be."""

from fractions import Fraction

import pytest
import torch

from ltx2_core.latents import AVLatent
from ltx2_core.pipeline.sketch import sketch
from ltx2_core.video_vae.preview import released_factors

FPS = Fraction(24)


def mel(latent: torch.Tensor) -> torch.Tensor:
    """Four frames of one value for each audio latent."""
    return torch.zeros(4 * latent.shape[2], 64)


def made(frames: int | None = 3, latents: int | None = 18):
    numbers = torch.Generator().manual_seed(0)
    video = None if frames is None else torch.randn(1, 128, frames, 4, 6, generator=numbers)
    audio = None if latents is None else torch.zeros(1, 8, latents, 16)
    return sketch(AVLatent(video, audio), FPS, released_factors(), mel)


def test_frames_begin_when_their_latent_does():
    drawn = made()
    assert drawn.frames.shape == (3, 4, 6, 3) and drawn.seconds == pytest.approx(17 / 24)
    assert drawn.starts == pytest.approx([0, 1 / 24, 9 / 24])


def test_the_sound_is_as_long_as_the_picture():
    """A mel spectrogram has 100 frames a second; what lacks is silence, what is too long is cut."""
    assert made(latents=18).sound.shape == made(latents=10).sound.shape == (64, 71, 3)
    assert torch.equal(made(latents=10).sound[:, -1], made(latents=1).sound[:, -1])
    assert not torch.equal(made(latents=10).sound[:, 0], made(latents=10).sound[:, -1])


def test_a_missing_stream_is_missing():
    sound = made(frames=None)
    assert sound.frames is None and sound.sheet(64) is None and sound.seconds == pytest.approx(0.72)
    assert sound.still(60).shape == (10, 60, 3)
    picture = made(latents=None)
    assert picture.sound is None and picture.sound_picture(64) is None


def test_a_sheet_has_all_frames_row_by_row():
    drawn = made(frames=5)
    sheet = drawn.sheet(100)
    assert (sheet.width, sheet.height, sheet.columns) == (6, 4, 3) and sheet.picture.shape == (8, 18, 3)
    assert torch.equal(sheet.picture[:4, 6:12], drawn.frames[1]) and torch.equal(sheet.picture[4:, :6], drawn.frames[3])
    assert not sheet.picture[4:, 12:].any()  # filled up with black
    small = drawn.sheet(3)
    assert (small.width, small.height) == (3, 2)


def test_a_still_shows_four_moments_above_the_sound():
    long, short = made(frames=5).still(24), made(frames=2).still(24)
    assert long.shape == (2 * (8 + 2) + 4, 2 * (12 + 2), 3) and short.shape == (16 + 2 + 4, 24 + 2, 3)
    assert made().sound_picture(20).shape == (64, 20, 3)
