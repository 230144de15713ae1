"""A prompt is encoded once, and again only if something changed that its encoding depends on."""

import errno
import logging
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import ltx2_core as ltx2
from ltx2_core.__main__ import main
from ltx2_core.checkpoint.kept_files import open_kept
from ltx2_core.checkpoint.prompt_cache import prompt_cache
from ltx2_core.checkpoint.text_encoder import open_text_encoder
from ltx2_core.disk_cache import DiskCache, cache_folder, fingerprint
from ltx2_core.errors import UnreadableFileError
from ltx2_core.errors.atomic import write_atomically
from ltx2_core.pipeline.encode_text import EncodeText, contexts_cache
from ltx2_core.pipeline.engines import local as stages
from ltx2_core.pipeline.engines import prepare
from ltx2_core.pipeline.generate import recipe_of
from ltx2_core.pipeline.stage import Events
from ltx2_core.pipeline.stages import Stages
from ltx2_core.settings import Request, Resources

SMALL = {"width": 64, "height": 64, "frames": 9, "steps": 1, "video": ltx2.Guidance(2), "audio": ltx2.Guidance(2)}
CONTEXT = {"video": torch.randn(1, 8, 4).bfloat16(), "audio": torch.randn(1, 8, 2).bfloat16()}


@pytest.fixture(scope="module")
def files(tiny_files):
    return tiny_files("2.3")


@pytest.fixture
def opened(monkeypatch):
    """Whatever of the text side was opened for its weights, in order."""
    names = list[str]()
    encoder, network = stages.build_text_encoder, prepare.build

    def counted(make):
        def call(*arguments):
            names.append("text_encoder" if make is encoder else arguments[1])
            return make(*arguments)

        return call

    monkeypatch.setattr(stages, "build_text_encoder", counted(encoder))
    monkeypatch.setattr(prepare, "build", counted(network))
    return names


TEXT_SIDE = {"text_encoder", "text_features", "video_connector", "audio_connector"}


@pytest.mark.slow
@pytest.mark.usefixtures("unheard")
def test_a_repeated_prompt_opens_no_weights_of_the_text_side(files, tmp_path, opened, caplog):
    def run(prompt, negative, cache=tmp_path):
        del opened[:]
        models = ltx2.open_models(*files[:2])  # anew, as after a restart
        return ltx2.generate(models, prompt, negative, cache=cache, **SMALL).latent

    first = run("a", "b")
    assert opened.count("text_encoder") == 1 and set(opened) >= TEXT_SIDE
    with caplog.at_level(logging.INFO):
        again = run(" a\n", "b")  # Gemma does not see blanks at the ends
    assert not TEXT_SIDE & set(opened) and caplog.text.count("encoded before") == 2
    assert torch.equal(again.video, first.video) and torch.equal(again.audio, first.audio)
    run("a", "c")  # only what is new is encoded
    assert opened.count("text_encoder") == 1 and len(list(tmp_path.iterdir())) == 3
    run("c", "a")
    assert not TEXT_SIDE & set(opened)
    for off in (None, False):
        run("a", "b", cache=off)
        assert set(opened) >= TEXT_SIDE
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.slow
def test_every_ingredient_counts_but_not_where_the_files_are(files, tmp_path):
    def path(checkpoint=files[0], gemma=files[1], dtype=torch.bfloat16, components=("text_features",), prompt="a"):
        models, encoder = ltx2.open_models(checkpoint), open_text_encoder(gemma)
        return prompt_cache(tmp_path, models, encoder, dtype, components).path(prompt)

    assert len({open_text_encoder(files[1])}) == 1, "planners key their blueprints by it"
    moved = tmp_path / "elsewhere"
    shutil.copytree(files[0].parent, moved)  # copies the times of writing, too
    checkpoint, gemma = moved / files[0].name, moved / files[1].name
    assert path() == path(checkpoint, gemma)
    paths = {
        "as it is": path(),
        "prompt": path(prompt="A"),
        "dtype": path(dtype=torch.float32),
        "components": path(components=("text_features", "video_connector")),
        "other encoder": path(gemma=files[2]),
    }
    for name, file in [("checkpoint", checkpoint), ("weights", gemma / "model.safetensors"),
                       ("tokenizer", gemma / "tokenizer.json"), ("config", gemma / "config.json")]:  # fmt: skip
        os.utime(file, ns=(1, 1))  # written at another time
        paths[name] = path(checkpoint, gemma)
    assert len(set(paths.values())) == len(paths)


def test_what_was_not_used_for_longest_goes_first(tmp_path):
    size = None
    for number, prompt in enumerate("abcd"):
        cache = DiskCache(tmp_path, "x", limit_bytes=3 * (size or 10**6))
        cache.keep(prompt, **CONTEXT)
        size = cache.path(prompt).stat().st_size
        os.utime(cache.path(prompt), ns=(1000 * number, 1000 * number))
        if prompt == "c":
            assert cache.find("a") is not None  # and is now the one that was used last
    assert [prompt for prompt in "abcd" if cache.find(prompt)] == ["a", "c", "d"]
    left = cache.path("c").with_name(f"{cache.path('c').name}.{'0' * 32}.partial")  # by a crash
    cache.path("c").rename(left)
    os.utime(left, ns=(0, 0))
    others = [tmp_path / "model.safetensors", tmp_path / "download.partial"]
    for other in others:
        other.write_bytes(bytes(size))
        os.utime(other, ns=(0, 0))
    cache.keep("e", **CONTEXT)
    assert [prompt for prompt in "abcde" if cache.find(prompt)] == ["a", "d", "e"]
    assert len(list(tmp_path.iterdir())) == 3 + len(others) and all(other.is_file() for other in others)


DAMAGES = {
    "cut": lambda content: content[:-1],
    "empty": lambda content: b"",
    "another file": lambda content: b"\xff" * len(content),
    "one bit": lambda content: content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
    "unknown type": lambda content: content.replace(b"BF16", b"BF17"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_made_anew(tmp_path, damage, caplog):
    cache = DiskCache(tmp_path, "x")
    cache.keep("a", **CONTEXT)
    path = cache.path("a")
    path.write_bytes(damage(path.read_bytes()))
    assert cache.find("a") is None and "will be made anew" in caplog.text
    cache.keep("a", **CONTEXT)
    found = cache.find("a")
    assert found.keys() == CONTEXT.keys() and all(torch.equal(found[name], CONTEXT[name]) for name in CONTEXT)


def test_a_disk_that_cannot_be_written_loses_no_clip(tmp_path, monkeypatch, caplog):
    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    cache = DiskCache(tmp_path, "x")
    for key in ("a", "b"):  # of which one is told
        cache.keep(key, **CONTEXT)
    assert caplog.text.count("No space left") == 1 and "LTX2_CACHE" in caplog.text and list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_where_it_lies_and_how_to_turn_it_off(files, tmp_path, monkeypatch, opened):
    assert cache_folder() is None  # in all other tests
    monkeypatch.setenv("LTX2_CACHE", str(tmp_path / "cache"))
    command = ["generate", "--prompt", "x", "--output", tmp_path / "clip.wav", "--checkpoint", files[0],
               "--text-encoder", files[1], "--width", 64, "--height", 64, "--frames", 9, "--steps", 1,
               "--text-scale", 1, "--cross-modal-scale", 1, "--stg-scale", 0, "--device", "cpu"]  # fmt: skip
    assert main([*map(str, command), "--no-cache"]) == 0 and not (tmp_path / "cache").exists()
    assert main([*map(str, command)]) == 0 and len(list((tmp_path / "cache" / "prompts").iterdir())) == 1
    del opened[:]
    assert main([*map(str, command)]) == 0 and "text_encoder" not in opened
    monkeypatch.delenv("LTX2_CACHE")
    assert cache_folder().is_absolute() and "ltx2-av" in cache_folder().parts


def test_the_place_is_that_of_the_platform_and_a_user_without_a_home_has_none(tmp_path, monkeypatch):
    """Such as one of a container, who has but a number."""
    monkeypatch.delenv("LTX2_CACHE")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path.replace("~", str(tmp_path), 1))
    for platform, variable, place in (
        ("linux", "XDG_CACHE_HOME", ".cache/ltx2-av"),
        ("darwin", "", "Library/Caches/ltx2-av"),
        ("win32", "LOCALAPPDATA", "AppData/Local/ltx2-av/Cache"),
    ):
        monkeypatch.setattr(sys, "platform", platform)
        monkeypatch.setenv(variable or "NO_VARIABLE", "relative")
        assert cache_folder("prompts") == tmp_path / place / "prompts"
        monkeypatch.setenv(variable or "NO_VARIABLE", str(tmp_path / "stated"))
        assert variable == "" or cache_folder().parts[len(tmp_path.parts)] == "stated"
        monkeypatch.delenv(variable or "NO_VARIABLE")
        with monkeypatch.context() as homeless:
            homeless.setattr(os.path, "expanduser", lambda path: path)
            assert cache_folder("prompts") is None
    monkeypatch.setenv("LTX2_CACHE", "~nobody-is-called-so/x")
    assert cache_folder() is not None


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    target = tmp_path / "new folder" / "numbers.json"
    write_atomically(target, b"first")

    def stopped(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stopped)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(target, b"second")
    assert [path.read_bytes() for path in target.parent.iterdir()] == [b"first"]
    with pytest.raises(UnreadableFileError, match=r"numbers\.json.* cannot be written: "):
        write_atomically(target / "inside a file", b"")


def test_a_cache_that_may_only_be_read_is_used(tmp_path, monkeypatch, caplog):
    def refused(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    cache, numbers = DiskCache(tmp_path, "encoder"), torch.arange(3.0)
    cache.keep("a", numbers=numbers)
    monkeypatch.setattr(os, "utime", refused)
    assert torch.equal(cache.find("a")["numbers"], numbers) and "cannot be used" not in caplog.text
    monkeypatch.setenv("LTX2_CACHE", str(tmp_path))
    kept = open_kept("loras", "x", 0, lambda path: write_atomically(path, b"1"), lambda path: path)
    assert open_kept("loras", "x", 0, refused, lambda path: path) == kept


@pytest.mark.slow
def test_a_prompt_that_the_official_code_encoded_needs_no_text_encoder(files, tmp_path, capsys):
    models = ltx2.open_models(*files[:2])
    engine = stages.LocalEngine(models, Resources(device="cpu"), Events())
    contexts = EncodeText.of(["a"], (nowhere := contexts_cache(engine, None)), engine).run(engine, nowhere)["a"]
    path = tmp_path / "scene.safetensors"
    save_file({"video_context": contexts.video, "audio_context": contexts.audio}, path)
    settings = SMALL | {"cache": False, "device": "cpu", "video": ltx2.Guidance(), "audio": ltx2.Guidance()}
    expected = ltx2.generate(models, "a", **settings).latent
    made = ltx2.generate(ltx2.open_models(files[0]), "scene", encoded=path, **settings).latent
    assert made.video.equal(expected.video) and made.audio.equal(expected.audio)
    request = Request.of("", '""', encoded=path, **SMALL).completed(recipe_of(models))
    asked_for = Stages.of(request, engine, nowhere).text.cached
    assert asked_for.keys() == {"scene.safetensors", ""} and asked_for[""] is None, "no negative prompt was encoded"
    asked = ["generate", "--checkpoint", str(files[0]), "--output", str(tmp_path / "x.mp4"), "--device", "cpu"]
    size = ["--width", "64", "--height", "64", "--frames", "9", "--steps", "1", "--text-scale", "1"]
    size += ["--cross-modal-scale", "1", "--stg-scale", "0"]
    assert main([*asked, *size, "--encoded-prompt", str(path)]) == 0, capsys.readouterr()
    save_file({"video_context": contexts.audio}, path)
    assert main([*asked, "--encoded-prompt", str(path)]) == 2
    assert "scene.safetensors has a video_context of the shape (1, 1024, 16)" in capsys.readouterr().err
    assert main([*asked, "--encoded-prompt", str(files[0])]) == 2
    assert "has no video_context; LTX-2.3" in capsys.readouterr().err
    for broken, words in [
        (contexts.video[:, :0], "scene.safetensors has a video_context of the shape (1, 0, 32)"),
        (contexts.video.long(), "video_context in scene.safetensors is stored as int64; decimal numbers"),
        (contexts.video / 0, "video_context in scene.safetensors holds NaN or infinite numbers"),
    ]:
        save_file({"video_context": broken.contiguous(), "audio_context": contexts.audio}, path)
        assert main([*asked, "--encoded-prompt", str(path)]) == 2
        assert words in capsys.readouterr().err


@pytest.mark.slow
def test_a_fingerprint_differs_where_its_values_do(files):
    checkpoint = ltx2.open_models(files[0]).files[0]
    plain = [0, 0.0, False, None, "", b"", (), {}, set(), (0,), ((0,),), (0, 0), {0: 0}, {0}, "0", [""], torch.bfloat16]
    tensors = [torch.zeros(()), torch.zeros(1), torch.zeros(1, 1), torch.zeros(1, dtype=torch.float64), torch.zeros(0)]
    objects = [Path("a"), Path("b"), ltx2.Guidance(2), ltx2.Guidance(3), checkpoint]
    values = [*plain, *tensors, torch.ones(1, dtype=torch.float8_e4m3fn), *objects]
    assert len({fingerprint(value) for value in values}) == len(values)
    assert len({fingerprint("ab", "c"), fingerprint("a", "bc"), fingerprint(("ab", "c"))}) == 3
    again = ltx2.open_models(files[0]).files[0]
    assert fingerprint({3, 1, 2}, again) == fingerprint({1, 2, 3}, checkpoint)
