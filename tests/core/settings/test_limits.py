"""Every number, list and size from a person, a file or a workflow has its limits before anything is made of it."""

import os
import time
from fractions import Fraction

import pytest
import torch

from ltx2_core.checkpoint.files import read_file
from ltx2_core.cli import main, sentence
from ltx2_core.cli.arguments import with_rows
from ltx2_core.cli.syntax import (
    blocks,
    parse_file,
    parse_guidance,
    parse_lora,
    parse_picture,
    parse_tiles,
    read_segments,
)
from ltx2_core.conditioning.conditions import InpaintMask, RetakeRange
from ltx2_core.conditioning.pictures import Picture, pair_keyframes
from ltx2_core.errors import MediaError, SettingError, UnreadableFileError
from ltx2_core.geometry import ClipShape, exact_fps
from ltx2_core.latents import empty
from ltx2_core.lora.strengths import parse_blocks
from ltx2_core.pipeline.encode_text import readable_prompt
from ltx2_core.sampling import Guidance, ScheduleSettings
from ltx2_core.sampling.schedules import check_sigmas, custom
from ltx2_core.settings import Request, parse_stg_blocks

HUGE, BETWEEN = "1" + "0" * 400, "must be between"

FLAGS = [
    *[("--width", value, "between 32 and 4096") for value in ("0", "-64", "100000000", HUGE)],
    *[("--height", value, "between 32 and 4096") for value in ("0", "-64", "100000000")],
    *[("--frames", value, "between 1 and 2881") for value in ("0", "-1", "1000000000")],
    *[("--seconds", value, "between 0 and 120") for value in ("-3", "inf", "nan", "1000000000", "-inf")],
    *[("--steps", value, "between 1 and 200") for value in ("0", "-1", "1000000000")],
    *[("--seed", value, "between 0 and") for value in ("-1", HUGE)],
    *[("--rescale", value, "between 0 and 1") for value in ("5", "nan", "-1")],
    *[("--text-scale", value, "between 1 and 20") for value in ("0", "nan", "1e300")],
    *[("--stg-scale", value, "between 0 and 5") for value in ("-1", "inf")],
    *[("--video-stg-scale", value, "between 0 and 5") for value in ("-1", "inf")],
    *[("--skip-steps", value, "between 0 and 10") for value in ("-1", "1000000000")],
    *[("--drift", value, "between 0 and 1") for value in ("7", "nan", "-0.1")],
    *[("--window", value, "between 17 and 2881 frames") for value in ("0", "1", "1000000000")],
    *[("--overlap", value, "between 8 and 512") for value in ("0", "1000000000")],
    *[("--audio-noise", value, "between 0 and 1") for value in ("5", "nan", "-1")],
    *[("--feather", value, "between 0 and 16") for value in ("1000000", "-1")],
    *[("--compression", value, "between -1 and 51") for value in ("99", "-2")],
    *[("--denoise", value, "between 0 and 1") for value in ("nan", "2")],
    *[("--terminal", value, "between 0 and 0.99") for value in ("1", "nan")],
    *[("--max-shift", value, "between 0 and 10") for value in ("1e300", "nan")],
    *[("--start-step", value, "between 0 and 1000") for value in ("-1", "1000000000")],
    *[("--tile-overlap", value, "between 0 and 1024") for value in ("-32", "1000000000")],
    *[("--decode-tile-size", value, "between 0 and 4096") for value in ("-32", "1000000000")],
    *[("--decode-tile-frames", value, "between 16 and 4096") for value in ("0", "1000000000")],
    *[("--distilled-lora-strength", value, "between -10 and 10") for value in ("nan", "11")],
    *[("--refine-noise-scale", value, "between 0 and 1") for value in ("nan", "2")],
    *[("--vram", value, "between 0 and 1024") for value in ("-1", "nan", "inf")],
    *[("--ram", value, "between 0 and 1024") for value in ("-1", "nan", "inf")],
    *[("--fps", value, "fps is") for value in ("0", "-24", "nan", "inf", "1e999999999", "1/0", "241", HUGE)],
    *[("--tiles", value, "1 to 64 of each") for value in ("1000000x1x1", "0x1x1", f"{HUGE}x1x1")],
    *[
        ("--guidance-up-to", value, "must be between")
        for value in ("5:text_scale=2", "0.5:text_scale=99", "0.5:rescale=nan")
    ],
    *[("--guidance-up-to", f"0.5:stg_blocks={value}", "blocks") for value in ("0-999999999999", "999999999999")],
    *[("--sigmas", value, "sigma") for value in ("1,nan,0", "2,0", "inf,0", ",".join(["1"] * 5000))],
    *[("--stg-blocks", value, "blocks") for value in ("99", "999999999999", HUGE, "0-999999999999")],
    *[("--retake", value, "") for value in ("-1:2", "0:1e9", "nan:1", "0:nan")],
    *[("--image", value, BETWEEN) for value in ("99999999999:x.png", "0:x.png:5", "0:x.png:1:99")],
    *[("--lora", value, BETWEEN) for value in ("x.safetensors:99", "x.safetensors:1:audio=nan")],
    *[
        ("--audio", f"x.wav:{value}", "must be between")
        for value in ("start=-1", "seconds=inf", "start=nan", "seconds=1e9")
    ],
    *[("--source", f"x.mp4:{value}", BETWEEN) for value in ("start=-1", "seconds=inf")],
    *[
        ("--reference-video", f"x.mp4:{value}", "must be between")
        for value in ("downscale=0", "strength=nan", "temporal_scale=99")
    ],
]


@pytest.mark.parametrize(("flag", "value", "words"), FLAGS, ids=lambda each: each[:20])
def test_a_value_outside_its_limits_is_refused_by_its_flag(flag, value, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    start = time.monotonic()
    assert main(["generate", "--prompt", "x", "--output", "x.mp4", f"{flag}={value}"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and words in said and len(said) < 700
    assert time.monotonic() - start < 10 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--width", "0"),
        ("--frames", "0"),
        ("--vram", "nan"),
        ("--ram", "-1"),
        ("--fps", "1e999999999"),
        ("--steps", "0"),
    ],
)
def test_a_plan_has_the_same_limits(flag, value, capsys):
    assert main(["plan", "--version", "2.3", f"{flag}={value}"]) == 2
    assert "must be" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "value", "fact"),
    [
        ("--frames", "1234567", "--frames is 1234567; it must be between 1 and "),
        ("--seed", str(2**64), f"--seed is {2**64}; it must be between 0 and {2**64 - 1}."),
        ("--seed", HUGE, "--seed is a number of more than 300 digits; it must be between 0 and "),
    ],
)
def test_whole_numbers_are_shown_whole(flag, value, fact, capsys):
    assert main(["generate", "--prompt", "x", "--output", "x.mp4", flag, value]) == 2
    assert capsys.readouterr().err.startswith(f"error: {fact}")


def test_the_sentence_names_the_flag(capsys):
    main(["generate", "--prompt", "x", "--output", "x.mp4", "--drift", "7"])
    assert capsys.readouterr().err == "error: --drift is 7; it must be between 0 and 1.\n"


def test_the_sentence_names_the_unit(capsys):
    main(["generate", "--prompt", "x", "--output", "x.mp4", "--seconds", "500"])
    assert capsys.readouterr().err == "error: --seconds is 500; it must be between 0 and 120 seconds.\n"


@pytest.mark.parametrize(
    "values",
    [
        {"width": 0}, {"frames": 10**9}, {"seconds": float("inf")}, {"seconds": float("nan")}, {"height": 10**400},
        {"conditions": [Picture(torch.zeros(1, 8, 8, 3), frame=10**9)]},
        {"conditions": [InpaintMask(torch.zeros(1, 8, 8), feather=10**6)]},
        {"conditions": [RetakeRange(0, 10**9)]},
    ],
)  # fmt: skip
def test_a_request_has_the_same_limits(values):
    with pytest.raises(SettingError, match="must be between"):
        Request.of("x", **values)


def test_what_is_within_the_limits_is_read_as_before():
    assert blocks("0-3+40") == (0, 1, 2, 3, 40)
    assert parse_guidance("audio:0.8:text_scale=4,stg_blocks=1+3,cfg_star=yes").changes == {
        "text_scale": 4.0, "stg_blocks": (1, 3), "cfg_star": True
    }  # fmt: skip
    assert parse_picture("-1:x.png:0.5:20")[1]["compression"] == 20
    assert parse_file("x.mp4:downscale=2,seconds=3", "downscale", "seconds")[1] == {"downscale": 2, "seconds": 3.0}
    assert parse_lora("x.safetensors:-1:blocks=0-1,schedule=1@1+0@0.5", 4)[1].blocks == {0, 1}
    assert parse_tiles("1x2x64") == (1, 2, 64)
    assert exact_fps("24000/1001") == exact_fps("23.976") == Fraction(24000, 1001) and exact_fps(" 25 ") == 25


@pytest.mark.parametrize("text", ["0-999999999999", "1000", "5-2", "-1", "0-5-9"])
def test_blocks_of_guidance_are_counted_before_they_are_written_out(text):
    with pytest.raises(SettingError):
        blocks(text)


def test_stg_blocks_of_a_widget_are_those_of_the_model():
    for text in ("4", "-1", "999999999999", HUGE, "0-9"):
        with pytest.raises(SettingError, match="stg_blocks"):
            parse_stg_blocks(text, None, 4)


def test_a_schedule_has_as_many_steps_as_can_be_taken():
    with pytest.raises(SettingError, match="at most 1,000 steps"):
        check_sigmas([1 - step / 2000 for step in range(2000)])
    with pytest.raises(SettingError, match="at most 1,000 steps"):
        custom(" ".join(str(1 - step / 2000) for step in range(2000)))
    assert len(check_sigmas([1 - step / 1000 for step in range(1001)])) == 1001
    for denoise in (1e-9, 1e-300, 0.0, float("nan")):
        with pytest.raises(SettingError, match=r"at least 0\.001"):
            ScheduleSettings(denoise=denoise).sigmas()


@pytest.mark.parametrize(("width", "frames", "batch"), [(4096, 2881, 64), (4096, 86401, 1)])
def test_an_empty_latent_is_not_larger_than_memory_could_be(width, frames, batch):
    with pytest.raises(SettingError, match=r"would take .* GB before anything is made, at most 16 GB"):
        empty(ClipShape(width, width, frames, Fraction(24)), batch)


def test_segments_are_read_from_a_small_regular_text_file(tmp_path):
    path = tmp_path / "segments.txt"
    path.write_bytes(b"\xef\xbb\xbf0 a dog\n5 caf\xe9\n")
    assert [each.start for each in read_segments(path)] == [0, 5]
    for line in ("nan x", "inf x", "-1 x", "1e9 x"):
        path.write_text(line)
        with pytest.raises(SettingError, match="must be between 0 and 3600"):
            read_segments(path)
    path.write_text("0 " + "x" * 10**6)
    with pytest.raises(SettingError, match="more than 1,000,000 bytes"):
        read_segments(path)
    with pytest.raises(MediaError, match="a folder"):
        read_segments(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(MediaError, match="a pipe"):
            read_segments(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("frames", "strengths"), [("0 10001", "1"), ("0 -10001", "1"), (f"0 {HUGE}", "1"), ("0 1", "nan"), ("0 1", "1 5")]
)
def test_keyframes_of_a_widget_have_the_limits_of_a_picture(frames, strengths):
    assert pair_keyframes(2, "0, -1", "0.5") == [(0, 0.5), (-1, 0.5)]
    with pytest.raises(SettingError, match="must be between"):
        pair_keyframes(2, frames, strengths)


def test_a_prompt_is_text_of_some_length():
    assert readable_prompt("caf\u00e9 \U0001f600 \ud800!") == "caf\u00e9 \U0001f600 ?!"
    with pytest.raises(SettingError, match="1,000,000 characters, at most 100,000"):
        readable_prompt("x" * 10**6)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_small_file_of_a_model_is_a_regular_file(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(UnreadableFileError, match="a regular file was expected"):
        read_file(tmp_path / "config.json")


def test_the_command_line_shows_plain_text():
    assert sentence(SettingError("a\x1b[2J\udcff\nb")) == "a\ufffd[2J\ufffd b"
    assert sentence(FileNotFoundError(2, "No such file", "a\x1b\udcff")) == "a\ufffd\ufffd: No such file."
    assert len(sentence(SettingError("x" * 10**6))) < 300


@pytest.mark.parametrize("text", ["0\uff0c-1", "\uff10\u3001\uff0d\uff11", "0, \u22121", "0\uff1b\u20131"])
def test_a_list_of_numbers_is_understood_from_any_keyboard(text):
    assert pair_keyframes(2, text, "1\uff0e0\uff0c0.5") == [(0, 1.0), (-1, 0.5)]
    assert parse_blocks("0\uff0d2\uff0c\uff15", 8) == {0, 1, 2, 5}
    assert custom("1\uff0c0.5\u30010") == [1.0, 0.5, 0.0]


def test_a_seed_may_have_64_bits():
    assert Request.of("x", seed=2**64 - 1).sampling.seed == 2**64 - 1


@pytest.mark.parametrize(
    "rows",
    [("0.8:text_scale=2", "0.8:text_scale=4"), ("audio:text_scale=2", "audio:1:text_scale=4")],
)
def test_guidance_that_is_said_twice_is_refused(rows):
    """Of two, the last one counted, and nothing was said."""
    with pytest.raises(SettingError, match=r"text_scale is said twice up to sigma (0\.8|1), as 2\.0 and as 4\.0"):
        with_rows(Guidance(), [parse_guidance(row) for row in rows], "audio")


@pytest.mark.parametrize("turned", [False, True])
def test_guidance_of_one_stream_counts_before_that_of_both(turned):
    rows = ["0.8:text_scale=2,rescale=0.5", "audio:0.8:text_scale=4", "0.8:stg_scale=1", "0.5:text_scale=3"]
    read = [parse_guidance(row) for row in (rows[::-1] if turned else rows)]
    video, audio = (with_rows(Guidance(), read, stream) for stream in ("video", "audio"))
    assert (video.at(0.8).text_scale, audio.at(0.8).text_scale, audio.at(0.5).text_scale) == (2, 4, 3)
    assert audio.at(0.8).stg_scale == 1 and audio.at(0.8).rescale == 0.5 and audio.at(1) == Guidance()
