"""What people write in one word, and in a file of segments."""

from pathlib import Path

import pytest

from ltx2_core.cli import syntax
from ltx2_core.cli.parser import join_image_flags
from ltx2_core.errors import SettingError

WINDOWS_PATH = r"C:\clips\cat.png"


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
