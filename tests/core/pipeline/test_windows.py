"""Windows cover a long clip exactly, in both streams; they are joined without a seam, and a run can be resumed."""

import hashlib
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import torch
from direct import sample
from drawn import same
from torch.testing import assert_close

import ltx2_core as ltx2
from ltx2_core import latents
from ltx2_core.checkpoint.text_encoder import build_text_encoder, open_text_encoder
from ltx2_core.conditioning import Frozen, apply_conditions
from ltx2_core.disk_cache import NOWHERE, DiskCache
from ltx2_core.geometry import ClipShape, audio_positions, video_positions
from ltx2_core.latents import AVLatent
from ltx2_core.pipeline.decode_audio import decode_audio, vocode
from ltx2_core.pipeline.decode_video import decode_video
from ltx2_core.pipeline.engines.local import LocalEngine
from ltx2_core.pipeline.long import SampleInputs, Script, sample_long
from ltx2_core.pipeline.sample import Sample, Sampling
from ltx2_core.pipeline.stage import LatentSize
from ltx2_core.sampling import ATTENTIONS, schedules
from ltx2_core.sampling.windows import Segment, StreamSpan, Window, Windowing, sample_windows, split_windows
from ltx2_core.settings import Resources
from ltx2_core.text import compute_hidden_states, connect, extract_features
from ltx2_core.video_vae import DecoderInput

FPS = Fraction(24)


def clip(frames: int, fps: Fraction = FPS) -> AVLatent:
    """A small latent of a clip of ``frames``."""
    length, sound = ClipShape(32, 64, frames, fps).video_latent, ClipShape(32, 64, frames, fps).audio_latents
    return AVLatent(torch.zeros(1, 4, *length), torch.zeros(1, 2, sound, 3))


def truth(frames: int, fps: Fraction = FPS) -> AVLatent:
    """A clip in which no latent is like another."""
    return clip(frames, fps).map(lambda x: torch.arange(x.numel()).view(x.shape).float().sin())


def parts(whole: AVLatent, window: Window) -> AVLatent:
    return whole.map(lambda x, part: x[:, :, part.start : part.stop], window)


def copied(whole: AVLatent, window: Window, begin: AVLatent, items: list) -> AVLatent:
    """A model that knows the whole clip."""
    return parts(whole, window)


def random(window, begin, items, prompt="") -> AVLatent:
    """A model that makes up something else for every prompt and beginning, and keeps what is known."""
    state = apply_conditions(begin, FPS, items)
    digest = hashlib.sha256(begin.video.numpy().tobytes() + begin.audio.numpy().tobytes() + prompt.encode()).hexdigest()
    noise = latents.Noise(int(digest[:8], 16) + window.number)(state.map(lambda state: state.latent))
    return state.map(lambda state, x: state.unpacked(state.hold(x)).contiguous(), noise)


# Spans


def test_windows_of_the_default_size():
    first, second, third = split_windows(257, FPS)
    assert (first.frames, second.frames, third.frames) == (range(121), range(96, 217), range(136, 257))
    assert (first.video, second.video, third.video) == (
        StreamSpan(0, 16),
        StreamSpan(12, 28, 1, 3),
        StreamSpan(17, 33, 1, 10),
    )
    # Sound: 25 latents a second, each in 1/25 s.
    assert (first.audio, second.audio) == (StreamSpan(0, 126), StreamSpan(100, 226, 1, 25))
    assert (first.delay, second.delay) == (0, 0)
    assert third.audio == StreamSpan(142, 268, 1, 83) and third.delay == Fraction(142, 25) - Fraction(136, 24)


@pytest.mark.parametrize("fps", ["8", "24000/1001", "24", "25", "30", "50", "60", "240"])
@pytest.mark.parametrize(("size", "overlap"), [(17, 8), (33, 16), (41, 8), (121, 24)])
@pytest.mark.slow
@pytest.mark.sample(1)
def test_windows_of_any_length_are_exact_in_both_streams(fps, size, overlap):
    fps = Fraction(fps)
    for frames in (*range(1, 4 * size, 8), 393):
        whole, made = truth(frames, fps), split_windows(frames, fps, size, overlap)
        assert (made[0].frames.start, made[-1].frames.stop) == (0, frames)
        assert made[-1].audio.stop == whole.audio.shape[2]
        assert all(len(window.frames) == min(size, frames) for window in made)
        for before, window in zip(made, made[1:]):
            assert before.frames.stop - window.frames.start - 1 >= overlap
            for part, previous in ((window.video, before.video), (window.audio, before.audio)):
                assert part.start + part.lead + part.known == previous.stop <= part.stop
        for window in made:
            # Behind its first latent, a window has the times of the whole clip.
            start, delay = window.frames.start / fps, window.delay
            own = video_positions((window.video.stop - window.video.start, 1, 1), fps)
            every = video_positions((window.video.stop, 1, 1), fps)[:, :, window.video.start :]
            assert_close((own + float(start))[:, 0, 1:], every[:, 0, 1:])
            own = audio_positions(window.audio.stop - window.audio.start)
            every = audio_positions(window.audio.stop)[:, :, window.audio.start :]
            assert_close((own + float(start + delay))[:, 0, 1:], every[:, 0, 1:])
            assert abs(delay) <= Fraction(1, 50)
        assert same(sample_windows(partial(copied, whole), clip(frames, fps), made), whole)


@pytest.mark.parametrize(("size", "overlap"), [(32, 8), (33, 4), (33, 0), (33, 32), (9, 8)])
def test_windows_that_have_no_whole_latents_or_nothing_new_are_refused(size, overlap):
    with pytest.raises(ValueError, match=f"Windows of {size} frames that share {overlap} cannot be"):
        split_windows(97, FPS, size, overlap)


# What a window begins with


def test_a_window_is_told_what_is_known_and_when_its_sound_begins():
    whole = truth(97)
    _, window, *_ = split_windows(97, FPS, 33, 16)

    def check(each, begin, items):
        if each == window:
            state = apply_conditions(begin, FPS, items)
            assert state.video.mask.view(5, 2)[:, 0].tolist() == [1, 0.25, 0.25, 1, 1]
            assert state.audio.mask.flatten().tolist() == [1] + 16 * [0.25] + 17 * [1]
            assert_close(begin.video[:, :, 1:3], whole.video[:, :, 3:5])
            expected = audio_positions(34) + float(window.delay)
            assert_close(state.audio.positions, expected)
            assert window.delay == Fraction(17, 25) - Fraction(16, 24)
        return parts(whole, each)

    sample_windows(check, clip(97), split_windows(97, FPS, 33, 16), Windowing(overlap_strength=0.75))


def test_every_window_is_no_larger_than_one():
    sizes = set()

    def watch(window, begin, items):
        sizes.add((begin.video.shape[2], begin.audio.shape[2]))
        return random(window, begin, items)

    sample_windows(watch, clip(24 * 60 + 1), split_windows(24 * 60 + 1, FPS, 49, 16))
    assert {video for video, _ in sizes} == {7} and max(audio for _, audio in sizes) <= 52


def test_each_window_has_the_prompt_of_what_is_new_in_it():
    segments = [Segment(2, "then"), Segment(0, "first"), Segment(3.5, "last")]
    made = split_windows(97, FPS, 33, 16)
    assert [float(window.middle) for window in made] == pytest.approx([16.5 / 24, 41 / 24, 57 / 24, 73 / 24, 89 / 24])
    script = Script(tuple((float(each.start), each.prompt) for each in segments))
    assert [script.of_window(window) for window in made] == ["first", "first", "then", "then", "last"]
    assert Script(script.parts[:1]).of_window(made[0]) == "then"
    assert not script.unread(made)


@pytest.mark.parametrize("starts, unread", [((0, 2, 99), [99]), ((0, 2, 2), [2]), ((0, 1.2, 1.4), [1.2])])
def test_a_prompt_that_no_window_reads_is_told(starts, unread):
    """One beyond the end of the clip, one of two at the same moment, one of two in the same window."""
    script, made = (
        Script(tuple((float(start), str(number)) for number, start in enumerate(starts))),
        split_windows(97, FPS, 33, 16),
    )
    assert [float(said.split()[3]) for said in script.unread(made)] == unread
    assert len(script.unread(made, 0.5)) == (starts[-1] == 99)


def test_prompts_beyond_the_end_are_told_in_one_sentence():
    script = Script(tuple((float(start), str(start)) for start in (0, 5, 6, 1.2, 7, 1.4)))
    said = script.unread(split_windows(97, FPS, 33, 16))
    assert len(said) == 2 and said[1].startswith("The prompt from 1.2 s on is not read: a window has the one")
    assert said[0] == (
        "The prompt from 5 s on (and 2 others) is not read: the clip ends at 4.042 s. Let it begin earlier, or make "
        "the clip longer."
    )


# Joining


def test_what_overlaps_is_faded_over_in_both_streams():
    made = split_windows(49, FPS, 33, 16)
    whole = sample_windows(
        lambda window, begin, items: begin.map(lambda x: torch.full_like(x, window.number)), clip(49), made
    )
    assert_close(whole.video[0, 0, :, 0, 0], torch.tensor([0, 0, 0, 1 / 3, 2 / 3, 1, 1]))
    sound = whole.audio[0, 0, :, 0]
    assert not sound[:18].any() and (sound[34:] == 1).all()
    assert_close(sound[17:35], torch.arange(18) / 17)


def test_a_stream_may_be_absent_and_one_that_is_given_stays():
    whole, made = truth(97), split_windows(97, FPS, 33, 16)
    for present in (AVLatent(whole.video, None), AVLatent(None, whole.audio)):

        def knowing(window, begin, items, present=present):
            states = apply_conditions(begin, FPS, items).map(lambda state: state.mask.min() < 1)
            assert all(known == (window.number > 0) for known in states.streams().values())
            return parts(present, window)

        alone = sample_windows(knowing, present.map(torch.zeros_like), made)
        assert alone.streams().keys() == present.streams().keys()
        assert all(torch.equal(x, whole.streams()[name]) for name, x in alone.streams().items())

    def picture_for_the_sound(window, begin, items):
        return random(window, begin, [*items, Frozen("audio")])

    content = AVLatent(clip(97).video, whole.audio)
    for drift in (0.0, 1.0):
        assert torch.equal(
            sample_windows(picture_for_the_sound, content, made, Windowing(drift_control=drift)).audio, whole.audio
        )


def test_colours_that_drift_are_drawn_back_to_the_first_window():
    """Each channel to its own mean and contrast there, as far as is asked."""
    made, generator = split_windows(97, FPS, 33, 16), torch.Generator().manual_seed(0)
    means, deviations = torch.tensor([-2.0, 0.0, 1.0, 3.0]), torch.tensor([0.5, 1.0, 2.0, 4.0])

    def drifting(window, begin, items):
        x = torch.randn(begin.video.shape, generator=generator).movedim(1, -1) * (1 + 0.2 * window.number)
        return AVLatent((x * deviations + means + window.number).movedim(-1, 1), None)

    start = AVLatent(torch.zeros(1, 4, *ClipShape(1024, 1024, 97, FPS).video_latent), None)
    for drift in (0.0, 0.5, 1.0):
        video = sample_windows(drifting, start, made, Windowing(drift_control=drift)).video
        deviation, mean = torch.std_mean(video[:, :, -2:], (0, 2, 3, 4))
        left, last = 1 - drift, made[-1].number
        assert_close(mean, means + left * last, atol=0.4, rtol=0)
        assert_close(deviation, deviations * (1 + left * 0.2 * last), atol=0, rtol=0.08)


# Resuming


@pytest.mark.parametrize("drift", [0.0, 0.5])
def test_a_run_that_was_interrupted_goes_on_and_ends_with_the_same_bits(tmp_path, drift):
    made, store, begun = split_windows(97, FPS, 33, 16), DiskCache(tmp_path, "all settings", "window"), []

    def run(stop: int | None = None, store=store, prompt=lambda window: "", **more) -> AVLatent:
        def watched(inputs, number):
            if number == stop:
                raise KeyboardInterrupt
            begun.append(number)
            return random(made[number], inputs.latent, inputs.conditions, inputs.contexts)

        begun.clear()
        script = Script(tuple((float(window.middle), prompt(window)) for window in made))
        windowing = Windowing(33, 16, **{"drift_control": drift, **more})
        inputs = SampleInputs(clip(97), FPS, script.first)
        return sample_long(watched, inputs, script, made, windowing, store)

    uninterrupted = run(store=NOWHERE)
    assert begun == [0, 1, 2, 3, 4]
    with pytest.raises(KeyboardInterrupt):
        run(stop=3)
    assert same(run(), uninterrupted) and begun == [3, 4]
    assert same(run(), uninterrupted) and begun == []
    run(prompt=lambda window: "another" * (window.number == 2))
    assert begun == [2, 3, 4], "what came before is as it was, what follows begins differently"
    run(overlap_strength=0.5)
    assert begun == [1, 2, 3, 4], "the first window sees nothing of another one"


def test_windows_that_another_attention_made_are_not_taken(tmp_path):
    models, stage = ltx2.open_models("miniature"), Sample(Sampling((1.0, 0.0)), LatentSize((5, 3, 3), 34))
    asked = [Resources(device="cpu", attention=each) for each in ATTENTIONS]
    asked.append(Resources(device="cpu", fold_loras=True))
    caches = [stage.window_cache(LocalEngine(models, each), tmp_path, None) for each in asked]
    assert len({cache.identity for cache in caches}) == len(asked)


# The miniature


def encoded(models, prompt: str):
    files = open_text_encoder(models.text_encoder)
    reading = compute_hidden_states(build_text_encoder(files, torch.float32), files.tokenizer(), [prompt])
    names = ("text_features", "video_connector", "audio_connector")
    extractor, *connectors = (ltx2.build(models, name, torch.float32) for name in names)
    return connect(extract_features(extractor, reading)[0], *connectors)


@torch.inference_mode()
def test_five_windows_of_the_miniature_are_one_clip():
    """A ball that goes on bouncing, and sounds when it does; no seam is to be seen or heard."""
    pytest.importorskip("scipy")
    from ltx2_core.mini import measure

    models = ltx2.open_models("miniature")
    contexts = encoded(models, "a green ball bounces twice on the left")
    transformer = ltx2.build(models, "transformer", torch.float32)
    shape, made = ClipShape(96, 96, 97, FPS), split_windows(97, FPS, 33, 16)
    assert len(made) == 5

    def run(window, begin, items):
        return sample(
            *(transformer, begin), fps=FPS, sigmas=schedules.ltx2(6), contexts=contexts, seed=window.number, items=items
        )

    latent = sample_windows(run, latents.empty(shape), made)
    frames = torch.cat(
        [
            chunk[0]
            for chunk in decode_video(ltx2.build(models, "video_decoder", torch.float32), DecoderInput(latent.video))
        ]
    )
    change = (frames[1:] - frames[:-1]).abs().mean((1, 2, 3))
    seams = [before.frames.stop for before in made[:-1]] + [window.frames.start + 1 for window in made[1:]]
    assert max(change[seam - 1] for seam in seams) <= 1.5 * change.median()

    vocoder = ltx2.build(models, "vocoder", torch.float32)
    mel = decode_audio(ltx2.build(models, "audio_decoder", torch.float32), latent.audio)
    waveform = vocode(vocoder, mel)[0]
    jumps = (waveform[:, 1:] - waveform[:, :-1]).abs().amax(0)
    for window in made[1:]:
        for number in (window.audio.start + 1, window.audio.start + 1 + window.audio.known):
            seam = (4 * number - 3) * vocoder.sample_rate // 100
            assert jumps[seam - 50 : seam + 50].max() < 0.1 * jumps.max()
    seen, heard = measure.look(frames.numpy()), measure.listen(waveform.numpy())
    assert (seen.colour, seen.place, heard.colour) == ("green", "left", "green")
    assert len(heard.onsets) >= 5 and np.diff(heard.onsets).min() > 0.4
    assert all(np.abs(heard.onsets - impact).min() < 3 / 24 for impact in seen.impacts)
