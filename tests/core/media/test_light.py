"""HDR: light is what the official numbers say, survives EXR files, and reaches a model only where it is understood."""

import struct
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conditions import Seen
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

import ltx2_core as ltx2
from ltx2_core.checkpoint.files import TensorFile
from ltx2_core.checkpoint.models import MINIATURE as MINIATURE_FOLDER
from ltx2_core.cli import main
from ltx2_core.conditioning.conditions import KeepVideo, ReferenceVideo, encode_conditions
from ltx2_core.conditioning.light import FILE_SPACES, GivenLight, check_light
from ltx2_core.conditioning.pictures import Picture
from ltx2_core.conditioning.preprocess import fit
from ltx2_core.conditioning.sources import VideoSource
from ltx2_core.errors import CheckpointError, LTX2Error, MediaError, SettingError
from ltx2_core.geometry import ClipShape
from ltx2_core.lora import Strengths, open_lora
from ltx2_core.media import write_clip
from ltx2_core.media.exr import ExrEncoder, ExrFrames, is_exr, read_exr
from ltx2_core.media.light import ACESCCT, ACESCG, AP1, LOGC3, SRGB_LINEAR, Grading, convert, to_hlg
from ltx2_core.pipeline.finish import decode_take, every_second
from ltx2_core.pipeline.generate import recipe_of
from ltx2_core.pipeline.grade import grade, prepare_encoding
from ltx2_core.pipeline.takes import Take, load_take, save_take
from ltx2_core.settings import Request

FPS = Fraction(24)
LIGHT = torch.rand(9, 64, 64, 3, generator=torch.Generator().manual_seed(0)) * 8


def pixels(*rows) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize(
    ("source", "target", "before", "after"),
    [
        (SRGB_LINEAR, ACESCCT, (1, 0.5, 0.18), (0.535528, 0.502639, 0.434474)),
        (ACESCG, ACESCCT, (16, 4, 0.5), (0.783105, 0.668950, 0.497717)),
        (ACESCG, ACESCCT, (0.18, 1, -3), (0.413588, 0.554795, 0.0729055)),
        (ACESCCT, ACESCG, (1, 0.554795, -1), (222.861, 1, 0)),
        (ACESCCT, ACESCCT, (0.5, 2, -1), (0.5, 1, 0)),
        (SRGB_LINEAR, LOGC3, (0, 0.18, 10), (0.092809, 0.391007, 0.816917)),
        (LOGC3, SRGB_LINEAR, (0.25, 0.5, 0.75), (0.0415196, 0.513383, 5.357164)),
        (LOGC3, SRGB_LINEAR, (0, 1, 0.570632), (0, 55.07956, 1)),
        (SRGB_LINEAR, LOGC3, (0.005, 0.0105, 0.015), (0.1196473, 0.1491694, 0.1710445)),  # about where both pieces meet
        (LOGC3, SRGB_LINEAR, (0.14, 0.149, 0.17), (0.0087917, 0.0104684, 0.0147637)),
        (ACESCG, ACESCCT, (222, 300, 65504), (0.9996813, 1, 1)),
    ],
)
def test_light_becomes_the_official_codes_and_back(source, target, before, after):
    """Numbers that release 1.2.0 of the official packages computes."""
    assert_close(convert(pixels(before), source, target), pixels(after), atol=1e-6, rtol=1e-5)


def test_light_comes_back_and_what_stays_in_its_space_is_not_touched():
    for space in (SRGB_LINEAR, ACESCG):
        assert_close(convert(convert(LIGHT, space, ACESCCT), ACESCCT, space), LIGHT, atol=1e-4, rtol=1e-4)
    wide = convert(LIGHT, ACESCG, SRGB_LINEAR, wide=True)
    assert wide.min() < -1 and convert(LIGHT, ACESCG, SRGB_LINEAR).min() == 0
    assert_close(convert(wide, SRGB_LINEAR, ACESCG), LIGHT, atol=1e-4, rtol=1e-4)
    odd = pixels((-1, 300, 0.5))
    assert convert(odd, SRGB_LINEAR, SRGB_LINEAR) is odd
    assert_close(convert(pixels((2, 2, 2)), SRGB_LINEAR, ACESCG), pixels((2, 2, 2)), atol=1e-4, rtol=0)


def test_hlg_has_the_official_signals():
    light = pixels((1, 1, 1), (0.18, 0.18, 0.18), (4, 4, 4), (1, 0, 0), (1e9, 0, -5))
    expected = pixels(*[[each] * 3 for each in (0.75, 0.378259, 0.947281)], (0.655874, 0.234360, 0.114146), (1, 1, 1))
    assert_close(to_hlg(light)[:4], expected[:4], atol=1e-5, rtol=0)
    assert to_hlg(light)[4].max() == pytest.approx(1)


# Files


def write_exr(path: Path, frame: torch.Tensor, space=SRGB_LINEAR) -> Path:
    path.write_bytes(ExrEncoder(space, FPS).encode(frame))
    return path


def test_a_folder_of_exr_keeps_half_floats_exactly_and_says_its_space(tmp_path):
    light = LIGHT.clone()
    light[0, 0, 0] = torch.tensor([-0.5, 1e6, 6e-8])
    folder = write_clip(tmp_path / "clip", iter([light[:4], light[4:]]), FPS, grading=Grading(ACESCG, ACESCG))
    frames = ExrFrames(folder, ACESCG)
    assert [path.name for path in frames.files] == [f"frame_{number:05}.exr" for number in range(9)]
    assert (len(frames), frames.size) == (9, (64, 64)) and is_exr(folder) and is_exr(frames.files[0])
    assert ExrFrames(frames.files[0], ACESCG).files == frames.files[:1]
    assert_close(torch.cat([*frames.read(range(9))]), light.clamp(max=65504).half().float(), atol=0, rtol=0)
    content = frames.files[0].read_bytes()
    assert b"colorSpace\0string\0\x06\0\0\0ACEScg" in content
    assert b"chromaticities\0chromaticities\0\x20\0\0\0" + struct.pack("<8f", *AP1.chromaticities) in content
    assert_close(Grading(ACESCCT, ACESCG).to_file(convert(LIGHT, ACESCG, ACESCCT)), LIGHT, atol=1e-4, rtol=1e-4)


def test_openexr_reads_what_we_write_and_we_read_what_it_writes(tmp_path):
    OpenEXR = pytest.importorskip("OpenEXR")
    ours = OpenEXR.File(str(write_exr(tmp_path / "ours.exr", LIGHT[0], ACESCG)))
    assert np.array_equal(ours.channels()["RGB"].pixels, LIGHT[0].half().numpy())
    assert ours.header()["chromaticities"] == pytest.approx(AP1.chromaticities)
    assert (ours.header()["colorSpace"], ours.header()["framesPerSecond"]) == ("ACEScg", 24)
    rgb = LIGHT[0].numpy()
    grey, alpha = np.ascontiguousarray(rgb[..., 0]), np.concatenate([rgb, rgb[..., :1]], -1)
    cases = {"PIZ": {"RGB": rgb}, "NO": {"RGBA": alpha}, "ZIPS": {"Y": grey}, "RLE": {"RGB": rgb.astype(np.float16)}}
    for name, channels in cases.items():
        header = {"compression": getattr(OpenEXR, f"{name}_COMPRESSION"), "type": OpenEXR.scanlineimage}
        OpenEXR.File(header, channels).write(str(path := tmp_path / f"{name}.exr"))
        expected = np.stack([grey] * 3, -1) if "Y" in channels else rgb
        tolerance = 2e-3 if name == "RLE" else 0
        assert_close(read_exr(path).numpy(), expected, atol=tolerance * 8, rtol=0)


def test_a_damaged_exr_is_refused_wherever_it_ends(tmp_path):
    path = write_exr(tmp_path / "whole.exr", LIGHT[0])
    content = path.read_bytes()
    broken = [content[: int(len(content) * share)] for share in (0.0, 0.001, 0.01, 0.3, 0.6, 0.999)]
    broken += [b"\x89PNG" + content, content[:4000] + bytes([content[4000] ^ 255]) + content[4001:]]
    for each in broken:
        path.write_bytes(each)
        with pytest.raises(MediaError, match=r"whole\.exr (cannot be read|is no EXR)"):
            read_exr(path)


def test_frames_that_do_not_go_together_or_are_not_there(tmp_path):
    with pytest.raises(LTX2Error, match=r"no \.exr file in the folder"):
        len(ExrFrames(tmp_path, ACESCG))
    write_exr(tmp_path / "a.exr", LIGHT[0])
    write_exr(tmp_path / "b.exr", LIGHT[0, :32])
    with pytest.raises(MediaError, match=r"b\.exr has 64 x 32 pixels, and the first frame 64 x 64"):
        [*ExrFrames(tmp_path, ACESCG).read([0, 1])]
    write_exr(tmp_path / "a.exr", torch.full((8, 8, 3), float("nan")))
    with pytest.raises(MediaError, match=r"a\.exr holds NaN"):
        read_exr(tmp_path / "a.exr")


def test_files_stay_what_they_are_in_another_folder(tmp_path, monkeypatch):
    write_exr(tmp_path / "a.exr", LIGHT[0])
    write_clip(tmp_path / "a.mp4", iter([LIGHT.clamp(0, 1)]), FPS)
    monkeypatch.chdir(tmp_path)
    opened = [VideoSource(each) for each in (ExrFrames(Path("a.exr"), ACESCG), "a.mp4", Path("a.mp4"))]
    monkeypatch.chdir(tmp_path.parent)
    assert [each.size() for each in opened] == [(64, 64)] * 3


def test_an_mp4_of_hdr_is_tagged_and_its_white_is_where_players_expect_it(tmp_path):
    white = convert(torch.ones(2, 32, 32, 3), SRGB_LINEAR, ACESCCT)
    path = write_clip(tmp_path / "a.mp4", [white], FPS, torch.zeros(2, 4000), 48000, grading=Grading(ACESCCT))
    with av.open(str(path)) as file:
        video = file.streams.video[0]
        context = video.codec_context
        assert (context.name, context.codec_tag, context.pix_fmt) == ("hevc", "hvc1", "yuv420p10le")
        assert (context.color_primaries, context.color_trc, context.colorspace, context.color_range) == (9, 18, 9, 1)
        assert video.average_rate == 24 and len(file.streams.audio) == 1
        first, *others = file.decode(video)
        assert [int(np.frombuffer(plane, np.uint16)[0]) for plane in first.planes] == [721, 512, 512]
        assert len(others) == 1


def test_a_clip_of_two_frames_can_be_written_every_time(tmp_path):
    """With B pictures about one in three failed: their times were whatever lay in memory."""
    for _ in range(12):
        write_clip(
            tmp_path / "a.mp4", [LIGHT[:2].clamp(0, 1)], FPS, torch.zeros(2, 4000), 48000, grading=Grading(ACESCCT)
        )


@pytest.mark.parametrize("bad", ["nan", "inf"])
def test_nothing_half_written_is_left(tmp_path, bad):
    def chunks():
        yield LIGHT[:4]
        yield LIGHT[:4].masked_fill(LIGHT[:4] > 0, float(bad))

    for name in ("clip", "clip.mp4"):
        with pytest.raises(MediaError, match="NaN or infinite values in frames 5 to 8"):
            write_clip(tmp_path / name, chunks(), FPS, grading=Grading(SRGB_LINEAR))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("end", ["", ".mp4"])
def test_a_name_that_the_system_refuses_is_one_sentence(tmp_path, end):
    with pytest.raises(LTX2Error, match=r"^xxx.* is no name that can be written"):
        write_clip(tmp_path / ("x" * 300 + end), [LIGHT / 8], FPS, grading=Grading(SRGB_LINEAR))
    assert list(tmp_path.iterdir()) == []


# What is given


def seen(condition, shape=ClipShape(64, 64, 9, FPS)) -> torch.Tensor:
    encoders = Seen(crf=33)
    encode_conditions([condition], shape, ("video",), encoders)
    (pixels,) = encoders.pixels
    return pixels


def test_light_is_resized_as_it_is_converted_then_and_never_compressed(tmp_path):
    wide = torch.rand(1, 40, 90, 3) * 20
    assert_close(
        seen(Picture(wide, space=SRGB_LINEAR)),
        convert((fit(wide, 64, 64) + 1).movedim(1, -1) / 2, SRGB_LINEAR, ACESCCT).movedim(-1, 1) * 2 - 1,
        atol=1e-5,
        rtol=1e-5,
    )
    folder = write_clip(tmp_path / "plates", [LIGHT], FPS, grading=Grading(ACESCG, ACESCG))
    codes = convert(LIGHT.half().float(), ACESCG, ACESCCT)
    for video in (VideoSource(ExrFrames(folder, ACESCG)), VideoSource(ExrFrames(folder, ACESCG), fps=FPS)):
        assert (video.size(), video.count(FPS)) == ((64, 64), 9)
        assert_close(seen(ReferenceVideo(video)), codes.movedim(-1, 0)[None] * 2 - 1)
        assert_close(torch.cat([*video.chunks(FPS, 3)]), codes[:3])
    assert VideoSource(ExrFrames(folder, ACESCG), fps=FPS / 2).count(FPS) == 18


def test_frames_of_another_program_are_light_where_that_is_said():
    """As nodes hand them over: a tensor, and the name of its space."""
    for name, space in FILE_SPACES.items():
        meant = GivenLight(name).meant
        codes = convert(LIGHT, space, ACESCCT).movedim(-1, 0)[None] * 2 - 1
        assert meant is space
        for given in (Picture(LIGHT, space=meant), KeepVideo(VideoSource(LIGHT, light=meant))):
            assert_close(seen(given), codes, atol=1e-5, rtol=0)
    assert GivenLight().meant is None
    assert_close(seen(Picture(LIGHT / 8, space=GivenLight().meant)), LIGHT.movedim(-1, 0)[None] / 4 - 1)
    with pytest.raises(SettingError, match="no green to be filled"):
        ReferenceVideo(VideoSource(LIGHT, light=ACESCG), fill=torch.ones(1, 64, 64))


MINIATURE = ltx2.open_models("miniature")


def lora(light: str | None) -> tuple:
    return SimpleNamespace(light=light, path=Path("hdr.safetensors")), None


def test_a_model_or_its_lora_says_what_its_frames_are():
    newest = SimpleNamespace(version="2.5", kind="LTX-2.5 dev")
    assert grade(newest, (), "ACEScg") == Grading(ACESCCT, ACESCG) and grade(newest, (), None) is None
    assert grade(MINIATURE, (lora(None), lora("logc3")), "sRGB linear") == Grading(LOGC3, SRGB_LINEAR)
    assert grade(MINIATURE, (lora("true"),), "ACEScct") == Grading(LOGC3, ACESCCT)
    with pytest.raises(SettingError, match=r"HDR needs LTX-2\.5, or an HDR IC-LoRA .*and this is"):
        grade(MINIATURE, (lora(None),), "ACEScg")
    with pytest.raises(CheckpointError, match=r"hdr\.safetensors says hdr_transform = .*; known are acescct, logc3"):
        grade(MINIATURE, (lora("pq"),), "ACEScg")


def test_light_and_ordinary_pictures_do_not_go_together():
    light, plain = Picture(LIGHT[:1], space=ACESCG), Picture(LIGHT[:1] / 8)
    film = KeepVideo(VideoSource(LIGHT / 8))
    native, by_lora = Grading(ACESCCT), Grading(LOGC3)
    for good in [([], None), ([plain, film], None), ([light], native), ([], native)]:
        check_light(*good, False)
    check_light([plain, film], by_lora, True)
    for conditions, grading, takes, said in [
        ([light, film], native, False, "do not go together"),
        ([light], None, False, "only LTX-2.5 sees"),
        ([light], by_lora, True, "only LTX-2.5 sees"),
        ([plain], native, False, "takes pictures and videos as EXR files"),
    ]:
        with pytest.raises(SettingError, match=said):
            check_light(conditions, grading, takes)


class Careful(SimpleNamespace):
    """An engine that notes which networks are to be in float32."""

    def in_float32(self, keys):
        names = [key.name for key in keys]
        return Careful(**{**vars(self), "wide": [*getattr(self, "wide", []), *names]})


def test_light_among_what_is_given_is_encoded_in_full_precision_by_a_model_that_sees_it():
    """On the graph nobody says that a clip is one of HDR."""
    newest = Careful(models=SimpleNamespace(version="2.5", kind="LTX-2.5 dev"), loras=())
    light, plain = KeepVideo(VideoSource(LIGHT, light=SRGB_LINEAR)), Picture(LIGHT[:1] / 8)
    assert prepare_encoding(newest, [plain]) is newest
    assert "video_encoder" in prepare_encoding(newest, [light]).wide
    with pytest.raises(SettingError, match="do not go together"):
        prepare_encoding(newest, [light, plain])
    with pytest.raises(SettingError, match=r"HDR needs LTX-2\.5, or an HDR IC-LoRA"):
        prepare_encoding(Careful(models=MINIATURE, loras=()), [light])
    with pytest.raises(SettingError, match="only LTX-2"):
        prepare_encoding(Careful(models=MINIATURE, loras=(lora("logc3"),)), [light])


# The command line


def command(*words: object) -> list[str]:
    return ["generate", "--prompt", "x", "--device", "cpu", *map(str, words)]


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        (["--image", "0:a.exr"], "a.exr is EXR, which holds light: say in which space with --hdr, one of sRGB-linear"),
        (["--image", "0:a.exr", "--hdr", "ACEScg"], "HDR needs LTX-2.5, or an HDR IC-LoRA"),
        (["--source", "plates", "--hdr", "ACEScg"], "plates are EXR frames, which have no frame rate of their own"),
        (["--source", "plates:start=1", "--hdr", "ACEScg", "--fps", "24"], "taken whole: leave start and seconds out"),
        (["--hdr", "aces"], "'aces' is not one of sRGB-linear, ACEScg, ACEScct"),
    ],
)
def test_what_cannot_be_is_one_sentence(words, fact, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plates").mkdir()
    for path in (tmp_path / "a.exr", tmp_path / "plates" / "1.exr"):
        write_exr(path, LIGHT[0])
    assert main(command("--output", "out", *words)) == 2
    assert fact in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_clip_of_hdr_from_exr_frames(tiny_files, tmp_path, capsys):
    """Both video networks compute in float32, whatever the others do."""
    plates = write_clip(tmp_path / "plates", [LIGHT], FPS, grading=Grading(ACESCG, ACESCG))
    checkpoint, gemma, _ = tiny_files("2.5")
    files = ["--checkpoint", checkpoint, "--text-encoder", gemma, "--sigmas", "1,0", "--precision", "bf16"]
    given = ["--source", plates, "--retake", "0.2:0.4", "--fps", 24, "--image", f"0:{plates / 'frame_00000.exr'}"]
    assert main(command(*files, *given, "--hdr", "ACEScg", "--output", tmp_path / "made")) == 0, capsys.readouterr()
    made = torch.cat([*ExrFrames(tmp_path / "made", ACESCG).read(range(9))])
    assert made.shape == (9, 64, 64, 3) and (tmp_path / "made" / "sound.wav").is_file()
    codes = convert(made, ACESCG, ACESCCT)
    assert ((codes * 256).frac() > 0.01).float().mean() > 0.9, "no finer than bfloat16"


# Any size


def test_a_clip_whose_reference_is_shown_whole_is_made_larger_and_cut_to_what_was_asked_for():
    """Without a size it is cut to what is no mirror image."""

    def sizes(edges="auto", hdr=None, **settings):
        film = ReferenceVideo(VideoSource(torch.zeros(9, 90, 160, 3)), edges=edges)
        made = Request.of("x", conditions=[film], hdr=hdr, **settings).completed(recipe_of(MINIATURE))
        return (made.final.width, made.final.height), made.shown

    asked = {"width": 160, "height": 90}
    assert sizes(hdr="ACEScg", **asked) == sizes("mirrored", **asked) == ((160, 96), (160, 90))
    assert sizes("mirrored", size="1:1") == ((96, 96), (96, 54))
    assert sizes("mirrored", width=160, height=96)[1] is None and sizes(**asked | {"height": 96}) == ((160, 96), None)
    for edges, hdr in (("auto", None), ("cut", "ACEScg")):
        with pytest.raises(SettingError, match="height is 90; it must be a multiple of 32"):
            sizes(edges, hdr, **asked)


def test_light_is_shown_whole_and_never_enlarged():
    film, shape = LIGHT[:, :50, :60], ClipShape(64, 64, 9, FPS)
    mirrored = F.pad(film.permute(0, 3, 1, 2), (0, 4, 0, 14), "reflect").permute(0, 2, 3, 1)
    whole = ReferenceVideo(VideoSource(film, light=ACESCG))
    assert_close(seen(whole, shape), seen(ReferenceVideo(VideoSource(mirrored, light=ACESCG)), shape))
    half = seen(replace(whole, downscale=2), replace(shape, width=128, height=64))
    assert half.shape[-2:] == (32, 64) and half[..., 38:].equal(half[..., 11:37].flip(-1))


# High quality


def test_a_reference_that_is_shown_twice_is_as_the_official_pipeline_has_it():
    """Each frame twice, cut to 2 n - 1 (``hdr_ic_lora.py`` of ltx-pipelines 1.2.0), and what is masked with it."""
    film = torch.rand(9, 64, 64, 3)
    once, shape = ReferenceVideo(VideoSource(film)), ClipShape(64, 64, 17, FPS)
    doubled = film.repeat_interleave(2, dim=0)[:17]
    assert_close(seen(replace(once, twice=True), shape), seen(ReferenceVideo(VideoSource(doubled)), shape))
    assert VideoSource(film, times=2).count(FPS) == 18 and VideoSource(film, times=3).count(FPS) == 27
    pieces = [*VideoSource(film, times=3).chunks(FPS, 7)]
    assert_close(torch.cat(pieces), film.repeat_interleave(3, dim=0)[:7])
    masks = {"fill": torch.rand(9, 64, 64).round(), "mask": torch.ones(1, 64, 64)}
    twice = {"fill": masks["fill"].repeat_interleave(2, dim=0)[:17], "mask": masks["mask"]}
    expected = ReferenceVideo(VideoSource(doubled), **twice)
    assert_close(seen(replace(once, twice=True, **masks), shape), seen(expected, shape))


def test_every_second_frame_is_kept_wherever_chunks_end():
    frames = torch.arange(17.0)[:, None, None, None]
    for sizes in ([17], [1] * 17, [3, 1, 5, 8]):
        assert torch.cat([*every_second(frames.split(sizes))]).flatten().tolist() == [*range(0, 17, 2)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "give reference videos and nothing else"),
        ({"conditions": [Picture(LIGHT[:1] / 8)]}, "give reference videos and nothing else"),
        ({"conditions": [ReferenceVideo(VideoSource(LIGHT / 8))]}, "no sound belongs"),
    ],
)
def test_high_quality_of_other_clips_is_refused(changes, said):
    with pytest.raises(SettingError, match=said):
        Request.of("x", high_quality=True, **changes).completed(recipe_of(MINIATURE))


@pytest.mark.slow
def test_high_quality_is_every_second_frame_of_a_clip_of_twice_the_frames():
    film, settings = LIGHT / 8, {"width": 64, "height": 64, "sigmas": [1.0, 0.0], "device": "cpu", "cache": False}
    lora = open_lora(MINIATURE_FOLDER / "loras" / "ic-motion.safetensors"), Strengths()
    settings |= {"loras": [lora], "streams": "picture only", "dtype": torch.float32}
    given = ReferenceVideo(VideoSource(film), downscale=lora[0].downscale)
    clip = ltx2.generate(MINIATURE, "a ball", frames=9, high_quality=True, conditions=[given], **settings)
    doubled = replace(given, video=VideoSource(film.repeat_interleave(2, dim=0)[:17]))
    whole = ltx2.generate(MINIATURE, "a ball", frames=17, conditions=[doubled], **settings)
    assert clip.latent.video.equal(whole.latent.video) and clip.fps == whole.fps and "Frames: 9," in clip.parameters
    assert_close(clip.frames, whole.frames[::2], atol=0, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(("stated", "space"), [("logc3", LOGC3), ("ACEScct", ACESCCT)])
def test_an_hdr_ic_lora_makes_light_of_an_ordinary_video(tmp_path, stated, space):
    """Its header says what its frames are; the clip is the one without ``hdr``, told to be light."""
    shipped = MINIATURE_FOLDER / "loras" / "ic-motion.safetensors"
    header = TensorFile(shipped).metadata | {"hdr_transform": stated}
    save_file(load_file(shipped), path := tmp_path / "hdr.safetensors", header)
    opened = open_lora(path)
    assert (opened.light, open_lora(shipped).light) == (stated.lower(), None)
    settings = {"width": 64, "height": 64, "frames": 9, "sigmas": [1.0, 0.0], "device": "cpu", "dtype": torch.float32}
    film = ReferenceVideo(VideoSource(LIGHT / 8), downscale=opened.downscale)
    settings |= {"conditions": [film], "loras": [(opened, Strengths())], "streams": "picture only"}
    clip = ltx2.generate(MINIATURE, "a ball", hdr="sRGB linear", **settings)
    assert clip.grading == Grading(space, SRGB_LINEAR)
    plain = ltx2.generate(MINIATURE, "a ball", **settings)
    assert_close(clip.frames, plain.frames, atol=1e-6, rtol=0)
    kept: list[Take] = []
    odd = settings | {"width": 60, "height": 50, "conditions": [replace(film, edges="mirrored")]}
    cut = ltx2.generate(MINIATURE, "a ball", **odd, on_latent=kept.append)
    assert cut.latent.video.equal(plain.latent.video) and cut.frames.equal(plain.frames[:, :50, :60])
    (again,) = decode_take(MINIATURE, load_take(save_take(tmp_path / "kept.safetensors", *kept)), Request.of(""))
    assert again.frames.shape == (9, 50, 60, 3)
