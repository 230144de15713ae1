"""Whole clips of what is given for them, and what is refused before anything is read."""

from importlib import import_module

import pytest
import torch
from conditions import FRAMES, SOUND

import ltx2_core as ltx2
from ltx2_core.conditioning.conditions import InitClip, InpaintMask, KeepAudio, KeepVideo, ReferenceVideo, RetakeRange
from ltx2_core.conditioning.pictures import Picture
from ltx2_core.conditioning.preprocess import fit
from ltx2_core.conditioning.sources import AudioSource, VideoSource
from ltx2_core.pipeline.decode_audio import decode_audio, vocode
from ltx2_core.pipeline.decode_video import decode_video
from ltx2_core.pipeline.encode_conditions import encode_audio, encode_video
from ltx2_core.pipeline.engines.local import LocalEngine
from ltx2_core.sampling import Guidance
from ltx2_core.sampling.windows import Segment, Windowing
from ltx2_core.video_vae import DecoderInput


def make(models, *conditions, frames=33, **more) -> ltx2.Clip:
    size = {"width": 96, "height": 64, "frames": frames, "steps": 2, "video": Guidance(), "audio": Guidance()}
    return ltx2.generate(models, "x", conditions=conditions, **size | more)


@pytest.mark.slow
def test_a_given_sound_is_heard_as_it_is(models):
    short = AudioSource(SOUND.waveform[:1, :20_000], 24_000)
    said = []
    clip = make(models, KeepAudio(short, noise=0.2), on_finding=said.append)
    assert clip.sample_rate == 24_000 and torch.equal(clip.waveform[:, :20_000], short.waveform)
    assert clip.waveform.shape == (1, 33_000) and not clip.waveform[:, 20_000:].any()
    assert any("filled with silence" in str(each) for each in said)


@pytest.mark.slow
def test_a_given_film_is_seen_as_it_is(models):
    larger = torch.rand(40, 70, 100, 3)
    clip = make(models, KeepVideo(VideoSource(larger)))
    assert torch.equal(clip.frames, larger[:33]) and clip.waveform.abs().max() > 0


@pytest.mark.slow
def test_sound_alone_has_no_picture(models):
    clip = make(models, sound_only=True)
    assert list(clip.chunks) == [] and clip.latent.video is None and clip.waveform.shape == (2, 66_000)


@pytest.mark.slow
def test_a_clip_with_everything_given_is_the_same_on_a_small_card(models, monkeypatch):
    """Encoders are planned and streamed like all networks; appended tokens are part of the plan."""
    planned, follow = [], LocalEngine.follow
    monkeypatch.setattr(LocalEngine, "follow", lambda self, plan: planned.append(plan) or follow(self, plan))
    conditions = [Picture(FRAMES[:1]), Picture(FRAMES[:1], -1), ReferenceVideo(VideoSource(FRAMES)), KeepAudio(SOUND)]
    whole, limited = make(models, *conditions), make(models, *conditions, vram=2**30, device="cpu", cache=False)
    assert torch.equal(whole.latent.video, limited.latent.video)
    stages = {placement.need.name: placement for placement in planned[-1].placements}
    assert [*stages][3:6] == ["pictures", "hearing", "sampling"]
    make(models, KeepAudio(SOUND), vram=2**30, device="cpu", cache=False)
    (fewer,) = (placement for placement in planned[-1].placements if placement.need.name == "sampling")
    assert fewer.need.work_bytes < stages["sampling"].need.work_bytes


@pytest.mark.slow
def test_a_given_stream_needs_no_passes(models, monkeypatch):
    """Neither where the clip is planned nor in either of its two steps."""
    counted, planned, follow = [], [], LocalEngine.follow
    denoise = import_module("ltx2_core.sampling.denoiser")
    monkeypatch.setattr(denoise, "passes_needed", lambda guidance, *more: counted.append([*guidance]) or ["cond"])
    monkeypatch.setattr(LocalEngine, "follow", lambda self, plan: planned.append(plan) or follow(self, plan))
    make(models, KeepAudio(SOUND), audio=Guidance(7, 3))
    (sampling,) = (stage.sampling for stage in planned[0].stages if stage.name == "sampling")
    assert sampling.guidance.rows == (Guidance(), Guidance())
    assert counted == 2 * [[Guidance(), Guidance()]]


@torch.inference_mode()
@pytest.mark.slow
def test_what_lies_outside_a_retake_is_the_round_trip_through_the_vae(miniature):
    """The latents to the bit; frames and samples from where the decoders no longer see what is new."""
    source = make(miniature, frames=121)
    frames, sound, cpu = source.frames, AudioSource(source.waveform, source.sample_rate), torch.device("cpu")
    new = make(miniature, InitClip(VideoSource(frames), sound), RetakeRange(4, 4.5), frames=121, seed=3)

    video_encoder, video_decoder, audio_encoder, audio_decoder, vocoder = (
        ltx2.build(miniature, name, torch.float32)
        for name in ("video_encoder", "video_decoder", "audio_encoder", "audio_decoder", "vocoder")
    )
    video = encode_video(video_encoder, [fit(frames, 96, 64)], 121, cpu)
    kept = [*range(12), 15]  # of 16 latents; the others touch 4 to 4.5 s
    assert torch.equal(new.latent.video[:, :, kept], video[:, :, kept])
    assert not torch.equal(new.latent.video[:, :, 12:15], video[:, :, 12:15])
    trip = torch.cat([chunk[0] for chunk in decode_video(video_decoder, DecoderInput(video))])
    difference = (new.frames - trip).abs().amax((1, 2, 3))
    assert difference[:40].max() <= 1e-6 and difference[96:108].min() > 1e-3

    audio = encode_audio(audio_encoder, sound.waveform, sound.sample_rate, cpu, 126)
    assert torch.equal(new.latent.audio[:, :, :100], audio[:, :, :100])
    assert torch.equal(new.latent.audio[:, :, 114:], audio[:, :, 114:])
    heard = vocode(vocoder, decode_audio(audio_decoder, audio), 121_000)[0]
    difference = (new.waveform - heard).abs().amax(0)
    assert difference[:95_000].max() <= 1e-6 and difference[97_000:107_000].max() > 1e-4


@pytest.mark.slow
def test_a_long_clip_that_was_interrupted_goes_on_where_it_was(models, tmp_path):
    def run(folder, stop=None):
        steps = []

        def report(stage, done, total):
            if stage == "sampling":
                steps.append((done, total))
                if len(steps) == stop:
                    raise InterruptedError

        conditions = [
            Picture(torch.rand(1, 64, 96, 3, generator=torch.Generator().manual_seed(2)), 40),
            KeepAudio(SOUND),
        ]
        settings = {
            "windowing": Windowing(33, 16, drift_control=0.5),
            "segments": [Segment(1.5, "y")],
            "resume": folder,
        }
        return make(models, *conditions, frames=65, on_progress=report, **settings).latent, steps

    whole, steps = run(tmp_path / "one")
    assert steps == [(done, 6) for done in range(1, 7)]
    with pytest.raises(InterruptedError):
        run(tmp_path / "two", stop=4)
    resumed, rest = run(tmp_path / "two")
    again, nothing = run(tmp_path / "two")
    assert rest == steps[2:] and nothing == []
    for latent in (resumed, again):
        assert torch.equal(latent.video, whole.video) and torch.equal(latent.audio, whole.audio)


@pytest.mark.parametrize(
    ("conditions", "sentence"),
    [
        ((Picture(FRAMES[:1], -1), Picture(FRAMES[1:2], 32)), "Two pictures are given at frame 32"),
        (Picture(FRAMES[:1], 40), "A picture is given at frame 40, but the clip has 33 frames"),
        (
            KeepVideo(VideoSource(FRAMES[:20])),
            "has 20 frames at 24 fps, the clip 33: make the clip 17 frames long",
        ),
        (RetakeRange(2, 3), "from 2 s to 3 s, but the clip ends at 1.38 s"),
        (InpaintMask(torch.ones(20, 64, 96)), "The mask has 20 frames; it needs 1, or 33 as the clip"),
        (InpaintMask(torch.zeros(1, 64, 96)), "The mask is empty"),
        (
            ReferenceVideo(VideoSource(FRAMES), 2),
            "width and height of the clip must be multiples of 64; it has 96 x 64",
        ),
        ((KeepAudio(SOUND), KeepVideo(VideoSource(FRAMES))), "Nothing is left to make"),
    ],
)
def test_what_cannot_be_given_is_said_before_anything_is_read(models, monkeypatch, conditions, sentence):
    monkeypatch.setattr("ltx2_core.pipeline.engines.prepare.build", None)
    with pytest.raises(ValueError, match=sentence):
        make(models, *(conditions if isinstance(conditions, tuple) else [conditions]))
