"""A fault is found on one side of its threshold and not on the other, and what is well is left alone."""

import math
import pickle

import pytest
import torch

import ltx2_core as ltx2
from ltx2_core import health
from ltx2_core.errors import NotANumberError
from ltx2_core.health import PictureHealth, Seams, check_finite, latent_findings, sound_findings
from ltx2_core.latents import AVLatent

RATE = 48000
SIDES = pytest.mark.parametrize("factor, found", [(0.9, True), (1.1, False)])  # of a threshold that must be reached
BEYOND = pytest.mark.parametrize("factor, found", [(0.9, False), (1.1, True)])  # of a threshold that must be kept


def seen(frames, chunk=8) -> list[str]:
    """What is found in frames (F, H, W, 3), or in several such clips at once."""
    watch = PictureHealth()
    for part in frames.expand(1, *[-1] * 4).split(chunk, 1) if frames.ndim == 4 else frames.split(chunk, 1):
        watch.see(part)
    return [finding.what.removeprefix("the picture ") for finding in watch.findings()]


def heard(waveform, rate=RATE) -> list[str]:
    return [finding.what.removeprefix("the sound ") for finding in sound_findings(waveform, rate)]


def stated(latent) -> list[str]:
    return [finding.what for finding in latent_findings(latent, "sampling")]


def drifting(frames=33, speed=0.05):
    """A soft gradient that moves by ``speed`` of the width in all."""
    place = torch.linspace(0, 1, 64) + torch.linspace(0, speed, frames)[:, None]
    red, green = place.mul(3).sin().mul(0.4).add(0.5), place.mul(0.6).clamp(0, 1)
    rows = torch.linspace(0.2, 0.6, 48)[:, None]
    return torch.stack([x[:, None].expand(-1, 48, -1) for x in (red, green)] + [rows.expand(frames, 48, 64)], -1)


def grain(frames=16):
    """Grey noise from 0 to 1, another in each frame."""
    return torch.rand(frames, 48, 64, 1).expand(-1, -1, -1, 3)


def steady(seconds=1.0):
    return torch.sin(torch.arange(round(seconds * RATE)) * (2 * math.pi * 300 / RATE)).expand(2, -1)


def speech():
    """Syllables of coloured noise, with pauses, a little more on the left."""
    noise = torch.randn(2 * RATE).unfold(0, 24, 1).mean(-1)
    syllables = torch.sin(torch.arange(len(noise)) * (2 * math.pi * 2 / RATE)).clamp(0)
    return (noise * syllables) * torch.tensor([[1.0], [0.6]])


# ------------------------------------------------------------------------------------------------------ what is well


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.slow
def test_the_miniatures_own_clips_are_well(seed):
    clip = ltx2.generate(ltx2.open_models("miniature"), "a green ball bounces twice on the left", steps=6, seed=seed)
    assert seen(clip.frames) == heard(clip.waveform, clip.sample_rate) == stated(clip.latent) == []


@pytest.mark.parametrize(
    "frames",
    [
        drifting(),
        torch.cat([drifting(17), drifting(16).flip(2, 3) * 0.5]),
        drifting() * torch.linspace(0, 1, 33).view(-1, 1, 1, 1),
        drifting() * torch.linspace(-1, 1, 33).abs().view(-1, 1, 1, 1),
        torch.cat([drifting(16), torch.ones(1, 48, 64, 3), drifting(16)]),
        torch.stack([torch.arange(64).sub(7 * i).div(4).floor().fmod(2).abs() for i in range(33)])[:, None, :, None]
        .expand(-1, 48, -1, 3),
        drifting(1),
    ],
    ids=["slow", "cut", "fade from black", "fade to black and back", "a flash", "blinds rushing by", "one frame"],
)  # fmt: skip
def test_plain_pictures_are_well(frames):
    assert seen(frames) == []


def test_plain_sounds_are_well():
    click = torch.zeros(2, 10 * RATE)
    click[:, RATE : RATE + 200] = torch.randn(200) * 0.05
    for waveform in (speech(), steady(), click, speech()[:1]):
        assert heard(waveform / waveform.abs().amax().clamp(min=1)) == []


# ------------------------------------------------------------------------------------------------------------ pictures


@SIDES
def test_black(factor, found):
    assert seen(grain() * health.BLACK * factor) == ["is black"] * found


@SIDES
def test_one_colour(factor, found):
    brightness = torch.linspace(0.3, 0.7, 16).view(-1, 1, 1, 1)
    assert seen(brightness + torch.randn(16, 48, 64, 3) * health.FLAT * factor) == ["is one flat colour"] * found


@pytest.mark.parametrize("plain, what", [(0.0, "is black"), (0.8, "is one flat colour")])
def test_a_few_frames_may_be_otherwise(plain, what):
    frames = torch.full((40, 48, 64, 3), plain)
    other = math.floor(40 * (1 - health.MOST_FRAMES))
    assert seen(frames.index_copy(0, torch.arange(other - 1), drifting(other - 1))) == [what]
    assert seen(frames.index_copy(0, torch.arange(other + 1), drifting(other + 1))) == []


@SIDES
def test_a_still_picture_may_shimmer(factor, found):
    frames = drifting(speed=0)
    frames[5] += health.STATIC * factor
    assert seen(frames) == ["stands still"] * found
    frames = drifting(speed=0) + torch.randn(33, 48, 64, 3) * health.STATIC * factor / 2**0.5
    assert seen(frames) == ["stands still"] * found


@pytest.mark.parametrize("size, found", [(4, True), (14, False)])
def test_lips_are_movement_enough(size, found):
    frames = drifting(speed=0).repeat(1, 4, 2, 1)  # 192 x 128
    frames[20, 100 : 100 + size, 60 : 60 + size + 4] += 0.2
    assert seen(frames) == ["stands still"] * found


@BEYOND
@pytest.mark.parametrize("channels", [[0, 1, 2], [2]])
def test_flickering(factor, found, channels):
    frames = drifting(33)
    needed = health.FLICKER * 33 / 30  # 32 jumps, two of which one flash would need
    frames[::2, ..., channels] += needed * factor
    assert seen(frames) == ["flickers"] * found


def test_one_frame_does_not_stand_still_but_can_be_black():
    assert seen(drifting(1)) == [] and seen(torch.zeros(1, 48, 64, 3)) == ["is black"]
    assert PictureHealth().findings() == []


def test_every_clip_of_a_batch_is_looked_at_and_a_fault_told_once():
    well, still, black = drifting(), drifting(speed=0), torch.zeros(33, 48, 64, 3)
    assert seen(torch.stack([well, still, black, still])) == ["stands still", "is black"]


def test_chunks_do_not_matter_and_frames_are_not_kept():
    frames = drifting(64, speed=0)
    assert seen(frames, 1) == seen(frames, 7) == seen(frames, 64) == ["stands still"]
    watch = PictureHealth()
    for chunk in frames[None].split(8, 1):
        watch.see(chunk)
    assert len(pickle.dumps(watch)) < 150_000 < frames.numel() * 4 / 10


# -------------------------------------------------------------------------------------------------------------- sounds


@SIDES
def test_silent(factor, found):
    assert heard(steady() * math.sqrt(2) * health.SILENT * factor + 0.2) == ["is silent"] * found


@BEYOND
def test_clipped(factor, found):
    waveform = steady() * 0.5
    waveform[0, : 2 + round(RATE * health.CLIPPED * factor)] = 1
    assert heard(waveform) == ["is clipped"] * found


def test_peaks_are_not_clipping():
    waveform = steady() * 0.5
    waveform[:, ::40] = 1
    assert heard(waveform) == [] and heard(steady().sign() * (health.CEILING - 1e-4)) == []


@SIDES
@pytest.mark.parametrize("louder", [0, 1])
def test_one_sided(factor, found, louder):
    waveform = steady() * 0.5
    waveform[1 - louder] *= health.ONE_SIDED * factor
    assert heard(waveform) == ["is one-sided"] * found


def test_a_sound_can_have_two_faults():
    assert heard(torch.stack([(steady()[0] * 3).clamp(-1, 1), torch.zeros(RATE)])) == ["is clipped", "is one-sided"]


# ------------------------------------------------------------------------------------------------------------- latents


def smooth(*shape):
    """Varies from cell to cell along the last axis, with mean 0 and variance 1."""
    ramp = torch.linspace(-1, 1, shape[-1])
    return (ramp / ramp.std(correction=0)).expand(shape).clone()


@SIDES
def test_empty(factor, found):
    latent = AVLatent(smooth(2, 4, 3, 8, 8) * health.EMPTY * factor, None)
    assert stated(latent) == ["the picture is empty"] * found


@pytest.mark.parametrize("share, found", [(0.6, True), (1.4, False)])
def test_still_noise(share, found):
    """``share`` of the threshold is how much the neighbours correlate."""
    part = share * health.NOISE

    def mixed(*shape):
        return smooth(*shape) * part**0.5 + torch.randn(shape) * (1 - part) ** 0.5

    latent = AVLatent(mixed(1, 16, 4, 16, 32), mixed(1, 8, 128, 16))
    assert stated(latent) == ["the picture is still noise", "the sound is still noise"] * found


def test_of_a_single_cell_nothing_is_said():
    assert stated(AVLatent(torch.randn(1, 128, 1, 1, 1), None)) == stated(AVLatent(None, None)) == []


# --------------------------------------------------------------------------------------------------- numbers and words


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_a_number(bad):
    latent, frames, waveform = AVLatent(None, smooth(1, 8, 34, 16)), drifting(), speech()
    check_finite(latent, "sampling")
    latent.audio[0, 0, 3, 3] = frames[3] = waveform[1, 7] = bad
    assert stated(latent) == ["the sound is not a number"]
    assert seen(frames) == heard(waveform) == ["is not a number"]
    with pytest.raises(
        FloatingPointError, match=r"The audio is not a number after sampling: .* a LoRA is too strong.* \(bf16"
    ):
        check_finite(latent, "sampling")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bad", [[math.nan], [math.inf], [-math.inf], [math.inf, -math.inf]])
def test_every_number_that_is_none_is_found_as_by_a_look_at_each(bad, dtype):
    """A sum tells; large numbers whose sum is none are numbers."""
    large = torch.full((7, 333), torch.finfo(dtype).max, dtype=dtype)
    for whole in (torch.randn(7, 333).to(dtype), large, -large, torch.cat((large, -large))):
        assert whole.isfinite().all()
        check_finite(whole, "a step")
        for place in (0, 1000, whole.numel() - len(bad)):
            broken = whole.clone()
            broken.view(-1)[place : place + len(bad)] = torch.tensor(bad, dtype=dtype)
            with pytest.raises(NotANumberError, match="result"):
                check_finite(broken, "a step")


def test_a_finding_is_two_sentences_that_name_the_stage():
    finding, = sound_findings(torch.zeros(2, 100), RATE)  # fmt: skip
    assert str(finding).startswith(
        "After decoding the sound, the sound is silent: likely the prompt says nothing of sound"
    )
    for cause in health._CAUSES.values():
        assert cause.count(". ") == 1 and cause.endswith(".")


# ------------------------------------------------------------------------------------------------------------- seams


def seams(frames, chunk=8) -> Seams:
    watch = Seams(frames=[17], rows=[32], columns=[32])
    for part in frames[None].split(chunk, 1):
        watch.see(part)
    return watch


def textured(frames=33):
    """Coarse coloured noise that drifts, 48 x 64."""
    wide = torch.rand(1, 3, 12, 60)
    wide = torch.nn.functional.interpolate(wide, scale_factor=8, mode="bilinear")[0]
    return torch.stack([wide[:, :48, shift : shift + 64] for shift in range(frames)]).movedim(1, -1)


def test_no_seams_are_seen_where_there_are_none():
    for frames in (drifting(), textured(), grain(33), torch.full((33, 48, 64, 3), 0.5)):
        assert seams(frames).measure() == pytest.approx(1, abs=0.25) and seams(frames).findings() == []


def test_an_edge_in_the_picture_is_no_seam():
    frames = textured()
    frames[:, 32:, 10:30] = 0
    frames[:, 5:25, 32:] = 1
    assert seams(frames).findings() == []


@pytest.mark.parametrize(
    "place", [(slice(17, None),), (slice(None), slice(32, None)), (slice(None),) * 2 + (slice(32, None),)]
)
@pytest.mark.parametrize("step, found", [(1, False), (16, True)])
def test_a_step_in_brightness_is_a_seam(place, step, found):
    """Of so many levels, from one frame, row or column on."""
    frames = drifting() * 0.5
    frames[place] += step / 255
    for chunk in (1, 8, 33):
        assert [
            str(finding).startswith("After refining, the picture shows seams: its tiles")
            for finding in seams(frames, chunk).findings()
        ] == [True] * found


def test_a_short_clip_has_no_seams():
    watch = Seams()
    watch.see(torch.rand(1, 1, 32, 32, 3))
    assert watch.measure() == 1


def test_seams_of_a_latent_are_seen_near_its_edge():
    """Few cells, of which two on either side are compared, or as many as there are."""
    smooth = torch.linspace(0, 1, 6).view(1, 1, 6, 1, 1).expand(1, 3, 6, 4, 8)
    stepped = smooth.clone()
    stepped[:, :, 1:] += 0.5
    found = []
    for latent in (smooth, stepped):
        watch = Seams([2], [1], [], beside=2)
        watch.see(latent)
        found.append(watch.measure())
    assert found[0] == pytest.approx(1) and found[1] > 3
