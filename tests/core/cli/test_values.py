"""Settings as plain values: command lines, lines of a batch and what files say of themselves are the same settings."""

import json
import os
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from ltx2_core.cli import commands, files, main
from ltx2_core.cli.files import digest_of
from ltx2_core.cli.parser import build_parser, parse
from ltx2_core.cli.values import Notes, checked_values, merged, values_in, values_of, words_of
from ltx2_core.errors import MediaError, SettingError
from ltx2_core.media import read_tags, write_clip

GENERATE = build_parser()[1]["generate"]
WORDS = [
    "--prompt", "a --red ball", "--output=x.mp4", "--image", "-1:cat.png", "--image=0:a.png:0.5", "--steps", "4",
    "--no-add-noise", "--refine", "--stg-blocks", "1", "2", "--checkpoint", "a.safetensors", "b.safetensors",
    "--video-text-scale", "2.5", "--hdr", "ACEScg",
]  # fmt: skip


@pytest.fixture
def made(monkeypatch):
    """Settings of each request, of which noise is made in place of a clip."""
    requests = []

    def run_batch(models, request, events):
        requests.append(request)
        frames = torch.rand(9, 64, 64, 3, generator=torch.Generator().manual_seed(request.sampling.seed))
        clip = SimpleNamespace(chunks=(frames,), fps=request.clip.fps, waveform=None, sample_rate=None, grading=None)
        clip.tags = {"parameters": f"{request.prompt}\nSteps: 8"}
        return [clip] * request.clip.batch_size

    monkeypatch.setattr(commands, "run_batch", run_batch)
    return requests


def test_words_become_values_and_words_again():
    options = parse(["generate", *WORDS])
    values = options.values
    assert values["image"] == ["-1:cat.png", "0:a.png:0.5"] and values["stg-blocks"] == ["1", "2"]
    assert values["add-noise"] is False and values["refine"] is True and values["prompt"] == "a --red ball"
    again = parse(["generate", *words_of(values, GENERATE)])
    assert vars(again) == vars(options)


@pytest.mark.parametrize("system", ["win32", "linux"])
def test_files_that_windows_names_are_found_elsewhere_by_what_a_clip_says(monkeypatch, system):
    image, lora = "0:pics\\a.png:0.5", "C:\\loras\\a.safetensors:0.8"
    monkeypatch.setattr("sys.platform", system)
    said = values_of(["--image", image, "--lora", lora, "--prompt", "a\\b", "--timeline=c\\d"], GENERATE)
    assert said == checked_values({"image": image, "lora": lora, "prompt": "a\\b", "timeline": "c\\d"}, GENERATE)
    if system == "win32":
        image, lora = "0:pics/a.png:0.5", "C:/loras/a.safetensors:0.8"
    assert said["image"] == [image] and said["lora"] == [lora] and said["prompt"] == "a\\b"
    assert said["timeline"] == ("c/d" if system == "win32" else "c\\d")


def test_json_has_names_of_flags_and_of_settings():
    raw = {"prompt": "x", "frames": 9.0, "custom_sigmas": [1, 0.5, 0], "image": "cat.png", "add_noise": False,
           "max_vram": 2, "video_text_scale": 2.5, "seed": None}  # fmt: skip
    assert checked_values(raw, GENERATE) == {
        "prompt": "x", "frames": "9", "sigmas": "1,0.5,0", "image": ["cat.png"], "add-noise": False, "vram": "2",
        "video-text-scale": "2.5",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("raw", "facts"),
    [
        ({"frame": 9}, ["'frame'", "Did you mean frames?"]),
        ({"promt": 9}, ["'promt'", "Did you mean prompt?"]),
        ({"seed": {"a": 1}}, ["seed", '{"a": 1}']),
        ({"prompt": True}, ["prompt is true; write a text"]),
        ({"prompt": float("nan")}, ["prompt is NaN; write a text"]),
        ({"refine": "perhaps"}, ["'perhaps'"]),
        ({"sigmas": "1,0", "custom_sigmas": "1,0"}, ["sigmas", "twice"]),
    ],
)
def test_what_is_no_setting_is_one_sentence(raw, facts):
    with pytest.raises(SettingError) as error:
        checked_values(raw, GENERATE)
    assert all(fact in str(error.value) for fact in facts)


def test_what_is_written_takes_the_place_of_what_says_the_same():
    usual = {"frames": "9", "seed": "1", "width": "64", "schedule": "beta", "steps": "3"}
    assert merged(usual, {"seconds": "1", "seed": "2"}) == {
        "seed": "2", "width": "64", "schedule": "beta", "steps": "3", "seconds": "1",
    }  # fmt: skip
    assert merged(usual, {"size": "16:9", "sigmas": "1,0"}) == {
        "frames": "9", "seed": "1", "size": "16:9", "sigmas": "1,0",
    }  # fmt: skip
    assert merged({"width": "64"}, {"height": "64"}) == {"width": "64", "height": "64"}


def test_a_digest_is_of_the_clip_alone():
    first = values_of(["--prompt", "x", "--seed", "1", "--output", "a.mp4", "--device", "cpu"], GENERATE)
    second = values_of(["--seed=1", "--output", "b.mp4", "--prompt", "x", "--no-cache"], GENERATE)
    assert digest_of(first, GENERATE) == digest_of(second, GENERATE) != digest_of({**first, "seed": "2"}, GENERATE)


def test_a_digest_is_of_what_is_in_the_files(tmp_path, monkeypatch):
    """Whatever stands around their names; of small files alone, wherever and whenever they were written."""
    monkeypatch.setattr(files, "LARGE", 3)
    monkeypatch.chdir(tmp_path)
    words = ["--image", "0:a.png:0.8", "--lora", "b:0.5:video=1", "--character", "c.png:d.wav", "--text-encoder", "e"]
    words += ["--timeline", "f.json", "--prompt", "g"]
    values, names = values_of(words, GENERATE), ("a.png", "b", "c.png", "d.wav", "e/x/y", "f.json", "h.png")
    Path("e", "x").mkdir(parents=True)
    timeline = '{"pictures": [{"at": 0, "file": "h.png"}], "prompts": [{"at": 0, "text": "x"}]}'
    digests = [digest_of({**values, "timeline": "no.json"}, GENERATE)]
    for name in names:
        Path(name).write_text(timeline if name == "f.json" else "1")
        digests.append(digest_of(values, GENERATE))
    for name in names:
        Path(name).write_text(timeline + " " if name == "f.json" else "2")
        digests.append(digest_of(values, GENERATE))
    assert len(set(digests)) == len(digests)
    Path("g").touch()
    os.utime("a.png", ns=(1, 1))
    assert digest_of(values, GENERATE) == digests[-1]
    Path("b").write_text("1000")
    large = digest_of(values, GENERATE)
    os.utime("b", ns=(1, 1))
    assert digest_of(values, GENERATE) != large


def test_what_was_decoded_claims_no_seed_that_nobody_said():
    assert "seed" in json.loads(Notes({"prompt": "x"}, "a model", "").beside({})["ltx2"])["settings"]
    assert json.loads(Notes({"latent": "a.safetensors"}, "a model", "").beside({})["ltx2"])["settings"] == {}


@pytest.mark.parametrize("name", ["clip.mp4", "frames"])
def test_a_clip_is_made_like_another_one(name, made, tmp_path, capsys):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "cat.png")
    words = ["--prompt", 'a "red" ball', "--image", str(tmp_path / "cat.png"), "--seconds", "1", "--seed", "7"]
    assert main(["generate", *words, "--output", str(tmp_path / name)]) == 0
    assert main(["generate", "--like", str(tmp_path / name), "--output", str(tmp_path / name)]) == 0
    assert (
        main(["generate", "--like", str(tmp_path / name), "--frames", "17", "--output", str(tmp_path / "c.mp4")]) == 0
    )
    said = capsys.readouterr()
    first, second, third = made
    assert (second.prompt, second.clip, second.sampling) == (first.prompt, first.clip, first.sampling)
    assert second.conditions[0].frame == 0 and third.clip.frames == 17 and third.clip.seconds is None
    stem, dot, suffix = name.partition(".")
    assert (tmp_path / f"{stem}_2{dot}{suffix}").exists() and f"{stem}_2" in said.err and "--overwrite" in said.err
    assert main(["inspect", str(tmp_path / name)]) == 0
    said = capsys.readouterr().out
    assert all(fact in said for fact in ('a "red" ball', "seed", "7", "trainedAlgorithmicMedia", "Steps: 8", "0.2.0"))


def test_a_file_that_another_clip_was_made_with_is_missed_by_its_flag(made, tmp_path, monkeypatch, capsys):
    """One that was moved since; not one that is given now."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64), "red").save("cat.png")
    assert main(["generate", "--prompt", "x", "--image", "0:cat.png:0.8", "--output", "a.mp4"]) == 0
    Path("cat.png").rename("dog.png")
    again = ["generate", "--like", "a.mp4", "--output", "b.mp4"]
    assert main(again) == 2
    said = capsys.readouterr().err
    assert "a.mp4 was made with --image 0:cat.png:0.8, and there is no such file here: give --image with its" in said
    Path("moved").mkdir()
    Path("a.mp4").rename("moved/a.mp4")
    Path("dog.png").rename("moved/cat.png")
    again[2] = "moved/a.mp4"
    assert main(again) == 2
    there = f"0:{Path('moved', 'cat.png')}:0.8"
    assert f"give --image {there}, if that file beside a.mp4 is the one." in capsys.readouterr().err
    assert main([*again, "--image", there]) == 0
    Path("moved/cat.png").rename("dog.png")
    assert main([*again, "--audio", "no.wav"]) == 2
    assert "made with --image 0:cat.png" in capsys.readouterr().err
    assert main([*again, "--image", "no.png"]) == 2
    assert "There is no file no.png" in capsys.readouterr().err
    assert main([*again, "--image", "0:dog.png"]) == 0


def test_nothing_is_overwritten_unless_that_is_asked_for(made, tmp_path, capsys):
    words = ["generate", "--prompt", "x", "--output", str(tmp_path / "a.mp4")]
    for _ in range(3):
        assert main(words) == 0
    before = (tmp_path / "a.mp4").read_bytes()
    assert main([*words, "--overwrite", "--seed", "5"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "a_2.mp4", "a_3.mp4"]
    assert (tmp_path / "a.mp4").read_bytes() != before
    assert capsys.readouterr().out.split()[-1] == str(tmp_path / "a.mp4")


def test_without_metadata_a_file_says_only_that_a_model_made_it(made, tmp_path):
    path = tmp_path / "a.mp4"
    assert main(["generate", "--prompt", "a secret", "--no-metadata", "--output", str(path)]) == 0
    assert b"secret" not in path.read_bytes() and "digital_source_type" in read_tags(path)
    with pytest.raises(MediaError, match="does not say"):
        values_in(path, GENERATE)


def test_settings_of_a_later_version_and_damaged_ones_are_one_sentence(tmp_path):
    for number, (text, fact) in enumerate([('{"settings": {"warp": "9"}}', "warp"), ("{", "JSON"), ("{}", "damaged")]):
        path = write_clip(tmp_path / f"{number}.mp4", [torch.rand(2, 64, 64, 3)], Fraction(24), metadata={"ltx2": text})
        with pytest.raises(ValueError, match=fact):
            values_in(path, GENERATE)


def test_sizes_become_what_can_be_made_and_it_is_said(made, tmp_path, capsys):
    size = ["--width", "100", "--height", "70", "--frames", "12"]
    assert main(["generate", "--prompt", "x", *size, "--output", str(tmp_path / "a.mp4")]) == 0
    assert (made[0].clip.width, made[0].clip.height, made[0].clip.frames) == (96, 64, 9)
    said = capsys.readouterr().err
    assert all(f"{name} {asked} became {made}" in said for name, asked, made in
               [("width", 100, 96), ("height", 70, 64), ("frames", 12, 9)])  # fmt: skip
