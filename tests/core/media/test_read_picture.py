"""A picture is what was saved: upright, in its colours, as bright as it was meant."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, PngImagePlugin
from torch import Tensor

from ltx2_core.errors import MediaError
from ltx2_core.media import read_picture, widened


def saved(path: Path, pixels: Tensor, **more) -> Path:
    Image.fromarray((pixels * 255).round().byte().numpy()).save(path, **more)
    return path


def test_a_picture_is_what_was_saved(tmp_path):
    pixels = torch.rand(5, 7, 3)
    picture = read_picture(saved(tmp_path / "picture.png", pixels))
    assert picture.shape == (1, 5, 7, 3) and (picture - pixels).abs().max() <= 0.5001 / 255
    transparent = torch.cat([pixels, torch.zeros(5, 7, 1)], dim=-1)
    assert torch.equal(read_picture(saved(tmp_path / "transparent.png", transparent)), picture)
    grey = read_picture(saved(tmp_path / "grey.png", pixels[..., 0]))
    assert torch.equal(grey, picture[..., :1].expand(-1, -1, -1, 3))
    Image.fromarray((pixels[..., 0] * 65535).round().numpy().astype(np.uint16)).save(tmp_path / "depth.png")
    assert (read_picture(tmp_path / "depth.png")[0] - pixels[..., :1]).abs().max() < 0.51 / 255


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [(1, lambda x: x), (3, lambda x: x.rot90(2)), (6, lambda x: x.rot90(-1)), (8, lambda x: x.rot90(1))],
)
def test_a_picture_is_turned_as_it_says(tmp_path, orientation, turn):
    pixels = torch.rand(5, 7, 3)
    exif = Image.Exif()
    exif[0x112] = orientation
    picture = read_picture(saved(tmp_path / "picture.png", pixels, exif=exif))
    assert (picture[0] - turn(pixels)).abs().max() <= 0.5001 / 255


def test_a_picture_comes_in_the_colours_of_srgb(tmp_path):
    """In this profile, what is called red is green."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = profile.replace(b"rXYZ", b"temp").replace(b"gXYZ", b"rXYZ").replace(b"temp", b"gXYZ")
    red = torch.tensor([1.0, 0, 0]).expand(4, 4, 3)
    assert (read_picture(saved(tmp_path / "red.png", red, icc_profile=profile)) - red).abs().max() < 0.01
    green = read_picture(saved(tmp_path / "green.png", red, icc_profile=swapped))
    assert (green - red[..., [1, 0, 2]]).abs().max() < 0.01
    grey = read_picture(saved(tmp_path / "grey.png", red[..., 0], icc_profile=swapped))
    assert torch.equal(grey, torch.ones(1, 4, 4, 3)), "a profile for other channels is ignored"


def grey_profile(gamma: float) -> bytes:
    """An ICC profile (version 2) for grey with this curve."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    tags = struct.pack(">I", 2) + b"kTRC" + struct.pack(">II", 156, 14) + b"wtpt" + struct.pack(">II", 172, 20)
    header = struct.pack(">I4sI4s4s4s12s4s", 192, bytes(4), 0x02400000, b"mntr", b"GRAY", b"XYZ ", bytes(12), b"acsp")
    header += bytes(28) + struct.pack(">3i", 63190, 65536, 54061) + bytes(48)
    return header + tags + curve + white


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_grey_with_a_profile_is_as_bright_as_that_means(tmp_path, kind):
    """With 16 bits it was read as if it had none."""
    values = np.linspace(0.2, 1, 9)
    pixels = (values * np.iinfo(kind).max).round().astype(kind)[None]
    Image.fromarray(pixels).save(tmp_path / "grey.png", icc_profile=grey_profile(1.0))
    expected = torch.from_numpy(1.055 * values ** (1 / 2.4) - 0.055).float()
    assert (read_picture(tmp_path / "grey.png")[0, 0] - expected[:, None]).abs().max() < 0.01


@pytest.mark.parametrize("chunks", [{b"gAMA": struct.pack(">I", 100_000)}, {b"cICP": bytes((1, 8, 0, 1))}])
def test_a_png_of_linear_light_is_coded_as_srgb(tmp_path, chunks):
    """As libpng does for a screen of sRGB; by the gamma of video it was up to 11 of 255 too bright."""
    values = np.linspace(0, 255, 52).round().astype(np.uint8)
    information = PngImagePlugin.PngInfo()
    for name, content in chunks.items():
        information.add(name, content)
    Image.fromarray(np.repeat(values[None, :, None], 3, axis=2)).save(tmp_path / "light.png", pnginfo=information)
    light = values / 255
    expected = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    assert np.abs(read_picture(tmp_path / "light.png")[0, 0].numpy() - expected[:, None]).max() < 0.6 / 255


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "tif", "bmp"])
def test_a_picture_that_is_cut_off_is_refused(tmp_path, suffix):
    path = saved(tmp_path / f"picture.{suffix}", torch.rand(64, 64, 3))
    content = path.read_bytes()
    for share in (0.02, 0.3, 0.6, 0.9, 0.97):
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(MediaError, match=rf"picture\.{suffix} cannot be read as a picture"):
            read_picture(path)


def test_a_picture_of_other_numbers_is_as_bright_as_it_was_meant_or_refused(tmp_path):
    ramp, path = torch.linspace(0, 1, 48).view(6, 8), tmp_path / "picture.tif"
    Image.fromarray(ramp.numpy()).save(path)
    assert torch.equal(read_picture(path)[0], ramp[..., None].expand(-1, -1, 3)), "floating-point numbers"
    Image.fromarray(torch.full((6, 8), 0.5).numpy()).save(path)
    assert torch.equal(read_picture(path)[0], torch.full((6, 8, 3), 0.5)), "of one grey alone"
    Image.fromarray((ramp * 65535).round().numpy().astype(np.uint16)).save(path)
    assert (read_picture(path)[0] - ramp[..., None]).abs().max() < 0.51 / 255, "16 bits"
    for values in (ramp * 4, ramp - 0.5, ramp / 0 * 0, (ramp * 2**30).int()):
        Image.fromarray(values.numpy()).save(path)
        with pytest.raises(MediaError, match=r"picture\.tif has values from .* save it with 8 or 16 bits"):
            read_picture(path)


def test_colours_of_16_bits_are_as_bright_as_they_were_meant(tmp_path):
    """As FFmpeg writes them."""
    pixels = torch.rand(16, 16, 3)
    for suffix, codec, order in (("png", "png", "rgb48be"), ("tif", "tiff", "rgb48le")):
        path, picture = tmp_path / f"picture.{suffix}", (pixels * 65535).round().numpy().astype(np.uint16)
        coder = av.CodecContext.create(codec, "w")
        coder.width, coder.height, coder.pix_fmt, coder.time_base = 16, 16, order, Fraction(1, 24)
        frame = av.VideoFrame.from_ndarray(picture, format="rgb48le").reformat(format=coder.pix_fmt)
        path.write_bytes(b"".join(bytes(packet) for each in (frame, None) for packet in coder.encode(each)))
        assert (read_picture(path)[0] - pixels).abs().max() < 1.1 / 255


def test_transparency_palettes_and_inks_leave_colours_as_they_are(tmp_path):
    colours = torch.tensor([[200, 40, 60], [30, 180, 90], [50, 60, 220], [255, 255, 255], [0, 0, 0]]) / 255
    pixels = colours.repeat_interleave(4, 0).expand(8, -1, -1)
    eight = Image.fromarray((pixels * 255).round().byte().numpy())
    half = Image.fromarray(np.full((8, 20), 128, np.uint8))
    see_through = eight.copy()
    see_through.putalpha(half)
    for number, (picture, suffix, most) in enumerate(
        [
            (see_through, "png", 0),
            (see_through, "tif", 0),
            (eight.quantize(8), "png", 0),
            (eight.quantize(8), "gif", 0),
            (eight.convert("CMYK"), "tif", 2),
            (eight.convert("CMYK"), "jpg", 16),
            (eight.convert("L").convert("1"), "png", None),
            (eight.convert("LA"), "png", None),
        ]
    ):
        picture.save(tmp_path / f"{number}.{suffix}", quality=100)
        expected = pixels if most is not None else torch.from_numpy(np.array(picture.convert("RGB"))) / 255
        assert (read_picture(tmp_path / f"{number}.{suffix}")[0] - expected).abs().max() <= ((most or 0) + 0.01) / 255


def test_frames_that_a_host_decoded_become_as_wide_as_they_are_seen():
    frames = torch.rand(2, 4, 6, 3)
    torch.testing.assert_close(
        widened(frames[:, :, :1].expand(-1, -1, 6, 3), (12, 4)), frames[:, :, :1].expand(-1, -1, 12, 3)
    )
    assert all(widened(frames, size) is frames for size in (None, (6, 4), (4, 6)))
