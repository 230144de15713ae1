"""Previews show what the clip will be: the released factors as far as they are known, the miniature's by its world."""

import math

import numpy as np
import pytest
import torch
from einops import rearrange, reduce
from torch.testing import assert_close

from ltx2_core.audio_vae import AudioVAEConfig, log_mel
from ltx2_core.audio_vae.mel import FLOOR
from ltx2_core.audio_vae.preview import COLOURS, LOUD, MelFactors, mel_picture, preview_mel
from ltx2_core.checkpoint import build, open_models
from ltx2_core.mini import world
from ltx2_core.mini.preview import fit_mel, miniature_factors, miniature_mel_factors
from ltx2_core.video_vae.preview import PreviewFactors, preview_frames, released_factors


@pytest.fixture(scope="module")
def scene():
    return world.sample_scene(np.random.default_rng(12345), "red", "left", 2, "light")  # of no seed that was fitted


def explained(guess: torch.Tensor, truth: torch.Tensor) -> float:
    """Share of the variance of ``truth`` that ``guess`` explains."""
    return 1 - ((guess - truth) ** 2).mean().item() / truth.var().item()


def mel_of(scene: world.Scene, config: AudioVAEConfig) -> torch.Tensor:
    sound = torch.from_numpy(world.render_audio(scene, config.sample_rate))
    return log_mel(sound[None], config.sample_rate, config)


def test_a_released_latent_gives_one_pixel_per_cell_each_from_its_own_cell():
    factors = released_factors()
    latent = torch.zeros(2, 128, 3, 4, 5)
    empty = preview_frames(latent, factors)
    assert empty.shape == (3, 4, 5, 3) and 0.2 < empty.mean() < 0.8
    latent[0, :, 1, 2, 3] = 0.1 * torch.randn(128)
    latent[1] = 1  # another clip of the batch
    changed = (preview_frames(latent, factors) != empty).any(-1)
    assert changed.nonzero().tolist() == [[1, 2, 3]]


def test_what_hardly_differs_from_the_rest_of_its_frame_is_as_the_rest():
    """So that no cell of the miniature's second stage shows a strip of floor."""
    black = torch.zeros(129, 1, 1, 1, 3)
    black[0] = 2  # the first channel is the brightness
    latent = torch.zeros(1, 128, 2, 4, 4)
    latent[0, 0, :, ::2] = 0.03
    latent[0, 0, :, 1, 1] = 0.3
    frames = preview_frames(latent, PreviewFactors(black, black, slack=0.04))
    flat = frames[0, 3, 3]
    assert ((frames - flat).abs().amax(-1) > 1e-6).nonzero().tolist() == [[0, 1, 1], [1, 1, 1]]
    assert_close(frames[:, 1, 1] - flat, torch.full((2, 3), 0.3 - 0.04), atol=0.031, rtol=0)


def test_the_miniature_shows_every_frame_of_a_clip(scene):
    video = torch.from_numpy(world.render_video(scene))
    encoder = build(open_models("miniature"), "video_encoder", torch.float32)
    with torch.inference_mode():
        latent = encoder(rearrange(video * 2 - 1, "f h w k -> 1 k f h w"))
    frames = preview_frames(latent, miniature_factors())
    truth = reduce(video, "f (h y) (w x) k -> f h w k", "mean", h=24, w=24)
    assert frames.shape == truth.shape == (33, 24, 24, 3)
    assert explained(frames, truth) > 0.85
    assert explained(frames - frames.mean(0), truth - truth.mean(0)) > 0.4, "the ball does not move as it should"


def test_the_miniature_shows_every_moment_of_a_sound(scene):
    models = open_models("miniature")
    config = AudioVAEConfig.from_json(models.config["audio_vae"])
    mel = mel_of(scene, config)
    with torch.inference_mode():
        latent = build(models, "audio_encoder", torch.float32)(mel)
    guess = preview_mel(torch.cat((latent, torch.randn_like(latent))), miniature_mel_factors())
    assert guess.shape == (4 * latent.shape[2] - 3, 64)
    assert explained(guess, mel[0].mean(0)[: len(guess)]) > 0.9


def test_the_fit_finds_a_linear_map():
    """If latents are mel frames in another basis, their preview is the mel; the first frame stands alone."""
    config, basis = AudioVAEConfig(), torch.linalg.qr(torch.randn(64, 64)).Q

    def encoder(mel: torch.Tensor) -> torch.Tensor:
        return (mel[:, 0, ::4] @ basis / 10).reshape(1, -1, 8, 8).transpose(1, 2)

    factors = fit_mel(encoder, config, clips=8)
    assert factors.first.shape == (65, 1, 64) and factors.later.shape == (65, 4, 64)
    mel = mel_of(world.sample_scene(np.random.default_rng(9)), config)
    guess = preview_mel(encoder(mel), factors)
    assert explained(guess[4::4], mel[0, 0, 4::4]) > 0.99


def test_a_latent_frame_gives_its_own_mel_frames():
    factors = MelFactors(torch.zeros(5, 1, 3), torch.zeros(5, 4, 3))
    factors.first[0], factors.later[-1], factors.later[1, 2] = 2.0, -1.0, 3.0
    latent = torch.zeros(1, 2, 3, 2)  # values of a frame: (channel 0, bin 0), (0, 1), (1, 0), (1, 1)
    latent[0, 0, 0, 0] = latent[0, 0, 2, 1] = 1
    mel = preview_mel(latent, factors)
    assert mel[:, 0].tolist() == [2, -1, -1, -1, -1, -1, -1, 2, -1]


def test_the_picture_of_a_sound_is_dark_where_it_is_silent_and_bright_where_it_is_loud():
    mel = torch.full((10, 64), math.log(FLOOR))
    mel[3, 5], mel[4, 5] = LOUD, 100
    picture = mel_picture(mel)
    assert picture.shape == (64, 10, 3)
    dark, bright = torch.tensor(COLOURS[0]), torch.tensor(COLOURS[-1])
    assert_close(picture[63 - 5, 3], bright)  # low pitches are at the bottom
    assert_close(picture[63 - 5, 4], bright)
    assert_close(picture.sum((0, 1)), 638 * dark + 2 * bright)
    assert mel_picture(torch.full((1, 1), math.nan)).isfinite().all()
