"""What files say of themselves: settings that come back as they were, and always that a model made them."""

import json
import re
import struct
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from PIL import Image

from ltx2_core.errors import MediaError, MissingFileError, UnreadableFileError
from ltx2_core.media import read_audio, read_tags, read_video, write_clip
from ltx2_core.media.light import ACESCG, Grading
from ltx2_core.media.notes import SOURCE_TYPE, VERSION, describe_tags, marking

FRAMES = torch.rand(9, 64, 64, 3, generator=torch.Generator().manual_seed(0))
SOUND = torch.rand(2, 8001, generator=torch.Generator().manual_seed(1)) - 0.5
TAGS = {
    "ltx2": '{"settings": {"prompt": "a \\"cat\\"; = # \\\\ \u00e9\u2603"}}',
    "parameters": "a cat\nSteps: 8, Seed: 7",
}
KINDS = ["a.mp4", "a.wav", "a.flac", "frames"]


def test_a_file_that_another_writer_leaves_unfinished_is_not_there(tmp_path):
    def fill(path: str) -> None:
        Path(path).write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    refused = pytest.raises(UnreadableFileError, match=r"clip\.mp4 cannot be written: No space left")
    with refused, marking(tmp_path / "clip.mp4") as unfinished:
        fill(unfinished)
    assert not [*tmp_path.iterdir()]


def written(path: Path, tags=None, **more) -> Path:
    return write_clip(path, [FRAMES], Fraction(24), SOUND, 24_000, metadata=tags, **more)


@pytest.mark.parametrize("name", KINDS)
def test_tags_come_back_as_they_were(name, tmp_path):
    found = read_tags(written(tmp_path / name, TAGS))
    assert {key: found[key] for key in TAGS} == TAGS


@pytest.mark.parametrize("name", KINDS)
def test_every_file_says_that_a_model_made_it(name, tmp_path):
    path = written(tmp_path / name)
    assert read_tags(path)["digital_source_type"] == SOURCE_TYPE
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    assert all(b"trainedAlgorithmicMedia" in file.read_bytes() for file in files)


@pytest.mark.parametrize("name", ["clip.mp4", "pictures", "sound.wav"])
def test_half_a_letter_of_another_encoding_costs_no_clip(name, tmp_path):
    assert read_tags(written(tmp_path / name, {"prompt": "caf\udce9 \ud83d"}))["prompt"] == "caf? ?"


def test_light_carries_tags_too(tmp_path):
    folder = written(tmp_path / "light", TAGS, grading=Grading(ACESCG, ACESCG))
    found = read_tags(folder)
    assert {key: found[key] for key in TAGS} == TAGS and found["digital_source_type"] == SOURCE_TYPE
    assert read_tags(written(tmp_path / "light.mp4", TAGS, grading=Grading(ACESCG)))["ltx2"] == TAGS["ltx2"]


def test_xmp_lies_where_readers_of_each_container_look(tmp_path):
    video, sound = written(tmp_path / "a.mp4").read_bytes(), written(tmp_path / "a.wav").read_bytes()
    boxes, place = [], 0
    while place < len(video):
        size, kind = struct.unpack_from(">I4s", video, place)
        boxes.append((kind, video[place + 8 : place + 24]))
        place += size
    assert place == len(video) and (b"uuid", bytes.fromhex("BE7ACFCB97A942E89C71999491E3AFAC")) in boxes
    chunks, place = {}, 12
    while place < len(sound):
        kind, size = struct.unpack_from("<4sI", sound, place)
        chunks[kind] = sound[place + 8 : place + 8 + size]
        place += 8 + size + size % 2
    assert place == len(sound) == struct.unpack_from("<I", sound, 4)[0] + 8
    assert re.search(rb'DigitalSourceType="[^"]+trainedAlgorithmicMedia"', chunks[b"_PMX"])
    with Image.open(written(tmp_path / "frames") / "frame_00001.png") as picture:
        assert "trainedAlgorithmicMedia" in picture.info["XML:com.adobe.xmp"]


def test_content_is_the_same_with_tags(tmp_path):
    plain, noted = (written(tmp_path / f"{name}.mp4", tags) for name, tags in (("a", None), ("b", TAGS)))
    assert torch.equal(torch.cat([*read_video(plain)]), torch.cat([*read_video(noted)]))
    plain, noted = (written(tmp_path / f"{name}.wav", tags) for name, tags in (("a", None), ("b", TAGS)))
    assert torch.equal(torch.cat([*read_audio(plain)], -1), torch.cat([*read_audio(noted)], -1))


def test_files_of_others_say_nothing_or_are_refused(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    assert read_tags(tmp_path / "plain.png") == {}
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty").mkdir()
    for name in ("text.mp4", "empty"):
        with pytest.raises(MediaError, match=name):
            read_tags(tmp_path / name)
    with pytest.raises(MissingFileError):
        read_tags(tmp_path / "none.mp4")


def test_a_graph_is_told_node_by_node_or_in_short(tmp_path):
    nodes = {"1": {"class_type": "LTX2AVLoadModel", "inputs": {"checkpoint": "a.gguf"}}, "2": {"class_type": "Note"}}
    path = written(tmp_path / "a.mp4", {"prompt": json.dumps(nodes), "workflow": '{"nodes": []}', "comment": "[1]"})
    whole, short = describe_tags(path), describe_tags(path, graph=False)
    assert '1 LTX2AVLoadModel {"checkpoint": "a.gguf"}\n' in whole and "2 Note null" in whole
    assert "LoadModel" not in short and all("a graph of ComfyUI, 13 letters" in each for each in (whole, short))
    assert "prompt               a red ball" in describe_tags(written(tmp_path / "b.mp4", {"prompt": "a red ball"}))


def test_the_version_is_that_of_the_package():
    assert f'\nversion = "{VERSION}"\n' in (Path(__file__).parents[3] / "pyproject.toml").read_text()
