"""Wide gamuts and HDR become what an ordinary screen shows."""

import logging
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from ltx2_core.conditioning.sources import VideoSource
from ltx2_core.errors import MediaError
from ltx2_core.media import probe, read_picture, read_video
from ltx2_core.media.colour import (
    BT2020,
    DISPLAY_P3,
    HLG,
    LINEAR,
    PQ,
    fit_gamut,
    hlg_to_nits,
    matrix_to_bt709,
    nits_to_pq,
    pq_to_nits,
    to_bt709,
    tone_map,
)

BT709, UNKNOWN, ICTCP = 1, 2, 14


def grey(*values: float) -> torch.Tensor:
    return torch.tensor(values)[:, None].expand(-1, 3)


def test_the_curves_are_those_of_the_standards():
    """Values as BT.2408 (table 1) and BT.2100 name them: 203 nits are 58 % of PQ and 75 % of HLG."""
    assert nits_to_pq(torch.tensor([0.0, 100, 203, 1000, 10_000])).tolist() == pytest.approx(
        [0, 0.5081, 0.5807, 0.7518, 1], abs=1e-4
    )
    light = torch.tensor([0.01, 1, 100, 1000, 10_000])
    torch.testing.assert_close(pq_to_nits(nits_to_pq(light.double())), light.double(), rtol=1e-6, atol=0)
    assert hlg_to_nits(grey(0, 0.5, 0.75, 1))[:, 0].tolist() == pytest.approx([0, 50.7, 203, 1000], rel=1e-3)


def test_primaries_are_converted_by_the_matrix_of_bt_2087():
    expected = [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]]
    assert matrix_to_bt709(BT2020).tolist() == [pytest.approx(row, abs=1e-4) for row in expected]
    assert matrix_to_bt709(DISPLAY_P3).sum(1).tolist() == pytest.approx([1, 1, 1])


def test_light_is_rolled_off_by_the_curve_of_bt_2390():
    """By hand: with peaks of 1,000 and 203 nits the knee is at 0.659 of 0.7518, which is 88 nits; 203 become 158."""
    mapped = tone_map(grey(0, 1, 50, 88, 203, 1000, 4000))[:, 0].tolist()
    assert mapped[:4] == pytest.approx([0, 1, 50, 88], rel=1e-3)
    assert mapped[4:] == pytest.approx([159, 203, 203], rel=5e-3)


@pytest.mark.parametrize("transfer", [PQ, HLG, BT709])
@pytest.mark.parametrize("primaries", [BT2020, DISPLAY_P3, UNKNOWN])
def test_greys_stay_grey_and_in_order(primaries, transfer):
    made = to_bt709(torch.linspace(0, 1, 1001)[:, None].expand(-1, 3), primaries, transfer)
    assert (made.amax(-1) - made.amin(-1)).max() < 1e-4
    assert (made[:, 0].diff() > -1e-6).all()
    assert made[0].max() == 0 and made[-1].min() > 1 - 1e-4


@pytest.mark.parametrize(("transfer", "code"), [(PQ, 0.5807), (HLG, 0.75)])
def test_the_reference_white_of_hdr_is_a_light_grey(transfer, code):
    """159 of 203 nits, coded by a gamma of 2.4."""
    assert to_bt709(grey(code), BT2020, transfer)[0].tolist() == pytest.approx([0.903] * 3, abs=2e-3)


@pytest.mark.parametrize("transfer", [PQ, HLG, BT709])
def test_colours_of_bt_709_come_through_and_others_are_no_more_than_paler(transfer):
    light = torch.rand(500, 3, generator=torch.Generator().manual_seed(0)).double() ** 3
    wide = (light @ torch.linalg.inv(matrix_to_bt709(BT2020)).T).clamp(0, 1)
    if transfer == BT709:
        made = to_bt709(wide ** (1 / 2.4), BT2020, BT709)
        torch.testing.assert_close(made, light ** (1 / 2.4), rtol=0, atol=2e-3)
    for colour in torch.eye(3).double():
        for strength in (0.3, 0.7, 1.0):
            made = to_bt709(strength * colour, BT2020, transfer)
            assert made.argmax() == colour.argmax() and made.min() >= 0 and made.max() <= 1


def test_what_does_not_fit_keeps_its_luminance():
    weights = torch.tensor([0.2126, 0.7152, 0.0722])
    wide = torch.tensor([[1.66, -0.12, -0.02], [-0.3, 0.5, 0.2], [0.2, 0.4, 1.3], [0.2, 0.4, 0.6]])
    fitted = fit_gamut(wide)
    torch.testing.assert_close(fitted @ weights, wide @ weights, rtol=0, atol=1e-4)
    torch.testing.assert_close(fitted[-1], wide[-1])
    assert fitted.min() >= 0 and fitted.max() <= 1


def coded(path: Path, codes: list[int], primaries: int, transfer: int, matrix: int = 9) -> Path:
    """A file of three pictures in grey, of bars with these numbers in 10 bits, of limited range."""
    luma = np.repeat(np.array(codes, np.uint16), 32)[None].repeat(64, 0)
    frame = av.VideoFrame(luma.shape[1], 64, "yuv420p10le")
    for plane, values in zip(
        frame.planes, (luma, np.full_like(luma, 512)[::2, ::2], np.full_like(luma, 512)[::2, ::2])
    ):
        rows = np.zeros((plane.height, plane.line_size // 2), np.uint16)
        rows[:, : values.shape[1]] = values
        plane.update(rows.tobytes())
    options = {"crf": "1", "x265-params": "log-level=none:bframes=0"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx265", rate=24, options=options)
        stream.width, stream.height, stream.pix_fmt = luma.shape[1], 64, "yuv420p10le"
        context = stream.codec_context
        context.color_primaries, context.color_trc, context.colorspace = primaries, transfer, matrix
        context.color_range = 1
        for number in range(3):
            frame.pts, frame.time_base = number, Fraction(1, 24)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(("transfer", "name"), [(PQ, "PQ"), (HLG, "HLG")])
@pytest.mark.parametrize("matrix", [BT2020, UNKNOWN])
def test_an_hdr_video_is_tone_mapped_and_said_to_be(tmp_path, caplog, transfer, name, matrix):
    codes = [64, 300, 573, 721, 940]
    path = coded(tmp_path / "clip.mp4", codes, BT2020, transfer, matrix)
    with caplog.at_level(logging.INFO, "ltx2_core"):
        frames = torch.cat(list(read_video(path)))
    expected = to_bt709(grey(*((code - 64) / 876 for code in codes)), BT2020, transfer)
    assert (frames[:, 32, 16::32] - expected).abs().max() < 4e-3
    assert [record.getMessage() for record in caplog.records] == [
        f"clip.mp4 is HDR ({name}): it is tone-mapped to SDR (BT.709)."
    ]
    assert VideoSource(path).size() == probe(path).size == (160, 64)
    assert VideoSource(path).count(Fraction(24)) == 3


@pytest.mark.parametrize("primaries", [BT709, UNKNOWN])
def test_a_video_of_linear_light_is_brought_to_a_screen(tmp_path, primaries):
    """Read as it is, it would be far too dark."""
    path = coded(tmp_path / "clip.mp4", [64, 108, 240, 502, 940], primaries, LINEAR, BT709)
    light = grey(*((code - 64) / 876 for code in (64, 108, 240, 502, 940)))
    assert (next(read_video(path))[0, 32, 16::32] - light ** (1 / 2.4)).abs().max() < 0.02


def test_hdr_whose_colours_cannot_be_read_is_refused(tmp_path):
    path = coded(tmp_path / "clip.mp4", [64, 940], BT2020, PQ, ICTCP)
    with pytest.raises(MediaError, match=r"clip.mp4 is HDR \(PQ\) whose colours .* convert it to SDR"):
        list(read_video(path))


def test_a_wide_gamut_is_converted_in_a_file(tmp_path):
    """The same colour, coded for BT.709 and for BT.2020 primaries, is read as the same."""
    colours = torch.tensor([[0.8, 0.3, 0.2], [0.2, 0.6, 0.3], [0.3, 0.3, 0.8], [0.5, 0.5, 0.5]]).double()
    wide = ((colours**2.4) @ torch.linalg.inv(matrix_to_bt709(BT2020)).T) ** (1 / 2.4)
    pixels = (wide * 255).round().byte().numpy().repeat(32, 0)[None].repeat(64, 0)
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx265", rate=24, options={"crf": "1", "x265-params": "log-level=none:bframes=0"}
        )
        stream.width, stream.height, stream.pix_fmt = 128, 64, "yuv420p10le"
        context = stream.codec_context
        context.color_primaries, context.color_trc, context.colorspace, context.color_range = 9, 14, 9, 1
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        frame = frame.reformat(format="yuv420p10le", dst_colorspace=9, dst_color_range=1)
        frame.pts, frame.time_base = 0, Fraction(1, 24)
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert (next(read_video(path))[0, 32, 16::32] - colours).abs().max() < 0.015


def tagged(path: Path, code: int, *tags: int, profile: bytes | None = None) -> Path:
    """A grey PNG that says its primaries, transfer, matrix and range (chunk cICP)."""
    Image.fromarray(np.full((16, 24, 3), code, np.uint8)).save(path, icc_profile=profile)
    content, chunk = path.read_bytes(), b"cICP" + bytes(tags)
    end = content.index(b"IHDR") + 21
    size, check = (len(tags)).to_bytes(4, "big"), zlib.crc32(chunk).to_bytes(4, "big")
    path.write_bytes(content[:end] + size + chunk + check + content[end:])
    return path


class Older:
    """What PyAV gave before version 17: pictures, in packets or by themselves, that know no primaries and transfer."""

    def __init__(self, real):
        self.real = real

    def __getattr__(self, name):
        if name in ("color_primaries", "color_trc"):
            raise AttributeError(name)
        return getattr(self.real, name)

    def decode(self, *streams, **places):
        return map(Older, self.real.decode(*streams, **places))

    def demux(self, *streams):
        return map(Older, self.real.demux(*streams))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.real.close()


class Scaler:
    """That of PyAV, for pictures of which ``Older`` hides something."""

    def __init__(self, real):
        self.real = real

    def reformat(self, frame, **how):
        return self.real.reformat(getattr(frame, "real", frame), **how)


def test_colours_are_read_by_a_pyav_whose_pictures_do_not_name_them(tmp_path, monkeypatch):
    real = av.video.reformatter.VideoReformatter
    monkeypatch.setattr(av.video.reformatter, "VideoReformatter", lambda: Scaler(real()))
    video = coded(tmp_path / "clip.mp4", [64, 300, 721], BT2020, HLG)
    picture = tagged(tmp_path / "hdr.png", 148, BT2020, PQ, 0, 1)
    now, before = [], av.open
    for read in (lambda: torch.cat(list(read_video(video))), lambda: read_picture(picture)):
        now.append(read())
        monkeypatch.setattr(av, "open", lambda *args, **options: Older(before(*args, **options)))
        assert torch.equal(read(), now[-1])
        monkeypatch.setattr(av, "open", before)


def test_an_hdr_picture_is_tone_mapped_and_an_ordinary_one_is_not(tmp_path):
    hdr = read_picture(tagged(tmp_path / "hdr.png", 148, BT2020, PQ, 0, 1))
    assert hdr.shape == (1, 16, 24, 3)
    torch.testing.assert_close(hdr[0, 0], to_bt709(grey(148 / 255), BT2020, PQ).expand(24, 3), rtol=0, atol=1e-3)
    plain = read_picture(tagged(tmp_path / "plain.png", 148, BT709, 13, 0, 1))
    assert torch.equal(plain, torch.full((1, 16, 24, 3), 148).float() / 255)
    with (tmp_path / "plain.png").open("rb") as file:
        assert torch.equal(read_picture(file), plain)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()  # which counts behind the chunk
    for picture, *tags in ((hdr, BT2020, PQ), (plain, BT709, 13)):
        assert torch.equal(read_picture(tagged(tmp_path / "both.png", 148, *tags, 0, 1, profile=profile)), picture)


@pytest.mark.parametrize("tags", [(UNKNOWN, UNKNOWN, 0, 1), (BT709, UNKNOWN, 0, 1), (99, PQ, 0, 1), (BT2020,), ()])
def test_a_profile_counts_where_a_png_names_colours_that_are_not_known(tmp_path, tags):
    """Its red is as bright as its green."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    red, green = (profile.index(name) + 4 for name in (b"rXYZ", b"gXYZ"))
    profile = profile[:red] + profile[green : green + 8] + profile[red + 8 :]
    Image.fromarray(np.full((16, 24, 3), 148, np.uint8)).save(tmp_path / "profile.png", icc_profile=profile)
    meant = read_picture(tmp_path / "profile.png")
    assert (meant - 148 / 255).abs().max() > 0.1
    assert torch.equal(read_picture(tagged(tmp_path / "both.png", 148, *tags, profile=profile)), meant)


def test_a_picture_of_display_p3_is_the_one_that_a_profile_would_say(tmp_path):
    """Such as screens of Apple, in the curve of sRGB: dark greens and reds would be 20 of 255 off by another one."""
    codes = torch.tensor([40.0, 180.0, 70.0]) / 255
    light = torch.where(codes <= 0.04045, codes / 12.92, ((codes + 0.055) / 1.055) ** 2.4)
    wide = torch.linalg.inv(matrix_to_bt709(DISPLAY_P3)).to(light) @ light
    coded = torch.where(wide <= 0.0031308, wide * 12.92, 1.055 * wide ** (1 / 2.4) - 0.055)
    path = tagged(tmp_path / "p3.png", (coded * 255).round().tolist(), DISPLAY_P3, 13, 0, 1)
    assert (read_picture(path)[0, 0, 0] - codes).abs().max() < 1.5 / 255


def test_a_matrix_that_is_kept_lies_on_the_cpu():
    """Whoever asks first may count on shapes, or compute on a card."""
    matrix_to_bt709.cache_clear()
    with torch.device("meta"):
        assert matrix_to_bt709(BT2020).is_cpu
