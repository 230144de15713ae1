"""As long as the prompt needs: the duration head of 2.5, and the length that follows from what it says."""

import json
import logging
import math
from fractions import Fraction

import golden
import pytest
import tiny_parts
import torch
from formula import signal
from safetensors.torch import load_file, save_file

import ltx2_core as ltx2
from ltx2_core.__main__ import main
from ltx2_core.checkpoint import open_models
from ltx2_core.checkpoint.duration_head import DurationHeadFile
from ltx2_core.checkpoint.files import TensorFile
from ltx2_core.checkpoint.keys.text import DURATION_HEAD
from ltx2_core.checkpoint.parts import find_parts
from ltx2_core.cli.arguments import read_clip
from ltx2_core.cli.parser import parse
from ltx2_core.conditioning.pictures import Picture
from ltx2_core.conditioning.sources import AudioSource, VideoSource
from ltx2_core.errors import CheckpointError, MissingFileError, SettingError
from ltx2_core.geometry import predicted_frames
from ltx2_core.media import write_audio
from ltx2_core.pipeline.duration import fit_length, follow_given
from ltx2_core.pipeline.read_ahead import check_clip
from ltx2_core.settings import AS_GIVEN, AS_PROMPT, ClipSettings, Request
from ltx2_core.settings.clip import IN_FRAMES
from ltx2_core.text import Contexts
from ltx2_core.text.duration import DurationHead, DurationHeadConfig, predict_seconds

VECTOR = golden.vectors("2.5")["duration_head_tiny"]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A split set with its head as the last file."""
    folder = tmp_path_factory.mktemp("split")
    return [*tiny_parts.write_split(folder, "distilled"), tiny_parts.write_duration_head(folder)]


@torch.no_grad()
def test_the_vector(tmp_path):
    """Through the file, as the official one is read: the number of heads stands in its config."""
    tensors = {}
    for k, name in enumerate(sorted(VECTOR["keys"])):
        shape = VECTOR["keys"][name]
        s = torch.sin(0.7 * torch.arange(math.prod(shape), dtype=torch.float64) + 1.3 * k).reshape(shape)
        factor = 1.5 / math.sqrt(s.numel() / shape[0]) if len(shape) > 1 else 0.1
        tensors[name] = (s * factor).float()
    path, config = tmp_path / "head.safetensors", VECTOR["config"]["duration_head"]
    save_file(tensors, path, {"config": json.dumps({"duration_head": config})})
    head = DurationHeadFile(TensorFile(path)).build()
    video, audio = signal(1, 6, 24), signal(1, 6, 12)
    for name, pair in {"both": (video, audio), "video": (video, None), "audio": (None, audio)}.items():
        assert head(*pair).item() == pytest.approx(VECTOR["seconds"][name], abs=2e-6)


def test_every_key_of_the_file_has_its_place():
    listed = golden.shapes("duration_head_2.5")
    with torch.device("meta"):
        head = DurationHead(DurationHeadConfig())
    own = {name: tuple(value.shape) for name, value in head.state_dict().items()}
    assert {DURATION_HEAD.ours(key, "duration_head."): shape for key, shape in listed.items()} == own
    assert sum(map(math.prod, own.values())) == 1_903_361 and len(own) == 15
    assert DurationHeadConfig.from_shapes(own, {}) == DurationHeadConfig(heads=4)


def test_seconds_become_frames():
    for seconds, frames in golden.vectors("2.5")["seconds_to_frames_24fps_1_to_20s"].items():
        assert predicted_frames(float(seconds), Fraction(24), 1, 20) == frames
    assert predicted_frames(5, Fraction(30000, 1001), 1, 20) == 145
    assert predicted_frames(0.1, Fraction(24), 1, 1.01) == 17  # no 8 k + 1 lies between 24 and 24
    endless, unknown = (predicted_frames(seconds, Fraction(24), 1, 20) for seconds in (math.inf, math.nan))
    assert (endless, unknown) == (473, 25)


@pytest.mark.slow
def test_a_clip_is_as_long_as_its_prompt_needs(parts, tmp_path, caplog):
    models = open_models(parts)
    assert models.duration_head is not None and not models.missing and parts[-1] not in [f.path for f in models.files]
    caplog.set_level(logging.INFO)
    settings = {"width": 64, "height": 64, "device": "cpu", "cache": str(tmp_path), "fps": 8}
    clip = ltx2.generate(models, "a ball", length=AS_PROMPT, **settings)
    (said,) = [each.getMessage() for each in caplog.records if "The prompt needs" in each.getMessage()]
    assert f"{len(clip.frames)} frames at 8 fps" in said
    same = ltx2.generate(models, "a ball", frames=len(clip.frames), **settings)
    assert torch.equal(clip.latent.video, same.latent.video)


def test_the_shortest_and_the_longest_clip_can_be_said(parts):
    models = open_models(parts)
    head = models.duration_head.build().config
    contexts = Contexts(torch.zeros(1, 8, head.video_width), torch.zeros(1, 8, head.audio_width))
    seconds = predict_seconds(models.duration_head.build(), contexts, ("video", "audio"))
    assert 0.2 < seconds < 100
    made = [
        fit_length(ClipSettings(least_seconds=least, most_seconds=most), models, contexts).frames
        for least, most in ((seconds, 120), (0.1, 0.4), (seconds + 3, seconds + 4), (0.1, 120))
    ]
    free = predicted_frames(seconds, Fraction(24), 0.1, 120)
    assert made == [predicted_frames(seconds, Fraction(24), seconds, 120), 9, made[2], free]
    assert seconds + 3 <= made[2] / 24 <= seconds + 4


@pytest.mark.slow
def test_the_command_line_knows_it(parts, tmp_path):
    arguments = ["generate", "--checkpoint", *map(str, parts), "--prompt", "a ball", "--width", "64", "--height", "64"]
    arguments += [
        "--output",
        str(tmp_path / "clip"),
        "--as-prompt-needs",
        "--device",
        "cpu",
        "--no-cache",
        "--fps",
        "4",
        "--most-seconds",
        "3",
    ]
    assert main(arguments) == 0
    assert len(list((tmp_path / "clip").glob("*.png"))) == 9


@pytest.mark.slow
def test_what_is_missing_is_said(parts, tmp_path, capsys):
    models = open_models(parts[:-1])
    with pytest.raises(MissingFileError, match="length is as the prompt needs, and there is no duration head: put"):
        ltx2.generate(models, "a ball", length=AS_PROMPT)
    with pytest.raises(SettingError, match="no prompt was read"):
        ClipSettings(length=AS_PROMPT).sized(None)
    with pytest.raises(CheckpointError, match=r"is the duration head of LTX-2\.5: choose it in LTX-2 Load Model"):
        open_models(parts[-1])
    both = ["--as-prompt-needs", "--frames", "9"]
    assert main(["generate", "--prompt", "a", "--output", str(tmp_path / "a.mp4"), *both]) != 0
    assert "--as-prompt-needs leaves the length to the prompt" in capsys.readouterr().err


@pytest.mark.slow
def test_a_clip_of_many_is_checked_although_its_length_is_not_known_yet(parts, tmp_path):
    picture = Picture(torch.rand(1, 64, 64, 3), frame=130)
    settings = {"length": AS_PROMPT, "least_seconds": 6, "width": 64, "height": 64, "device": "cpu"}
    request = Request.of("a ball", conditions=[picture], **settings)
    assert check_clip(open_models(parts), request, tmp_path).words == ("a ball",)
    with pytest.raises(MissingFileError, match="there is no duration head"):
        check_clip(open_models(parts[:-1]), request, tmp_path)


@pytest.mark.slow
def test_a_head_beside_another_version_is_refused(parts, tiny_files):
    with pytest.raises(CheckpointError, match=r"do not belong together: .*is LTX-2\.3, .*duration-head.* is LTX-2\.5"):
        open_models([tiny_files("2.3")[0], parts[-1]])
    assert find_parts([tiny_files("2.3")[0]], [parts[-1]]) == []
    assert find_parts(parts[:-1], [parts[-1]]) == [parts[-1]]


def test_a_damaged_head_is_named(parts, tmp_path):
    tensors = load_file(parts[-1])
    for name, said in (
        ("mlp_hidden.weight", "lacks tensors"),
        ("mlp_out.bias", r"lacks tensors: duration_head\.mlp_out"),
    ):
        path = tmp_path / f"{name}.safetensors"
        save_file({key: value for key, value in tensors.items() if not key.endswith(name)}, path)
        with pytest.raises(CheckpointError, match=said):
            DurationHeadFile(TensorFile(path)).build()
    save_file(tensors | {"duration_head.more": torch.zeros(2)}, tmp_path / "more.safetensors")
    with pytest.raises(CheckpointError, match=r"unknown tensors: duration_head\.more"):
        DurationHeadFile(TensorFile(tmp_path / "more.safetensors")).build()


@pytest.mark.parametrize("seconds, frames", [(1.375, 33), (1.39, 33), (1.42, 41), (0.01, 1), (5.0, 121)])
def test_a_clip_holds_all_of_a_sound_but_for_half_a_frame_and_is_nearest_to_a_video(seconds, frames):
    sound = AudioSource(torch.zeros(2, round(seconds * 48000)), 48000)
    film = VideoSource(torch.zeros(44, 2, 2, 3), fps=Fraction(24))
    assert follow_given(ClipSettings(), sound, film).asked_frames == frames
    given = ClipSettings(length=AS_GIVEN)
    assert (follow_given(given, sound, None).frames, follow_given(given, None, film).frames) == (frames, 41)


def test_only_what_is_asked_to_follows_a_sound_or_a_video():
    sound, film = AudioSource(torch.zeros(2, 48000), 48000), VideoSource(torch.zeros(40, 2, 2, 3), fps=Fraction(24))
    for asked in (ClipSettings(seconds=3), ClipSettings(length=IN_FRAMES, frames=9)):
        assert follow_given(asked, sound, film) == asked
    assert follow_given(ClipSettings(), None, film) == ClipSettings()
    with pytest.raises(SettingError, match="there is neither"):
        ClipSettings(length=AS_GIVEN).sized(None)
    song = AudioSource(torch.zeros(1, 1).expand(2, 180 * 48000), 48000)
    with pytest.raises(SettingError, match=r"The sound lasts 180\.0 s, longer than a clip can be: take a part of it"):
        follow_given(ClipSettings(), song, None)


@pytest.mark.parametrize("flags, frames", [([], 49), (["--frames", "17"], 17), (["--seconds", "1"], 25)])
def test_a_clip_of_the_command_line_follows_its_sound(tmp_path, flags, frames):
    path = tmp_path / "sound.wav"
    write_audio(path, torch.zeros(2, 96000), 48000)
    options = parse(["generate", "--prompt", "x", "--audio", str(path), "--output", "x.mp4", *flags])
    clip, _ = read_clip(options)
    assert clip.asked_frames == frames
