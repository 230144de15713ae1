"""A latent comes back from its file bit for bit, with all that is known of it; nothing else is taken for one."""

import dataclasses
import itertools
import json
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ltx2_core.cli import commands, main, maker
from ltx2_core.cli.files import digest_of
from ltx2_core.cli.parser import build_parser, parse
from ltx2_core.cli.values import settings_of_tags, values_in
from ltx2_core.conditioning import RetakeRange
from ltx2_core.errors import (
    CheckpointError,
    LTX2Error,
    MissingFileError,
    SettingError,
    TargetExistsError,
    UnreadableFileError,
)
from ltx2_core.fields import check_output_name
from ltx2_core.geometry import Keyframes
from ltx2_core.latents import AVLatent
from ltx2_core.media import read_audio, read_picture, read_tags
from ltx2_core.media.notes import SOURCE_TAG
from ltx2_core.pipeline import takes
from ltx2_core.pipeline.finish import decode_take
from ltx2_core.pipeline.graph import codec
from ltx2_core.pipeline.graph.latents import GraphLatent, latent_of_take
from ltx2_core.pipeline.graph.stages import encode_given, given_in
from ltx2_core.pipeline.sample import Sample
from ltx2_core.pipeline.stage import Events
from ltx2_core.pipeline.takes import KIND, SUFFIX, Take, load_take, rescue_take, rescued_takes, save_take
from ltx2_core.sampling import Step
from ltx2_core.settings import Request

GENERATE = build_parser()[1]["generate"]


def latent(seed: int, dtype: torch.dtype = torch.float32) -> AVLatent:
    numbers = torch.Generator().manual_seed(seed)
    video, audio = (torch.randn(size, generator=numbers) for size in ((1, 128, 2, 3, 4), (1, 8, 9, 16)))
    return AVLatent(video.to(dtype), audio.to(dtype))


def full() -> Take:
    keyframes = Keyframes(torch.randn(1, 128, 2, 3, 4, generator=torch.Generator().manual_seed(9)), (0, 8))
    return Take(
        content=dataclasses.replace(latent(0, torch.bfloat16), keyframes=keyframes),
        fps=Fraction(24000, 1001),
        masks=(torch.rand(1, 1, 2, 3, 4), torch.rand(1, 1, 9, 1)),
        last=Step(0.3, latent(1), latent(2), 0.7071067811865476, latent(3)),
        drawn=(1536, 1152),
        times=2,
        seams=((2, 3, 4), ([9], [], [64, 96])),
        shown=(120, 90),
        tags={"prompt": '{"1": "a ball"}', "software": "here", "workflow": '{"nodes": []}'},
        made_by="2.3",
    )


def flat(value: object) -> object:
    """Tensors as lists with their dtype, within whatever holds them."""
    if isinstance(value, Tensor):
        return str(value.dtype), value.tolist()
    if dataclasses.is_dataclass(value):
        return {each.name: flat(getattr(value, each.name)) for each in dataclasses.fields(value)}
    return tuple(map(flat, value)) if isinstance(value, tuple) else value


PLAIN = {
    "both streams": Take(latent(0)),
    "a picture alone": Take(latent(0).select(["video"]), fps=Fraction(25)),
    "a sound alone": Take(latent(0).select(["audio"]), masks=(None, torch.ones(1, 1, 9, 1))),
    "a view of other memory": Take(AVLatent(latent(0).video[:, :, ::2].expand(3, -1, -1, -1, -1), None)),
}


@pytest.mark.parametrize("take", [full(), *PLAIN.values()], ids=["all there is", *PLAIN])
def test_what_is_saved_comes_back_to_the_bit(tmp_path, take):
    assert flat(load_take(save_take(tmp_path / "new" / "a.safetensors", take))) == flat(take)


def test_a_file_that_lies_on_a_disk_since_0_2_0_is_read(tmp_path):
    sound = torch.arange(256.0).view(1, 8, 2, 16)
    header = {
        KIND: "1",
        "about": '{"fps": "24"}',
        "tags": '{"prompt": "a ball"}',
        "digest": "4502ebc9e99ae986e2c82e8aaabc5af974d4dfcef0e5a50033bc63f4f036a83f",
    }
    save_file({"audio": sound}, tmp_path / "old.safetensors", header)
    expected = Take(AVLatent(None, sound), fps=Fraction(24), tags={"prompt": "a ball"})
    assert flat(load_take(tmp_path / "old.safetensors")) == flat(expected)


def test_the_graph_stands_where_comfyui_looks_for_it(tmp_path):
    with safe_open(save_take(tmp_path / "a.safetensors", full()), framework="pt") as file:
        assert file.metadata()["workflow"] == full().tags["workflow"]


def test_a_latent_is_read_by_models_of_the_same_latents_and_by_no_others():
    """2.3 and 2.5 have the same; the miniature has its own, and what came from elsewhere says nothing."""
    models = {each: SimpleNamespace(generation=each) for each in ("2.0", "2.3", "2.5", "miniature")}
    for made, read in itertools.product((*models, None), models):
        held = GraphLatent(latent_of_take(dataclasses.replace(full(), last=None, made_by=made)))
        if made in (None, read) or {made, read} == {"2.3", "2.5"}:
            again = GraphLatent(held.read_by(models[read]).with_content(held.content))
            assert again.made_by == again.as_take({}).made_by == read
        else:
            with pytest.raises(SettingError, match=r"made by .*, and the numbers of"):
                held.read_by(models[read])
            with pytest.raises(SettingError, match="made by"):
                decode_take(models[read], dataclasses.replace(full(), made_by=made), Request(""))


@pytest.mark.parametrize("changed", [latent(0).select(["video"]), latent(0).map(lambda x: x.repeat_interleave(2, 0))])
def test_a_last_step_is_that_of_a_latent_of_its_size(changed):
    """A node of the host cuts, repeats or splits a latent, and hands on all that was said beside it."""
    held = GraphLatent(latent_of_take(full()))
    assert held.last_step is not None
    assert GraphLatent(held.with_content(held.content)).last_step is held.last_step
    assert GraphLatent(held.with_content(changed)).last_step is None


def test_nothing_is_overwritten_and_nothing_half_written_is_left(tmp_path, monkeypatch):
    path = save_take(tmp_path / "a.safetensors", Take(latent(0)))
    with pytest.raises(TargetExistsError, match="not overwritten"):
        save_take(path, Take(latent(1)))
    assert flat(load_take(path)) == flat(Take(latent(0)))

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(LTX2Error, match="cannot be written: No space left"):
        save_take(tmp_path / "b.safetensors", Take(latent(0)))
    with pytest.raises(LTX2Error, match="cannot be written"):
        save_take(tmp_path / ("b" * 300), Take(latent(0)))
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("name", ["a", "a" * 251, "\N{GREEK SMALL LETTER ALPHA}" * 125, "[a]" * 83])
def test_the_latent_of_a_clip_of_any_name_is_rescued_and_found(tmp_path, name):
    clip = tmp_path / f"{name}.mp4"
    clip.touch()
    path = rescue_take(Take(latent(0)), clip)
    assert [*rescued_takes(clip)] == [path] and flat(load_take(path)) == flat(Take(latent(0)))


def rewritten(path, **header: str) -> None:
    """Change texts of the header of a file, and nothing else."""
    with safe_open(path, framework="pt") as file:
        kept = file.metadata()
    save_file(load_file(path), path, kept | header)


def test_files_of_another_kind_or_version_are_refused_in_a_sentence(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(MissingFileError, match="is not there"):
        load_take(path)
    with pytest.raises(UnreadableFileError, match="is a folder"):
        load_take(tmp_path)
    path.write_bytes(b"\0\0\0\x1cftypisom\0\0\2\0")
    with pytest.raises(CheckpointError, match=r"a\.safetensors is no latent"):
        load_take(path)
    save_file({"latent_tensor": torch.zeros(1, 128, 1, 1, 1)}, path)
    with pytest.raises(CheckpointError, match=r"no latent of LTX-2 Save AV Latent.*Load Latent"):
        load_take(path)
    path.unlink()
    rewritten(save_take(path, full()), **{KIND: "2"})
    with pytest.raises(CheckpointError, match="version '2', version 1 was expected"):
        load_take(path)


def test_a_latent_that_may_not_be_read_is_no_damaged_one(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    (path := tmp_path / "a.safetensors").touch()
    monkeypatch.setattr("ltx2_core.pipeline.takes.safe_open", refuse)
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UnreadableFileError, match=r"a\.safetensors cannot be read: Permission denied"):
        load_take(path)


def test_every_changed_or_missing_byte_is_found(tmp_path):
    path = save_take(tmp_path / "a.safetensors", full())
    whole = path.read_bytes()
    for place in range(8, len(whole), len(whole) // 40):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(CheckpointError):
            load_take(path)
    for length in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="damaged"):
            load_take(path)


def test_settings_of_another_clip_are_noticed(tmp_path):
    path = save_take(tmp_path / "a.safetensors", full())
    rewritten(path, tags=json.dumps({"prompt": "another"}))
    with pytest.raises(CheckpointError, match="damaged or was changed"):
        load_take(path)


WRONG = {
    "no stream": dataclasses.replace(full(), content=AVLatent(None, None)),
    "keyframes beyond the end": dataclasses.replace(
        full(), content=dataclasses.replace(latent(0), keyframes=Keyframes(torch.zeros(1, 128, 1, 3, 4), (99,)))
    ),
    "a stream of another shape": dataclasses.replace(full(), content=AVLatent(torch.zeros(1, 16, 2, 3, 4), None)),
    "a step of two sizes": dataclasses.replace(full(), last=Step(0.3, latent(1), latent(2), 0.7, AVLatent(None, None))),
    "seams of two axes": dataclasses.replace(full(), seams=((2, 3), ([9], [], []))),
    "draws that never end": dataclasses.replace(full(), drawn=(10**12,)),
}


@pytest.mark.parametrize("take", WRONG.values(), ids=WRONG)
def test_a_file_that_is_whole_but_says_what_cannot_be_is_refused(tmp_path, take):
    with pytest.raises(LTX2Error):
        load_take(save_take(tmp_path / "a.safetensors", take))


def test_a_name_stays_below_the_output_folder():
    assert check_output_name("a/b") == check_output_name("a\\b") == "a/b"
    assert check_output_name(name := "a\u00a0b \U0001f468\u200d\U0001f469") == name
    assert check_output_name("a//b/") == "a/b"  # or ComfyUI would number none of them
    for name in ("../a", "/a", "C:\\a", "", "  ", "a/ "):
        with pytest.raises(SettingError, match="filename_prefix"):
            check_output_name(name)


def test_a_take_says_what_it_is():
    words = "video and audio latent, 128 x 96, 9 frames, 0.38 s at 23.976 fps"
    assert full().describe() == f"{words}, of which 120 x 90 are shown, stopped at noise level 0.3"
    assert PLAIN["a sound alone"].describe() == "audio latent"


@pytest.mark.slow
def test_a_latent_that_the_disk_refuses_costs_no_clip(tmp_path, monkeypatch, capsys):
    def refuse(path, *_, **__):
        raise UnreadableFileError(f"{path} cannot be written: No space left on device.")

    monkeypatch.setattr(commands, "save_take", refuse)
    kept, clip = str(tmp_path / "kept.safetensors"), tmp_path / "clip.mp4"
    words = ["--prompt", "x", "--steps", "1", "--device", "cpu", "--frames", "9", "--width", "64", "--height", "64"]
    assert main(["generate", *words, "--save-latent", kept, "--output", str(clip)]) == 2
    said = capsys.readouterr()
    assert [*tmp_path.iterdir()] == [clip] and said.out == f"{clip}\n"
    assert said.err.splitlines()[-1] == f"error: {kept} cannot be written: No space left on device."


@pytest.mark.slow
@pytest.mark.parametrize("command, full_disk", [("generate", False), ("generate", True), ("batch", False)])
def test_a_clip_that_cannot_be_written_costs_no_sampling(tmp_path, monkeypatch, capsys, caplog, command, full_disk):
    """Its latent is kept beside it, or in the cache if the disk refuses that, too; whatever the error."""
    out, cache = tmp_path / "out", tmp_path / "cache"
    out.mkdir()
    monkeypatch.setenv("LTX2_CACHE", str(cache))
    save, write = takes.save_take, commands.write_clips

    def refuse(targets, *_):
        raise MemoryError if command == "batch" else UnreadableFileError(f"{targets[0]} cannot be written: No space.")

    def save_elsewhere(path, *words, **how):
        if full_disk and Path(path).parent == out:
            refuse([path])
        return save(path, *words, **how)

    for each in (commands, maker):
        monkeypatch.setattr(each, "write_clips", refuse)
    monkeypatch.setattr(takes, "save_take", save_elsewhere)
    size = ["--frames", "9", "--width", "64", "--height", "64"]
    words = ["--prompt", "x", "--steps", "1", "--device", "cpu", *size]
    assert main([command, *words, "--output", str(out if command == "batch" else out / "clip")]) == 2
    (kept,) = (cache / "latents" if full_disk else out).glob(f"*{SUFFIX}")
    said = capsys.readouterr().err
    assert f"--latent {kept}" in caplog.text + said
    assert kept.name.startswith("x_" if command == "batch" else "clip_")
    monkeypatch.setattr(commands, "write_clips", write)
    assert main(["generate", "--latent", str(kept), "--device", "cpu", "--output", str(out / "clip")]) == 0
    assert main(["generate", *words, "--output", str(out / "anew")]) == 0
    assert pictures(out / "clip") == pictures(out / "anew")


def pictures(folder) -> list[list]:
    """The pixels of each picture."""
    return [read_picture(each).tolist() for each in sorted(folder.glob("*.png"))]


@pytest.mark.slow
def test_a_batch_goes_on_from_what_was_sampled(tmp_path, monkeypatch, capsys):
    """In its second try, and when it is started again; what was kept is gone with the clip that is made of it."""
    out, words = (
        tmp_path / "out",
        ["--steps", "1", "--device", "cpu", "--frames", "9", "--width", "64", "--height", "64"],
    )
    lines = tmp_path / "lines.jsonl"
    lines.write_text("\n".join(json.dumps({"prompt": "a ball", "seed": seed, "output": f"x{seed}"}) for seed in (1, 2)))
    sampled, write, run = [], maker.write_clips, Sample.run
    monkeypatch.setattr(Sample, "run", lambda self, *given, **more: sampled.append(1) or run(self, *given, **more))

    def refuse(targets, *_):
        raise UnreadableFileError(f"{targets[0]} cannot be written: No space.")

    monkeypatch.setattr(maker, "write_clips", refuse)
    assert main(["batch", str(lines), *words, "--output", str(out)]) == 2
    assert len(sampled) == 2 and len([*out.glob(f"*{SUFFIX}")]) == 2 and "started again" in capsys.readouterr().err
    assert main(["batch", str(lines), *words, "--output", str(out)]) == 2
    assert len(sampled) == 2 and len([*out.glob(f"*{SUFFIX}")]) == 2
    monkeypatch.setattr(maker, "write_clips", write)
    lines.write_text(lines.read_text() + '\n{"prompt": "a box", "seed": 1, "output": "x3"}')
    assert main(["batch", str(lines), *words, "--output", str(out)]) == 0
    assert len(sampled) == 3 and not [*out.glob(f"*{SUFFIX}")]
    assert main(["batch", str(lines), *words, "--output", str(tmp_path / "anew")]) == 0
    for name in ("x1", "x2", "x3"):
        assert pictures(out / name) == pictures(tmp_path / "anew" / name)


@pytest.mark.slow
def test_the_command_line_keeps_a_latent_and_decodes_it_alike(tmp_path, monkeypatch, capsys):
    kept, first, again = (str(tmp_path / name) for name in ("kept.safetensors", "first", "again"))
    size = ["--frames", "9", "--width", "64", "--height", "64"]
    words = ["--prompt", "ball", "--seed", "7", "--steps", "1", "--device", "cpu", *size]
    assert main(["generate", *words, "--save-latent", kept, "--output", first]) == 0
    capsys.readouterr()
    assert main(["inspect", kept]) == 0 and "video and audio latent" in (said := capsys.readouterr().out), said
    tags = load_take(kept).tags
    assert SOURCE_TAG in tags and tags["parameters"].startswith("ball")
    assert json.loads(tags["ltx2"])["settings"]["seed"] == "7"
    assert values_in(Path(kept), GENERATE) == values_in(Path(first), GENERATE)
    like = parse(["generate", "--like", kept, "--seed", "8", "--output", again])
    assert (like.prompt, like.values["steps"], like.values["seed"]) == ("ball", "1", "8")

    monkeypatch.setattr(commands, "run_batch", None)  # nothing is sampled
    assert main(["generate", "--latent", kept, "--device", "cpu", "--output", again]) == 0
    for picture in Path(first).glob("*.png"):
        assert torch.equal(read_picture(picture), read_picture(Path(again, picture.name)))
    sounds = [torch.cat([*read_audio(Path(path, "sound.wav"))], -1) for path in (first, again)]
    said = [read_tags(path) for path in (first, again)]
    assert torch.equal(*sounds) and said[0] == said[1]
    assert digest_of(settings_of_tags(said[1], again, GENERATE), GENERATE) == said[0]["ltx2_digest"]

    for words, fact in (
        (["--latent", kept, "--like", first], "leave --like out"),
        (["--latent", kept, "--save-latent", kept], "kept already"),
        (["--latent", first], "first"),
        (["--prompt", "x", "--save-latent", "kept.mp4"], "kept.mp4"),
    ):
        assert main(["generate", *words, "--output", again]) == 2
        assert fact in capsys.readouterr().err


def test_what_a_file_shows_of_its_frames_is_shown_on_a_graph(monkeypatch):
    """A clip of HDR whose size is no multiple of 32 is made larger, and cut; not where a node has cut it since."""
    decoded = torch.rand(1, 9, 96, 128, 3)
    monkeypatch.setattr(codec.DecodeVideo, "collect", lambda *given: decoded)
    engine = SimpleNamespace(models=SimpleNamespace(generation="2.3"), events=Events())
    held = GraphLatent(latent_of_take(full()))
    assert torch.equal(codec.decode_frames(engine, held, {}), decoded[:, :, :90, :120])
    again = GraphLatent(held.with_content(held.content))
    assert (again.shown, again.as_take({}).shown) == (full().shown, full().shown)
    wider = held.content.select(["video"]).map(lambda x: x.repeat_interleave(2, -1))
    larger = GraphLatent(held.with_content(wider))
    assert larger.shown is None and torch.equal(codec.decode_frames(engine, larger, {}), decoded)
    with_alpha = torch.rand(9, 96, 128, 4)
    assert torch.equal(codec.decode_frames(engine, held, {}, with_alpha)[0], with_alpha[..., :3])
    stepped = torch.rand(1, 17, 96, 128, 3) * 0.01 + (torch.arange(128) >= 64)[:, None]
    for each, seen in (held, True), (again, True), (larger, False):
        seams = each.seams
        seams.see(stepped)
        assert (seams.measure() > 10) is seen


def test_a_part_of_a_clip_without_sound_is_changed_and_of_nothing_there_is_none():
    silent = AVLatent(latent(0).video, latent(0).audio * 0)
    engine = SimpleNamespace(blueprint=None)
    change = [RetakeRange(0, 0.1)]
    given_in(engine, GraphLatent(latent_of_take(Take(silent))), change)
    with pytest.raises(SettingError, match="this LATENT is empty"):
        given_in(engine, GraphLatent(latent_of_take(Take(silent.map(torch.zeros_like)))), change)


@pytest.mark.parametrize("own, chosen, shown", [(24, 120, 24), (24, 0, 24), (None, 30, 30)])
def test_what_is_given_is_read_at_the_rate_that_a_latent_says(own, chosen, shown):
    """Another rate, chosen for the sampler, is how fast things move: sounds and videos stay as long as the clip."""
    asked, held = [], GraphLatent(latent_of_take(Take(latent(0), fps=own and Fraction(own))), chosen)
    encode = SimpleNamespace(encode=lambda given, shape, *rest: asked.append(shape.fps) or [])
    encode_given(SimpleNamespace(conditions=encode), held, [])
    assert asked == [shown] and held.fps == (chosen or own)
