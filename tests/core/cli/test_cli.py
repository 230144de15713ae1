"""The command line: every setting has a flag, and flags become a request."""

import logging
import math
import re
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from surfaces import OF_THE_HOST, OTHER_INPUTS, all_settings, flags_by_setting, inputs_by_node, table, widgets

import ltx2_core as ltx2
from ltx2_core.checkpoint.models import MINIATURE
from ltx2_core.checkpoint.upscaler import BUILT_IN
from ltx2_core.cli import commands, conditions, main, syntax
from ltx2_core.cli.arguments import decoding_of, request_of
from ltx2_core.cli.parser import build_parser, join_image_flags, parse
from ltx2_core.cli.progress import Bars, shown_log
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
WINDOWS_PATH = r"C:\clips\cat.png"
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


# Every setting has a flag


def test_every_setting_can_be_reached_from_the_command_line_and_on_the_graph():
    rows = table()
    assert len(rows) > 100
    assert [setting for setting, flag, inputs in rows if not flag or not inputs] == []
    known = {f"{node}.{name}" for node, names in inputs_by_node().items() for name in names}
    known |= {each.rpartition("_")[0] for each in known if each[-1].isdigit()}  # strength_1, strength_2, ...
    drawn = {each for _, _, inputs in rows for each in inputs.split(", ") if each.startswith("LTX2AV")}
    assert drawn <= known
    assert not {*OTHER_INPUTS, *OF_THE_HOST} & set(widgets())
    assert {*OTHER_INPUTS, *OF_THE_HOST} <= set(all_settings())


def test_flags_of_the_table_exist_and_are_on_the_help_page():
    parser, found = build_parser()
    makers = found["generate"], found["compare"], found["batch"]
    text = "".join(each.parser.format_help() for each in makers)
    for flag in flags_by_setting().values():
        assert any(flag in each.flags for each in makers)
        assert re.sub("^--(video|audio)-", "--", flag) in text
    assert "generate" in parser.format_help() and "--video-apg-limit" in found["generate"].flags


def test_the_help_page_has_groups_limits_defaults_and_examples():
    text = " ".join(build_parser()[1]["generate"].parser.format_help().split())
    titles = ["what", "size and length", "conditions", "sampling", "guidance", "LoRAs", "long clips", "second stage"]
    places = [text.index(f" {title}: ") for title in [*titles, "decoding", "machine", "examples"]]
    assert places == sorted(places)
    for note in ("1 to 2881 frames", "default: 24", "default: on", "0 to 1024 GB", "default: as the recipe"):
        assert note in text


@pytest.mark.parametrize(
    "command", ["generate", "batch", "inspect", "plan", "convert", "lora", "sign", "check", "tiny"]
)
def test_help_is_shown(command, capsys):
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0 and command in capsys.readouterr().out


FLAGS_BEFORE = """
--prompt --negative --output --checkpoint --text-encoder --width --height --frames --seconds --fps --image
--compression --audio --audio-noise --video --reference-video --reference-audio --source --retake --only --mask
--feather --sound-only --segments --window --overlap --drift --resume --steps --schedule --sampler --seed
--text-scale --video-text-scale --audio-text-scale --cross-modal-scale --video-cross-modal-scale
--audio-cross-modal-scale --stg-scale --video-stg-scale --audio-stg-scale --rescale --video-rescale --audio-rescale
--nag-scale --video-nag-scale --audio-nag-scale --apg-parallel --video-apg-parallel --audio-apg-parallel --stg-blocks
--format --lora --hq --upscale --upscaler --temporal-upscaler --refine --tiles --distilled-lora --device --vram --ram
--no-cache
"""


def test_no_flag_was_lost():
    assert set(FLAGS_BEFORE.split()) <= set(build_parser()[1]["generate"].flags)


# Flags become a request


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


# What people write in one word


def test_windows_paths_survive():
    whole = {"frame": -1, "strength": 0.5, "compression": 20}
    assert syntax.parse_picture(f"-1:{WINDOWS_PATH}:0.5:20") == (WINDOWS_PATH, whole)
    assert syntax.parse_picture(f"0:{WINDOWS_PATH}") == (WINDOWS_PATH, {"frame": 0})
    assert syntax.parse_picture(f"0:{WINDOWS_PATH}:compression=20") == (WINDOWS_PATH, {"frame": 0, "compression": 20})
    assert syntax.parse_file(WINDOWS_PATH, "start") == (Path(WINDOWS_PATH), {})
    assert syntax.parse_file(f"{WINDOWS_PATH}:start=2", "start") == (Path(WINDOWS_PATH), {"start": 2})
    for text, strength in (("", 1), (":0.8", 0.8), (":0.8:audio=0", 0.8), (":audio=0", 1)):
        path, strengths, _ = syntax.parse_lora(f"{WINDOWS_PATH}{text}", 4)
        assert path == Path(WINDOWS_PATH) and strengths == type(strengths)(strength, audio=0 if "audio" in text else 1)


def test_loras_over_the_run():
    _, strengths, _ = syntax.parse_lora("a.safetensors:schedule=0@1+4@0.5,schedule_over=steps,blocks=all", 4)
    assert strengths.schedule_over == "steps" and strengths.schedule(2) == 0.75 and strengths.blocks is None


@pytest.mark.parametrize(
    ("read", "text", "facts"),
    [
        (syntax.whole_number, "2.5", ["'2.5'", "whole"]),
        (syntax.number, "x", ["'x'"]),
        (syntax.switch, "maybe", ["'maybe'"]),
        (syntax.blocks, "0-x", ["'x'"]),
        (syntax.sigmas, "1, 2", ["2"]),
        (syntax.parse_tiles, "2x2", ["'2x2'", "1x2x2"]),
        (syntax.parse_tiles, "0x1x1", ["'0x1x1'"]),
        (syntax.parse_tiles, "axb", ["'axb'", "1x2x2"]),
        (syntax.parse_picture, "0:r.png:-1", ["'0:r.png:-1'", "strength is -1"]),
        (syntax.parse_picture, "0:r.png:nan", ["'0:r.png:nan'", "strength is nan"]),
        (syntax.parse_picture, "0:r.png:2", ["'0:r.png:2'", "strength is 2", "between 0 and 1"]),
        (syntax.parse_picture, "0:r.png:1.0.0", ["'1.0.0'", "strength"]),
        (syntax.parse_picture, "0:r.png:0,9", ["'0,9'", "strength"]),
        (syntax.parse_picture, "0:r.png:1:99", ["compression is 99", "51"]),
        (syntax.parse_picture, "1.5:r.png", ["frame", "'1.5'", "whole"]),
        (syntax.parse_picture, "r.png:strength=1,strength=0", ["strength twice"]),
        (syntax.parse_picture, "0:r.png:0.9:1:3", ["'0:r.png:0.9:1:3'", "0.9 is one too many"]),
        (lambda text: syntax.parse_lora(text, 4), "a.safetensors:nan", ["'a.safetensors:nan'", "strength is nan"]),
        (lambda text: syntax.parse_lora(text, 4), "a.safetensors:1.0.0", ["'1.0.0'", "strength"]),
        (lambda text: syntax.parse_lora(text, 4), "a.safetensors:1:2", ["1 is one too many"]),
        (lambda text: syntax.parse_lora(text, 4), "a:1:energy=0", ["energy is 0", "between 0.1 and 1"]),
        (lambda text: syntax.parse_lora(text, 4), "a:1:energy=1.5", ["energy is 1.5", "between 0.1 and 1"]),
        (lambda text: syntax.parse_lora(text, 4), "a:1:energy=nan", ["energy is nan"]),
        (lambda text: syntax.parse_lora(text, 4), "a:1:energy=most", ["energy", "'most'"]),
        (syntax.parse_guidance, "text_scale", ["text_scale", "0.8:"]),
        (syntax.parse_guidance, "0.8:tex_scale=1", ["tex_scale", "Did you mean text_scale?"]),
        (syntax.parse_guidance, "0.8:text_scale=high", ["text_scale", "'high'"]),
        (lambda text: syntax.parse_lora(text, 4), "a:1:blocks=7", ["7", "4 blocks"]),
        (syntax.parse_range, "1", ["START:END"]),
        (syntax.parse_range, "2:1", ["2 s to 1 s"]),
    ],
)
def test_what_cannot_be_read_is_one_sentence(read, text, facts):
    with pytest.raises(ValueError) as error:
        read(text)
    assert all(fact in str(error.value) for fact in facts) and "\n" not in str(error.value)


def test_segments_that_cannot_be_read(tmp_path):
    path = tmp_path / "segments.txt"
    for text, fact in (
        ("a red ball", "Line 1 of segments.txt is 'a red ball'"),
        ("# nothing", "no segment"),
        ("0:75 a red ball", "Line 1 of segments.txt is '0:75 a red ball'"),
        ("0:0:0:1 a red ball", "minutes:seconds"),
        ("0 a red ball\n-3 a blue one", "Line 2 of segments.txt: start is -3"),
    ):
        path.write_text(text)
        with pytest.raises(SettingError, match=fact):
            syntax.read_segments(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
def test_segments_are_read_as_editors_and_shells_write_them(tmp_path, encoding):
    path = tmp_path / "segments.txt"
    path.write_bytes(
        "0 a caf\u00e9\r\n\r\n# later\r\n  2.5s\ta dog\t barks\r\n00:09.5: x\r\n0:01:02 y\r\n63,5 z".encode(encoding)
    )
    segments = [(0, "a caf\u00e9"), (2.5, "a dog\t barks"), (9.5, "x"), (62, "y"), (63.5, "z")]
    assert [(each.start, each.prompt) for each in syntax.read_segments(path)] == segments


def test_a_time_may_be_written_on_any_keyboard(tmp_path):
    (tmp_path / "segments.txt").write_text("\uff11\uff1a\uff10\uff12 a", encoding="utf-8")
    assert syntax.read_segments(tmp_path / "segments.txt")[0].start == 62


def test_a_frame_from_the_end_is_no_flag():
    assert join_image_flags(["--image", "-1:a.png", "--image", "0:b"]) == ["--image=-1:a.png", "--image", "0:b"]
    assert join_image_flags([]) == []


# The commands


def test_generate_hands_the_request_over_and_writes_the_clip(tmp_path, capsys, monkeypatch):
    requests = []

    def run_batch(models, request, events):
        requests.append(request)
        events.on_progress("sampling", 1, 2)
        events.on_finding("It is silent.")
        clip = SimpleNamespace(chunks=(FRAMES,), fps=FPS, waveform=None, sample_rate=None, tags={}, grading=None)
        return [clip] * request.clip.batch_size

    monkeypatch.setattr(commands, "run_batch", run_batch)
    target = tmp_path / "clip.mp4"
    assert main(["generate", "--prompt", "x", "--output", str(target), "--lora", f"{LORA}:0.5", "--seconds", "1"]) == 0
    said = capsys.readouterr()
    assert said.out.strip() == str(target) and target.is_file() and requests[0].prompt == "x"
    assert "light-room.safetensors: LoRA" in said.err and "1 s at 24 fps: 25 frames." in said.err
    assert "It is silent." in said.err and "sampling" in said.err
    assert main(["generate", "--prompt", "x", "--output", str(target), "--batch-size", "2"]) == 0
    several = [tmp_path / "clip_1.mp4", tmp_path / "clip_2.mp4"]
    assert capsys.readouterr().out.split() == list(map(str, several)) and all(path.is_file() for path in several)


@pytest.mark.parametrize("suffix", ["gif", "png"])
def test_a_mask_may_be_a_picture_that_moves(tmp_path, suffix):
    black, white = (Image.new("L", (64, 32), shade) for shade in ("black", "white"))
    black.save(tmp_path / f"moving.{suffix}", save_all=True, append_images=[white], duration=200)
    found = conditions.read_mask(tmp_path / f"moving.{suffix}", Fraction(10), 9)
    assert found.amax((1, 2)).round().tolist() == [0, 0, 1, 1]
    white.save(tmp_path / f"still.{suffix}")
    assert conditions.read_mask(tmp_path / f"still.{suffix}").shape == (1, 32, 64)


def test_a_video_of_no_rate_for_clips_is_named(asked, tmp_path):
    film = write_video(tmp_path / "fast.mp4", [FRAMES], Fraction(480))
    with pytest.raises(SettingError, match=r"fast\.mp4 has 480 frames per second, a clip 1 to 240: .* --fps"):
        asked("--source", film)
    assert asked("--source", film, "--fps", 24, "--frames", 9).clip.fps == 24


def test_flags_that_count_only_with_another_one_are_told(tmp_path, caplog, monkeypatch):
    clip = SimpleNamespace(chunks=(FRAMES,), fps=FPS, waveform=None, sample_rate=None, tags={}, grading=None)
    monkeypatch.setattr(commands, "run_batch", lambda *given, **events: [clip])
    words = ["generate", "--prompt", "x", "--output", str(tmp_path / "clip.mp4"), "--tiles", "1x2x2", "--feather", "2"]
    for more, told in [([], {"tiles": "refine", "feather": "mask"}), (["--refine"], {"feather": "mask"})]:
        caplog.clear()
        assert main([*words, *more]) == 0
        wanted = {f"--{flag} is not used: it counts only with --{other}." for flag, other in told.items()}
        assert {record.message for record in caplog.records if "is not used" in record.message} == wanted
    caplog.clear()
    assert main([*words[:5], "--overlap", "8", "--sigmas", "1,0.5,0", "--steps", "4", "--max-shift", "3"]) == 0
    told = {record.message for record in caplog.records if "is not used" in record.message}
    assert told == {
        "--overlap is not used: it counts only with --window or --segments or --timeline.",
        "--steps is not used: it does not count with --sigmas.",
        "--max-shift is not used: it counts only with --schedule ltx2.",
    }


def test_a_name_that_another_run_takes_meanwhile_is_not_written_over(tmp_path, monkeypatch):
    saved, clip, latent = [], tmp_path / "clip.mp4", tmp_path / "clip.safetensors"

    def make(models, request, events):
        for path in (clip, latent):
            path.write_bytes(b"of another run")
        events.on_latent(None)
        return [SimpleNamespace(chunks=(FRAMES,), fps=FPS, waveform=None, sample_rate=None, tags={}, grading=None)]

    monkeypatch.setattr(commands, "run_batch", make)
    monkeypatch.setattr(commands, "tagged", lambda take, notes: take)
    monkeypatch.setattr(commands, "save_take", lambda target, take, overwrite: saved.append(target.name))
    assert main(["generate", "--prompt", "x", "--output", str(clip), "--save-latent", str(latent)]) == 0
    assert clip.read_bytes() == b"of another run" and (tmp_path / "clip_2.mp4").is_file()
    assert saved == ["clip_2.safetensors"]


def test_generate_makes_a_clip(tmp_path, capsys):
    target = tmp_path / "sound.wav"
    words = ["--prompt", "x (ball:1.4)", "--output", str(target), "--sound-only", "--frames", "9", "--steps", "1"]
    assert main(["generate", *words, "--device", "cpu", "--no-cache"]) == 0 and target.is_file()
    assert "The prompt says (ball:1.4): LTX-2 has no weights" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["generate", "--prompt", "a", "--seed=1", "--prompt", "b", "--seed", "1"], ["--prompt", "--seed"]),
        (
            ["generate", "--metadata", "--no-metadata", "--image", "a.png", "--image=b.png", "--refine", "--refine"],
            ["--metadata"],
        ),
        (["generate", "--checkpoint", "a", "b", "--checkpoint", "c"], ["--checkpoint"]),
        (["plan", "--card", "4090", "--card", "5090"], ["--card"]),
        (["batch", "x.txt", "--seeds", "1,2", "--prompt=--seeds"], []),
    ],
)
def test_flags_that_are_given_twice_and_count_once_are_told(words, told, caplog, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("x.txt").write_text("a ball")
    options = parse([*words, *(["--output", "clip.mp4"] if words[0] != "plan" else [])])
    assert [message.split()[0] for message in caplog.messages] == told
    assert words[0] != "generate" or options.prompt in (None, "b")


def test_a_checkpoint_needs_a_text_encoder(tmp_path, capsys):
    checkpoint = str(MINIATURE / "ltx2-mini.safetensors")
    assert main(["generate", "--prompt", "x", "--output", str(tmp_path / "x.mp4"), "--checkpoint", checkpoint]) == 2
    assert "--text-encoder" in capsys.readouterr().err


def test_the_log_is_shown_only_while_a_command_works(capsys):
    log = logging.getLogger("ltx2_core.somewhere")
    with shown_log():
        log.info("A line %d.", 1)
    log.info("Another line.")
    assert capsys.readouterr().err == "A line 1.\n"


def test_bars_follow_the_stages(capsys):
    with Bars() as bars:
        bars.report("prompt", 1, 2)
        bars.report("sampling", 3, 4)
        bars.say("A line.")
    said = capsys.readouterr().err
    assert "prompt" in said and "sampling" in said and "A line." in said


def test_reading_flags_prints_nothing(asked, folder, capsys):
    asked("--source", folder / "silent.mp4", "--lora", LORA, "--seconds", 1)
    assert capsys.readouterr() == ("", "")


def test_the_module_is_the_program():
    from ltx2_core.__main__ import main as program

    assert program(["inspect", "nowhere"]) == 2 and conditions.PICTURES


def test_a_command_has_the_flags_that_it_has_among_all():
    whole, every = build_parser()
    for name, command in every.items():
        parser, commands = build_parser(name)
        assert commands[name].flags == command.flags and commands.keys() == every.keys()
        assert all(flag.help for flag in command.parser._actions if flag.option_strings)
        assert commands[name].parser.format_help() == command.parser.format_help()
        assert parser.format_help() == whole.format_help()
