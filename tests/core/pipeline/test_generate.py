"""The whole way, from a prompt to a file: the miniature, the command line, and what happens when something is wrong."""

import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from direct import sample
from drawn import same
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

import ltx2_core as ltx2
from ltx2_core.__main__ import main
from ltx2_core.checkpoint import TensorFile
from ltx2_core.checkpoint.upscaler import BUILT_IN, open_upscaler
from ltx2_core.conditioning import ReferenceVideo, VideoSource
from ltx2_core.conditioning.blend import Blending
from ltx2_core.conditioning.conditions import InitClip, InpaintMask, RetakeRange
from ltx2_core.conditioning.preprocess import fit
from ltx2_core.conditioning.sources import AudioSource
from ltx2_core.errors import LTX2Error, MediaError, SettingError
from ltx2_core.latents import AVLatent
from ltx2_core.lora.shrink import shrink_lora
from ltx2_core.media import read_picture, read_tags, write_audio, write_clip, write_frames, write_video
from ltx2_core.memory import Store
from ltx2_core.memory.link import Plain
from ltx2_core.memory.placement import place
from ltx2_core.pipeline import encode_text
from ltx2_core.pipeline.takes import Take, load_take, save_take
from ltx2_core.sampling import SAMPLERS, Guidance, schedules
from ltx2_core.sampling.windows import Segment
from ltx2_core.settings import AS_PROMPT, Enhancing, Request, SecondStage
from ltx2_core.text import Contexts
from ltx2_core.video_vae import Tiling

SMALL = {"width": 64, "height": 64, "frames": 9, "steps": 2, "video": Guidance(), "audio": Guidance()}


@pytest.mark.slow
def test_the_miniature_shows_a_ball_and_lets_it_be_heard():
    """It was trained on coloured balls; the colour is in the picture, and the impacts are in the sound."""
    clip = ltx2.generate(ltx2.open_models("miniature"), "a green ball bounces twice on the left", seed=3)
    assert clip.frames.shape == (33, 96, 96, 3) and clip.fps == 24
    red, green, blue = clip.frames[:, :, :48].amax((0, 1, 2))
    assert green > 0.7 and green > red + 0.2 and green > blue + 0.2
    assert clip.waveform.shape == (2, round(33 / 24 * clip.sample_rate))
    loudness = clip.waveform.abs().amax(0).unfold(0, 240, 240).amax(1)
    assert loudness.max() > 0.05 and loudness.min() < 0.01


def test_a_second_stage_needs_no_word_about_tiles():
    second = SecondStage(upscalers=(open_upscaler(BUILT_IN),))
    clip = ltx2.generate(ltx2.open_models("miniature"), "a red ball", seed=1, steps=1, frames=9, second=second)
    assert clip.frames.shape == (9, 192, 192, 3)


def test_what_was_not_opened_and_frames_that_were_taken_are_told(models):
    with pytest.raises(SettingError, match="models is 'miniature'; it must be what open_models returns"):
        ltx2.generate("miniature", "a red ball")
    clip = ltx2.generate(models, "a red ball", **SMALL)
    assert sum(map(len, clip.chunks)) == 9
    with pytest.raises(MediaError, match="chunks were taken before"):
        clip.frames.mean()


def test_a_negative_prompt_that_nothing_looks_at_is_told_of(models, caplog):
    """As those of distilled models, whose text scale is 1."""
    guided, nag = Guidance(text_scale=3), Guidance(nag_scale=4)
    for negative, video, told in (
        ("noise", Guidance(), True),
        ("noise", guided, False),
        ("noise", nag, False),
        ('""', Guidance(), False),
        (None, Guidance(), False),
    ):
        caplog.clear()
        ltx2.generate(models, "a red ball", negative, **SMALL | {"video": video, "audio": Guidance()})
        assert ("The negative prompt is not read" in caplog.text) == told, (negative, video)


@pytest.mark.parametrize("more", [{"enhance": Enhancing()}, {"length": AS_PROMPT}])
@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"width": 32, "height": 32}, "too small"),
        ({"width": 65}, "multiple of 32"),
        ({"sigmas": (0.5, 1, 0)}, "must fall"),
    ],
)
def test_what_cannot_be_is_refused_before_a_prompt_is_written_or_measured(monkeypatch, more, sizes, said):
    """Both load the text encoder, which takes minutes."""
    models = ltx2.open_models("miniature")
    for name in ("with_enhanced_prompt", "with_length"):
        monkeypatch.setattr(f"ltx2_core.pipeline.generate.{name}", lambda *_: pytest.fail("a network was asked"))
    small = {name: value for name, value in SMALL.items() if name not in ("frames", "steps")}
    with pytest.raises(SettingError, match=said):
        ltx2.generate(models, "a red ball", **small | sizes | more)


def test_a_segment_that_nothing_reads_is_told_and_not_encoded(models, monkeypatch, caplog):
    read, real = [], encode_text.read_features
    monkeypatch.setattr(
        encode_text, "read_features", lambda engine, prompts: read.extend(prompts) or real(engine, prompts)
    )
    late = [Segment(20 + number, f"ball number {number}") for number in range(50)]
    ltx2.generate(models, "a red ball", segments=late, cache=False, **SMALL)
    assert read == ["a red ball"]
    assert caplog.text.count("is not read") == 1 and "from 20 s on (and 49 others) is not read" in caplog.text


def test_a_given_clip_of_which_nothing_stays_is_told_of(models, caplog):
    """One to be changed or continued; not where a part of it is, nor where it shows through less noise."""
    given = InitClip(VideoSource(torch.rand(9, 64, 64, 3)))
    retake, mask = RetakeRange(0, 0.1), InpaintMask(torch.ones(1, 64, 64))
    for changes, more, told in (
        ((), {}, True),
        ((retake,), {}, False),
        ((mask,), {}, False),
        ((), {"frames": 17}, False),
        ((), {"denoise": 0.5}, False),
    ):
        caplog.clear()
        ltx2.generate(models, "a red ball", conditions=(given, *changes), **SMALL | more)
        assert ("Nothing stays of the clip that is given to be changed" in caplog.text) == told, (changes, more)


def test_whoever_takes_frames_may_change_them_and_take_gradients_meanwhile(models):
    clip = ltx2.generate(models, "a red ball", **SMALL | {"frames": 33}, tiling=Tiling(64, 32, 16, 8))
    chunk = next(clip.chunks)
    weight = torch.ones(3, requires_grad=True)
    (chunk.mul_(2) * weight).sum().backward()
    assert weight.grad is not None and next(clip.chunks) is not None
    clip.waveform.mul_(0.5)


@pytest.mark.parametrize("fps", ["24000/1001", "25", "50"])
@pytest.mark.slow
def test_picture_and_sound_end_together(models, fps):
    clip = ltx2.generate(models, "x", fps=fps, **SMALL)
    assert clip.frames.shape == (9, 64, 64, 3) and 0 <= clip.frames.min() <= clip.frames.max() <= 1
    assert clip.waveform.shape[-1] == round(9 / Fraction(fps) * 48000) and clip.sample_rate == 48000


@pytest.mark.slow
def test_a_clip_that_is_painted_on_shows_its_reference_as_it_is(models):
    picture = torch.rand(9, 8, 8, 3).repeat_interleave(8, 1).repeat_interleave(8, 2)
    given = ReferenceVideo(VideoSource(picture), outpaint="right")
    wide = SMALL | {"width": 128, "conditions": [given]}
    plain, blended = (ltx2.generate(models, "x", **wide, blend=each).frames for each in (None, Blending(0)))
    assert (blended[:, :, :48] - picture[:, :, :48]).abs().mean() < 0.02
    assert (plain[:, :, :48] - picture[:, :, :48]).abs().mean() > 0.1
    assert (blended[:, :, 96:] - plain[:, :, 96:]).abs().mean() < 0.05
    with pytest.raises(SettingError, match="nothing to blend"):
        ltx2.generate(models, "x", **SMALL, blend=Blending())


@pytest.mark.slow
@pytest.mark.parametrize("width, second", [(64, None), (128, SecondStage(upscalers=(open_upscaler(BUILT_IN),)))])
def test_a_clip_that_is_changed_shows_and_plays_what_it_keeps_as_it_is(width, second):
    """From the file's own frames and sound, at the size of the second stage, too."""
    picture = torch.rand(33, 8, 8, 3).repeat_interleave(8, 1).repeat_interleave(8, 2)
    before = InitClip(VideoSource(picture), AudioSource(0.1 * torch.randn(2, 66_000), 48_000))
    size = {"width": width, "height": width, "frames": 33, "steps": 1}
    given = size | {"conditions": [before, RetakeRange(1.0, 1.2)], "second": second}
    models = ltx2.open_models("miniature")
    plain, blended = (ltx2.generate(models, "x", **given, blend=each) for each in (None, Blending(0)))
    shown = fit(picture, width, width)[0].movedim(0, -1) / 2 + 0.5
    assert_close(blended.frames[:8], shown[:8], atol=1e-5, rtol=0)
    assert (plain.frames[:8] - shown[:8]).abs().mean() > 0.05
    assert_close(blended.frames[26:30], plain.frames[26:30], atol=1e-5, rtol=0)
    assert_close(blended.waveform[:, :40_000], before.audio.waveform[:, :40_000], atol=1e-5, rtol=0)
    assert (plain.sample_rate, blended.sample_rate) == (24_000, 48_000)
    assert (plain.waveform[:, :20_000] - before.audio.waveform[:, :40_000:2]).abs().mean() > 0.01


@pytest.mark.slow
def test_the_same_seed_gives_the_same_clip(models):
    first, again, other = (ltx2.generate(models, "x", seed=seed, **SMALL).latent for seed in (1, 1, 2))
    assert torch.equal(first.video, again.video) and torch.equal(first.audio, again.audio)
    assert not torch.equal(first.video, other.video)


@pytest.mark.slow
def test_a_clip_is_the_same_with_as_little_of_the_card_as_every_stage_needs(models, monkeypatch):
    """Every network of every stage, streamed part by part through a ring for one."""
    calls = {"cache": False, "device": "cpu"}
    expected = ltx2.generate(models, "x", **SMALL, **calls)
    frames, placed, taken = expected.frames, [], []

    def tightest(need, room):
        weights = need.weights
        least = need.work_bytes + weights.parts.rest + max(weights.parts.sizes, default=0)
        placed.append(place(need, replace(room, budget=least)))
        return placed[-1]

    class Watched(Store):
        def _visit(self, *args, **kwargs):
            taken.append((self.card_bytes, self.budget))
            return super()._visit(*args, **kwargs)

    monkeypatch.setattr("ltx2_core.pipeline.plan.place", tightest)
    monkeypatch.setattr("ltx2_core.pipeline.engines.local.Store", Watched)
    clip = ltx2.generate(models, "x", vram=2**30, **SMALL, **calls)
    assert torch.equal(clip.frames, frames) and torch.equal(clip.waveform, expected.waveform)
    stages = {stage.need.name: stage for stage in placed}
    assert list(stages) == ["prompt", "features", "connectors", "sampling", "mel", "sound", "frames"]
    assert {name for name, stage in stages.items() if stage.slots == 1} == stages.keys()
    assert taken and [each for each in taken if each[0] > each[1]] == []  # (bytes on the card, budget)


@pytest.mark.slow
def test_what_does_not_fit_is_refused_before_anything_is_read(models, monkeypatch):
    monkeypatch.setattr("ltx2_core.pipeline.engines.prepare.build", None)
    with pytest.raises(ValueError, match=r"^prompt does not fit 0.3 GB, .* it needs"):
        ltx2.generate(models, "x", vram=2**28, device="cpu", cache=False)


@pytest.fixture(scope="module")
def run(models):
    """The sampler on the miniature transformer of 2.3 with every kind of guidance; returns the latent and all steps."""
    transformer = ltx2.build(models, "transformer", torch.float32)
    generator = torch.Generator().manual_seed(0)
    positive, negative = (
        Contexts(torch.randn(1, 128, 32, generator=generator), torch.randn(1, 128, 16, generator=generator))
        for _ in range(2)
    )
    guidance = Guidance(3, 2, 1, (1,), 0.5, cfg_star=True, nag_scale=2)

    def call(sampler, sigmas, start=None, network=transformer, **more):
        steps = []
        empty = AVLatent(torch.zeros(1, 128, 2, 2, 2), torch.zeros(1, 8, 9, 16))
        with torch.no_grad():
            latent = sample(
                network, empty if start is None else start, fps=Fraction(24), sigmas=sigmas, contexts=positive,
                negative=negative, video=guidance, audio=guidance, sampler=sampler, seed=5,
                on_step=lambda done, total, step: steps.append(step), **more,
            )  # fmt: skip
        return latent, steps

    return call


@pytest.mark.parametrize("sampler", [name for name, row in SAMPLERS.items() if not row.stochastic])
@pytest.mark.parametrize("cut", [1, 3])
@pytest.mark.sample(3)
def test_split_sampling_equals_whole_sampling(run, sampler, cut):
    sigmas = schedules.ltx2(5)
    whole, _ = run(sampler, sigmas)
    first, steps = run(sampler, schedules.slice_steps(sigmas, 0, cut))
    rest = schedules.slice_steps(sigmas, cut)
    second, _ = run(sampler, rest, first, add_noise=False, start_step=cut, last=steps[-1])
    assert same(second, whole)


def test_a_latent_that_is_still_noisy_is_handed_out_as_comfyui_does(run):
    sigmas = schedules.ltx2(5)
    whole, _ = run("euler", sigmas)
    first, steps = run("euler", sigmas[:4])
    core = steps[-1].latent * (1 / (1 - sigmas[3]))  # of ComfyUI's CONST: divided at the end, multiplied at the start
    assert_close(first.video, core.video)
    second, _ = run("euler", sigmas[3:], core, add_noise=False, start_step=3)
    assert_close(second.video, whole.video, rtol=1e-5, atol=1e-5)
    assert_close(second.audio, whole.audio, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.sample(2)
def test_every_sampler_is_repeatable_wherever_the_weights_are(run, models, sampler):
    whole, _ = run(sampler, schedules.ltx2(3))
    store = Store(ltx2.build(models, "transformer", torch.float32), "cpu", link=Plain("cpu"))
    store.set_budget(0)  # every block is copied when it runs
    with store.use() as network:
        streamed, _ = run(sampler, schedules.ltx2(3), network=network)
    assert same(streamed, whole)


@pytest.mark.slow
def test_progress_and_interruption(models):
    seen = []
    clip = ltx2.generate(models, "x", on_progress=lambda *report: seen.append(report), **SMALL)
    assert clip.frames is clip.frames
    assert seen == [
        ("prompt", 1, 2),
        ("prompt", 2, 2),
        ("sampling", 1, 2),
        ("sampling", 2, 2),
        ("sound", 1, 1),
        ("frames", 1, 1),
    ]

    calls = []

    def stop_before_the_second_block():  # four networks were built by then
        calls.append(None)
        if len(calls) == 6:
            raise InterruptedError

    del seen[:]
    with pytest.raises(InterruptedError):
        ltx2.generate(models, "x", check=stop_before_the_second_block, on_progress=lambda *r: seen.append(r), **SMALL)
    assert ("sampling", 1, 2) not in seen


def test_results_that_are_not_numbers_are_found_after_the_first_step(models, tmp_path):
    """Each weight of this file is a number; what is made with them is none."""
    source = models.files[0].path
    weights = load_file(source)
    weights["model.diffusion_model.transformer_blocks.1.ff.net.2.bias"].fill_(3e38)
    save_file(weights, tmp_path / "huge.safetensors", TensorFile(source).metadata)
    seen = []
    with pytest.raises(FloatingPointError, match="video is not a number after step 1 of sampling"):
        ltx2.generate(
            ltx2.open_models(tmp_path / "huge.safetensors", models.text_encoder), "x",
            on_progress=lambda *report: seen.append(report), **SMALL | {"steps": 5},
        )  # fmt: skip
    assert seen[-1][0] == "prompt"


def test_contexts_of_another_version_are_refused(models):
    transformer = ltx2.build(models, "transformer", torch.float32)
    latent = AVLatent(torch.zeros(1, 128, 2, 2, 2), torch.zeros(1, 8, 9, 16))
    wrong = Contexts(torch.zeros(1, 128, 24), torch.zeros(1, 128, 24))
    with pytest.raises(ValueError, match=r"contexts of width 24, this transformer reads 32.*one LTX-2 version"):
        sample(transformer, latent, fps=Fraction(24), sigmas=[1.0, 0.0], contexts=wrong)


def command(*arguments) -> int:
    return main([str(argument) for argument in arguments])


@pytest.mark.slow
def test_the_command_line_writes_a_clip(tmp_path, capsys):
    assert command("tiny", tmp_path, "--version", "2.3") == 0
    checkpoint, folder, _ = capsys.readouterr().out.split()
    target = tmp_path / "clip.mp4"
    model = ["--checkpoint", checkpoint, "--text-encoder", folder]
    size = ["--width", 64, "--height", 96, "--seconds", 0.7, "--fps", "23.976"]
    scales = ["--text-scale", 2, "--audio-text-scale", 4, "--cross-modal-scale", 1]
    how = ["--steps", 2, "--device", "cpu"]
    assert command("generate", "--prompt", "x", "--output", target, *model, *size, *scales, *how) == 0
    with av.open(str(target)) as file:
        video, audio = file.streams.video[0], file.streams.audio[0]
        assert video.average_rate == Fraction(24000, 1001) and (video.width, video.height, video.frames) == (64, 96, 17)
        assert audio.rate == 48000
        samples = np.concatenate([frame.to_ndarray() for frame in file.decode(audio=0)], axis=1)
    assert abs(samples.shape[1] - 17 * 1001 / 24000 * 48000) < 1024
    assert list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--steps", "0"], "steps is 0; it must be"),
        (["--fps", "fast"], "fps is 'fast'"),
        (
            ["--checkpoint", "nowhere.safetensors", "--text-encoder", "x"],
            "nowhere.safetensors; check the name, or download it first",
        ),
        (["--schedule", "distilled", "--steps", "12"], "steps is 12; the schedule distilled has exactly 8"),
    ],
)
def test_bad_input_is_one_sentence_and_no_file(arguments, sentence, tmp_path, capsys):
    target = tmp_path / "clip.mp4"
    assert command("generate", "--prompt", "x", "--output", target, "--device", "cpu", *arguments) == 2
    said = capsys.readouterr().err.strip()
    assert sentence in said and "\n" not in said and list(tmp_path.iterdir()) == []


def test_a_checkpoint_needs_a_text_encoder(models, tmp_path, capsys):
    assert (
        command("generate", "--prompt", "x", "--output", tmp_path / "x.mp4", "--checkpoint", models.files[0].path) == 2
    )
    assert "--checkpoint needs --text-encoder" in capsys.readouterr().err


@pytest.mark.slow
def test_control_c_leaves_nothing(tmp_path, capsys, monkeypatch):
    from ltx2_core.cli import progress

    def interrupted(self, stage, done, total):
        if stage == "frames":
            raise KeyboardInterrupt

    monkeypatch.setattr(progress.Bars, "report", interrupted)
    target = tmp_path / "clip.mp4"
    target.write_text("an older clip")
    assert command("generate", "--prompt", "x", "--output", target, "--steps", 1, "--text-scale", 1,
                   "--cross-modal-scale", 1, "--device", "cpu") == 130  # fmt: skip
    assert target.read_text() == "an older clip" and [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


@pytest.mark.slow
def test_neither_torchaudio_nor_comfyui_is_needed(tmp_path):
    program = f"""
import sys
for name in ("torchaudio", "comfy", "comfy_api", "folder_paths", "nodes", "server", "ltx_core", "diffusers"):
    sys.modules[name] = None
from ltx2_core.__main__ import main
output = {str(tmp_path / "clip.mp4")!r}
flags = ["--steps", "1", "--text-scale", "1", "--device", "cpu"]
sys.exit(main(["generate", "--prompt", "x", "--output", output, *flags]))
"""
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-c", program], check=True, cwd=root, capture_output=True, timeout=300)
    assert (tmp_path / "clip.mp4").stat().st_size > 1000


@pytest.mark.slow
def test_findings_are_told_and_stop_nothing(models, tmp_path, capsys):
    source = models.files[0].path
    weights = load_file(source)
    for key in weights:  # a vocoder that says nothing
        if key.startswith("vocoder.") and ("conv_post" in key or "bwe_generator" in key):
            weights[key] = weights[key] * 0
    save_file(weights, tmp_path / "mute.safetensors", TensorFile(source).metadata)
    mute = ltx2.open_models(tmp_path / "mute.safetensors", models.text_encoder)
    told = []
    clip = ltx2.generate(mute, "x", on_finding=told.append, **SMALL)
    assert clip.frames.shape[0] == 9 and any("silent" in str(finding) for finding in told)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda odd, models: ltx2.run(odd, Request("x")), "models"),
        (lambda odd, models: ltx2.run(models, odd), "request"),
        (lambda odd, models: ltx2.run_batch(models, Request("x"), events=odd), "events"),
        (lambda odd, models: ltx2.Events(on_progress=odd), "on_progress"),
        (lambda odd, models: ltx2.generate(models, "x", check=odd), "check"),
        (lambda odd, models: ltx2.build(odd, "vocoder"), "models"),
        (lambda odd, models: ltx2.build(models, odd), "name"),
        (lambda odd, models: ltx2.build(models, "vocoder", device=odd), "device"),
        (lambda odd, models: ltx2.build(models, "transformer", format=odd), "format"),
        (lambda odd, models: ltx2.open_models(odd), "The checkpoint"),
        (lambda odd, models: ltx2.open_models("miniature", odd), "text_encoder"),
        (lambda odd, models: ltx2.open_models("miniature", distilled=odd), "distilled"),
        (lambda odd, models: load_take(odd), "The latent"),
        (lambda odd, models: save_take(odd, Take(AVLatent(torch.zeros(1, 128, 1, 2, 2), None))), "The latent"),
        (lambda odd, models: write_clip(odd, [], 24), "The file to be written"),
        (lambda odd, models: write_video(odd, [], 24), "The video"),
        (lambda odd, models: write_audio(odd, torch.zeros(2, 9), 24000), "The sound file"),
        (lambda odd, models: write_frames(odd, []), "The folder of frames"),
    ],
)
@pytest.mark.parametrize(
    "odd", [5, torch.zeros(2), np.zeros(2), object(), {"a": 1}], ids=lambda odd: type(odd).__name__
)
def test_what_is_of_another_kind_is_told_at_the_door(call, name, odd, models):
    with pytest.raises(SettingError, match=f"^{name} is "):
        call(odd, models)


@pytest.mark.parametrize(
    "read", [read_tags, read_picture, load_take, ltx2.open_models, partial(ltx2.open_models, "miniature")]
)
@pytest.mark.parametrize("name", [f"{'n' * 300}.png", f"{'n' * 300}.exr", "/" + 5000 * "n"])
def test_a_name_that_is_too_long_to_be_there_is_told(read, name):
    with pytest.raises(LTX2Error, match="too long"):
        read(name)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: save_take(path, Take(AVLatent(torch.zeros(1, 128, 1, 2, 2), None))),
        lambda path: write_clip(path, [], 24),
        lambda path: write_video(path, [], 24),
        lambda path: write_audio(path, torch.zeros(2, 9), 24000),
        lambda path: write_frames(path, []),
        lambda path: shrink_lora(BUILT_IN, path),
    ],
)
def test_a_name_with_a_zero_in_it_is_told(write, tmp_path):
    with pytest.raises(SettingError, match="the path of a file or of a folder was expected"):
        write(tmp_path / "a\0b.safetensors")
