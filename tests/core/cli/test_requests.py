"""Flags become a request."""

import logging
import math
import sys
from fractions import Fraction
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

import ltx2_core as ltx2
from ltx2_core.checkpoint.models import MINIATURE
from ltx2_core.checkpoint.upscaler import BUILT_IN
from ltx2_core.cli import conditions
from ltx2_core.cli.arguments import decoding_of, request_of
from ltx2_core.cli.parser import build_parser, parse
from ltx2_core.conditioning import Frozen, ReferenceAudioTokens
from ltx2_core.conditioning.conditions import KeepAudio, KeepVideo, ReferenceAudio
from ltx2_core.conditioning.sources import AudioSource
from ltx2_core.errors import MediaError, SettingError
from ltx2_core.media import write_audio, write_video
from ltx2_core.pipeline.generate import recipe_of
from ltx2_core.sampling import Guidance, GuidanceBySigma, ScheduleSettings, TileSettings
from ltx2_core.sampling.windows import Segment, Windowing
from ltx2_core.settings import ClipSettings, Enhancing, Request, Resources, SamplingSettings, SecondStage

FPS = Fraction(24)
FRAMES = torch.rand(33, 64, 96, 3, generator=torch.Generator().manual_seed(0))
SOUND = AudioSource(torch.rand(2, 48_000, generator=torch.Generator().manual_seed(1)) - 0.5, 24_000)
LORA = MINIATURE / "loras" / "light-room.safetensors"
IC_LORA = MINIATURE / "loras" / "ic-motion.safetensors"
COLON = "ab.png" if sys.platform == "win32" else "a:b.png"  # there the path begins with one


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A video with sound, one without, a sound, and a picture."""
    folder = tmp_path_factory.mktemp("media")
    write_video(folder / "film.mp4", [FRAMES], FPS, SOUND.waveform[:, :33_000], 24_000)
    write_video(folder / "silent.mp4", [FRAMES], FPS)
    write_audio(folder / "sound.wav", SOUND.waveform, 24_000)
    Image.new("RGB", (96, 64), "white").save(folder / COLON)
    return folder


@pytest.fixture
def asked(miniature):
    """What flags become: a function from words to a request."""

    def read(*words) -> Request:
        words = ["generate", "--output", "x.mp4", "--prompt", "x", *map(str, words)]
        return request_of(parse(words), miniature)

    return read


def test_a_dub_is_the_official_recipe(asked, folder):
    """Two stages, both with the video; the second holds the sound of the first and has it as the voice."""
    film = folder / "film.mp4"
    request = asked("--dub", f"{film}:strength=0.9,start=0.5", "--upscaler", BUILT_IN)
    assert request.clip == ClipSettings(128, 64, 17, FPS)  # of 96 x 64, to multiples of 64
    voice, video = request.conditions
    assert (video.strength, video.video.start) == (0.9, 0.5) and isinstance(voice, ReferenceAudio)
    assert voice.audio.seconds == pytest.approx(33_000 / 24_000 - 0.5, abs=0.05)
    second = request.second
    assert second.refine and second.keep_references and second.sound == "hold and refer"
    assert second.given(request.conditions) == (video,)
    assert [type(each) for each in second.held] == [ReferenceAudioTokens, Frozen]
    assert asked("--dub", film, "--upscaler", BUILT_IN, "--refine-sound", "refine", "--frames", 9).second.held == ()
    with pytest.raises(SettingError, match="leave --source and --audio out"):
        asked("--dub", film, "--source", film, "--audio", folder / "sound.wav")


def test_settings_are_those_that_were_written(asked):
    request = asked("--width", 64, "--frames", 9, "--seed", 3, "--sampler", "heun", "--steps", 4, "--schedule", "beta",
                    "--start-step", 1, "--no-add-noise", "--noise-order", "comfyui", "--batched-passes", "--vram", 2,
                    "--precision", "bf16", "--no-cache", "--device", "cpu", "--picture-only", "--denoise", 0.5,
                    "--negative", "y", "--fps", "23.976", "--max-shift", 3)  # fmt: skip
    clip = ClipSettings(64, frames=9, fps=Fraction(24000, 1001), streams="picture only")
    assert request.clip == clip and request.negative == "y"
    assert request.sampling == SamplingSettings(3, "heun", 1, 0, False, "comfyui", True)
    assert request.schedule == ScheduleSettings(4, "beta", max_shift=3, denoise=0.5)
    assert request.resources == Resources("cpu", 2, precision="bf16", cache=False) and request.resources.vram == 2**31
    assert request.second == SecondStage(refine=False) and request.tiling is None and request.long is None


def test_what_is_not_written_follows_the_recipe(asked, miniature):
    recipe = recipe_of(miniature)
    whole = asked().completed(recipe)
    assert whole.guidance == recipe.guidance and whole.sigmas == recipe.sigmas()
    assert asked().clip == ClipSettings() and asked().schedule == ScheduleSettings()


def test_sigmas_take_the_place_of_a_schedule(asked):
    assert asked("--sigmas", "1, 0.5, 0").schedule.schedule == "custom"
    assert asked("--sigmas", "1, 0.5, 0").completed(recipe_of(ltx2.open_models("miniature"))).sigmas == [1, 0.5, 0]
    with pytest.raises(SettingError, match="leave out --schedule beta"):
        asked("--sigmas", "1, 0", "--schedule", "beta")


def test_guidance_of_a_stream_counts_before_the_common_one(asked):
    guidance = asked("--text-scale", 4, "--audio-text-scale", 6, "--cfg-star", "--video-stg-blocks", 1, 2,
                     "--stg-blocks", 3, "--no-audio-cfg-star", "--video-skip-steps", 1, "--apg-limit", 5,
                     "--nag-limit", 3, "--nag-blend", 0.5).guidance  # fmt: skip
    video, audio = guidance.video, guidance.audio
    assert (video.text_scale, audio.text_scale) == (4, 6) and (video.cfg_star, audio.cfg_star) == (True, False)
    assert (video.stg_blocks, audio.stg_blocks) == ((1, 2), (3,)) and (video.skip_steps, audio.skip_steps) == (1, 0)
    assert (audio.apg_limit, audio.nag_limit, audio.nag_blend) == (5, 3, 0.5)


@pytest.mark.parametrize(("words", "blocks"), [(["1,2"], (1, 2)), (["1", "2"], (1, 2)), (["0-2+3"], (0, 1, 2, 3))])
def test_blocks_are_written_as_their_help_says(asked, words, blocks):
    assert asked("--stg-blocks", *words).guidance.audio.stg_blocks == blocks


def test_blocks_may_be_left_to_the_recipe(asked):
    assert asked("--stg-blocks", "auto") == asked()


def test_guidance_changes_with_the_noise_level(asked):
    guidance = asked(
        "--guidance-up-to",
        "0.4:stg-scale=1,stg_blocks=0-1+3",
        "--guidance-up-to",
        "video:0.8:text_scale=2",
        "--guidance-up-to",
        "audio:cfg_star=yes",
        "--text-scale",
        5,
    ).guidance
    assert isinstance(guidance.video, GuidanceBySigma) and isinstance(guidance.audio, GuidanceBySigma)
    assert [guidance.video.at(sigma).text_scale for sigma in (1, 0.9, 0.8, 0.4)] == [5, 5, 2, 2]
    assert [guidance.audio.at(sigma).text_scale for sigma in (1, 0.4)] == [5, 5] and guidance.audio.at(1).cfg_star
    assert guidance.video.at(0.4).stg_blocks == (0, 1, 3) and guidance.video.at(0.5).stg_scale == 0
    everywhere = asked("--guidance-up-to", "1:text_scale=2").guidance
    assert isinstance(everywhere.video, Guidance) and everywhere.video.text_scale == 2


def test_pictures(asked, folder):
    path, colon = folder / COLON, "--image"
    pictures = asked(colon, f"0:{path}", colon, f"-1:{path}:0.5", colon, f"8:{path}:0.7:20", "--compression", 0,
                     colon, f"0:{path}:append=yes,strength=0.25").conditions  # fmt: skip
    assert [(each.frame, each.strength, each.compression, each.append) for each in pictures] == [
        (0, 1, 0, False),
        (-1, 0.5, 0, False),
        (8, 0.7, 20, False),
        (0, 0.25, 0, True),
    ]
    Image.new("RGB", (96, 64), "white").save(folder / "plain.png")
    assert [each.frame for each in asked(colon, folder / "plain.png").conditions] == [0]
    with pytest.raises(SettingError, match="write PATH, FRAME:PATH"):
        asked(colon, "")
    with pytest.raises(SettingError, match="strength is 2"):
        asked(colon, f"0:{path}:2")


def test_a_source_says_size_length_and_rate(asked, folder, caplog):
    caplog.set_level(logging.INFO, "ltx2_core")
    film, silent = folder / "film.mp4", folder / "silent.mp4"
    request = asked("--source", film, "--retake", "0.5:1", "--only", "sound")
    assert request.clip == ClipSettings(96, 64, 33, FPS) and "film.mp4 as 96 x 64, 33 frames at 24 fps." in caplog.text
    begin, retake = request.conditions
    assert begin.audio is not None and (retake.start, retake.end, retake.streams) == (0.5, 1, "sound")
    begin, retake = asked("--source", silent, "--retake", "0.5:1").conditions
    assert begin.audio is None and retake.streams == "picture and sound" and "without sound" in caplog.text
    assert asked("--video", film, "--seconds", 1).clip.asked_frames == 25 and "25 frames." in caplog.text
    assert asked("--video", film, "--fps", 12).clip.asked_frames == 17
    assert asked("--video", film, "--frames", 1).clip.asked_frames == 1 and "64, 1 frame at 24 fps." in caplog.text
    assert asked("--video", f"{film}:start=0.5").clip.asked_frames == 17
    assert asked("--video", f"{film}:seconds=0").clip.asked_frames == 33
    for flag in ("--source", "--video"):
        with pytest.raises(MediaError, match=r"film\.mp4 has no picture at 9 s"):
            asked(flag, f"{film}:start=9")


def test_sounds_are_read_from_a_moment_on(asked, folder):
    keep, voice = asked("--audio", f"{folder / 'sound.wav'}:start=0.5,seconds=1", "--audio-noise", 0.2,
                        "--reference-audio", f"{folder / 'sound.wav'}:strength=0.5,seconds=0.5").conditions  # fmt: skip
    assert keep.audio.seconds == 1 and keep.noise == 0.2
    assert voice.strength == 0.5 and voice.audio.seconds == 0.5
    assert asked("--audio", folder / "sound.wav").conditions[0].noise == 0


def test_a_prompt_is_enhanced_where_that_is_asked_for(asked):
    assert asked("--enhance", "--enhance-wording", 3).enhance == Enhancing(wording=3)
    assert asked("--enhance-wording", 3).enhance is None


def test_a_latent_that_was_kept_is_decoded_with_a_sound_and_a_video_that_are_given(miniature, folder):
    words = ["generate", "--output", "x.mp4", "--audio", str(folder / "sound.wav"), "--video", str(folder / "film.mp4")]
    options = parse(words)
    options.asked, options.take = options.values, SimpleNamespace(fps=FPS)  # as where there is a latent
    given = decoding_of(options, miniature, build_parser()[1]["generate"]).conditions
    assert [type(each) for each in given] == [KeepAudio, KeepVideo]


@pytest.mark.parametrize(("known", "told"), [(FPS, True), (None, False)])
def test_a_latent_that_knows_its_rate_has_no_other(miniature, caplog, known, told):
    options = parse(["generate", "--output", "x.mp4", "--fps", "30"])
    options.asked, options.take = options.values, SimpleNamespace(fps=known)
    assert decoding_of(options, miniature, build_parser()[1]["generate"]).clip.fps == 30
    assert ("--fps is not used: a latent that was kept is only decoded." in caplog.text) == told


def test_references(asked, folder):
    film = folder / "film.mp4"
    loose = f"{film}:strength=0.5,attention=0.25,downscale=2,temporal-scale=4,start=1,grow=5,grow-frames=1"
    first, second = asked("--reference-video", loose, "--reference-video", film,
                          "--reference-mask", folder / "silent.mp4",
                          "--reference-fill", folder / COLON).conditions  # fmt: skip
    assert (first.strength, first.attention, first.downscale, first.temporal_scale) == (0.5, 0.25, 2, 4)
    assert first.video.start == 1 and first.mask.shape == (33, 64, 96)
    assert first.fill.shape == (1, 64, 96) and (first.grow, first.grow_frames, second.fill) == (5, 1, None)
    assert (second.strength, second.downscale, second.mask) == (1, 1, None)
    wider = asked("--reference-video", f"{film}:outpaint=left,margin=0.25", "--blend", "--blend-radius", 3)
    assert (wider.conditions[0].outpaint, wider.conditions[0].margin, wider.blend.radius) == ("left", 0.25, 3)
    (as_trained,) = asked("--reference-video", film, "--lora", IC_LORA).conditions
    assert as_trained.downscale == ltx2.lora.open_lora(IC_LORA).downscale


def test_tracks_are_drawn_for_the_clip_or_for_the_size_that_is_said(asked, tmp_path):
    file = tmp_path / "tracks.json"
    file.write_text('[{"x": 10, "y": 20}]')
    size = ("--width", 96, "--height", 64, "--frames", 9)
    own, other = asked("--tracks", file, "--tracks", f"{file}:width=48,height=32,strength=0.5", *size,
                       "--lora", IC_LORA).conditions  # fmt: skip
    assert own.video.size() == (96, 64) and own.video.count(FPS) == 9 and own.strength == 1
    assert other.video.size() == (48, 32) and other.video.count(FPS) == 9 and other.strength == 0.5
    assert own.downscale == other.downscale == ltx2.lora.open_lora(IC_LORA).downscale
    with pytest.raises(SettingError, match="height, frames"):
        asked("--tracks", f"{file}:width=48")


def test_a_mask_is_a_picture_or_a_video(asked, folder):
    film = folder / "film.mp4"
    _, region = asked("--source", film, "--mask", folder / COLON, "--feather", 2).conditions
    assert region.mask.shape == (1, 64, 96) and region.mask.min() == 1 and region.feather == 2 and not region.sound
    _, region = asked("--source", film, "--mask", film, "--mask-sound").conditions
    assert region.mask.shape == (33, 64, 96) and region.sound


def test_loras_are_opened_and_compared(asked, caplog):
    caplog.set_level(logging.INFO, "ltx2_core")
    ((lora, strengths),) = asked("--lora", f"{LORA}:0.8:video=1,audio=0,blocks=0-1+3,schedule=1.0@1;0.5@0.3").loras
    assert lora.path == LORA and (strengths.audio, strengths.video, strengths.blocks) == (0, 1, {0, 1, 3})
    assert math.isclose(strengths.schedule(0.75), 0.65) and "light-room.safetensors: LoRA" in caplog.text
    with pytest.raises(SettingError, match=r"auio.*Did you mean audio"):
        asked("--lora", f"{LORA}:1:auio=0")


def test_long_clips(asked, tmp_path, miniature):
    path = tmp_path / "segments.txt"
    path.write_text("# a story\n0 a red ball\n\n2.5: a green ball\n")
    segments = (Segment(0, "a red ball"), Segment(2.5, "a green ball"))
    long = asked("--segments", path, "--resume", tmp_path).long
    assert (long.windowing, long.segments, long.resume) == (Windowing(), segments, tmp_path)
    assert asked(
        "--window", 33, "--overlap", 8, "--overlap-strength", 0.5, "--drift", 0.25
    ).long.windowing == Windowing(window=33, overlap=8, overlap_strength=0.5, drift_control=0.25)
    assert asked("--overlap", 8).long is None
    words = ["generate", "--output", "x.mp4"]
    assert request_of(parse([*words, "--segments", str(path)]), miniature).prompt == "a red ball"
    with pytest.raises(SettingError, match="There is no prompt"):
        request_of(parse(words), miniature)


def test_a_second_stage(asked):
    request = asked("--upscale", 2, "--refine", "--tiles", "1x2x3", "--tile-overlap", 64, "--tile-mode", "one-by-one",
                    "--refine-sound", "as the recipe", "--refine-noise-scale", 0.5, "--refine-sigmas", "0.5, 0.2, 0",
                    "--refine-guidance", "audio:text_scale=2")  # fmt: skip
    second = request.second
    assert second.refine and [file.config.space for file in second.upscalers] == [2]
    assert second.tiles == TileSettings(columns=3, rows=2, intervals=1, overlap=64, mode="one by one")
    assert (second.sound, second.noise_scale, second.sigmas) == ("as the recipe", 0.5, (0.5, 0.2, 0.0))
    assert (second.guidance.video.text_scale, second.guidance.audio.text_scale) == (1, 2)
    assert asked("--tiles", "auto").second.tiles is None
    with pytest.raises(SettingError, match=r"enlarges by 2, but --upscale is 1\.5"):
        asked("--upscale", 1.5)


def test_the_distilled_lora_is_opened_where_it_has_a_strength(asked, monkeypatch, tmp_path):
    assert asked("--refine").second.lora is None
    second = asked("--refine", "--distilled-lora", LORA, "--distilled-lora-refine-strength", 0.5).second
    assert second.lora.path == LORA and second.distilled_lora_refine_strength == 0.5
    second = asked("--distilled-lora", LORA, "--distilled-lora-strength", 0.25).second
    assert second.lora.path == LORA and second.distilled_lora_strength == 0.25
    monkeypatch.setenv("LTX2_CACHE", str(tmp_path))
    smaller = asked("--distilled-lora", f"{LORA}:energy=0.9", "--distilled-lora-strength", 0.25).second.lora
    assert smaller.path.name == LORA.name and smaller.file.nbytes < second.lora.file.nbytes
    with pytest.raises(SettingError, match="energy is 2"):
        asked("--distilled-lora", f"{LORA}:energy=2", "--distilled-lora-strength", 0.25)


def test_tiles_to_decode_in(asked):
    tiling = asked("--decode-tile-size", 512, "--decode-tile-frames", 40, "--decode-frame-overlap", 16).tiling
    assert (tiling.tile_size, tiling.tile_frames, tiling.frame_overlap) == (512, 40, 16)
    assert asked("--decode-tile-size", 0, "--decode-tile-overlap", 32).tiling is None


def test_a_video_of_no_rate_for_clips_is_named(asked, tmp_path):
    film = write_video(tmp_path / "fast.mp4", [FRAMES], Fraction(480))
    with pytest.raises(SettingError, match=r"fast\.mp4 has 480 frames per second, a clip 1 to 240: .* --fps"):
        asked("--source", film)
    assert asked("--source", film, "--fps", 24, "--frames", 9).clip.fps == 24


def test_reading_flags_prints_nothing(asked, folder, capsys):
    asked("--source", folder / "silent.mp4", "--lora", LORA, "--seconds", 1)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", ["gif", "png"])
def test_a_mask_may_be_a_picture_that_moves(tmp_path, suffix):
    black, white = (Image.new("L", (64, 32), shade) for shade in ("black", "white"))
    black.save(tmp_path / f"moving.{suffix}", save_all=True, append_images=[white], duration=200)
    found = conditions.read_mask(tmp_path / f"moving.{suffix}", Fraction(10), 9)
    assert found.amax((1, 2)).round().tolist() == [0, 0, 1, 1]
    white.save(tmp_path / f"still.{suffix}")
    assert conditions.read_mask(tmp_path / f"still.{suffix}").shape == (1, 32, 64)
