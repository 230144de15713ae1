"""What is filled of a reference, painted around it, and blended with it afterwards."""

import json
from fractions import Fraction
from functools import partial
from pathlib import Path

import pytest
import torch
from agreement import compare
from conditions import FPS, FRAMES, Seen, encoded
from torch.testing import assert_close

from ltx2_core.conditioning.blend import Blending, blend, grown, widen
from ltx2_core.conditioning.conditions import ReferenceVideo
from ltx2_core.conditioning.fill import GREEN, grow, paint
from ltx2_core.conditioning.pictures import Picture
from ltx2_core.conditioning.preprocess import fit
from ltx2_core.conditioning.sources import VideoSource
from ltx2_core.errors import SettingError
from ltx2_core.geometry import ClipShape

SHAPE = ClipShape(96, 64, len(FRAMES), FPS)


def test_what_is_filled_is_that_of_the_official_nodes():
    """Numbers of ComfyUI-LTXVideo's LTXVDilateVideoMask and LTXVInpaintPreprocess; their inputs are drawn here."""
    recorded = json.loads((Path(__file__).parents[2] / "golden" / "test_vectors_fill.json").read_text())
    draw = partial(torch.rand, generator=torch.Generator().manual_seed(recorded["seed"]))
    frames, soft = draw(9, 32, 64, 3), draw(9, 32, 64)
    for case in recorded["cases"]:
        mask = soft * case["times"]
        encode = Seen()
        reference = ReferenceVideo(
            VideoSource(frames), fill=mask, grow=case["spatial_radius"], grow_frames=case["temporal_radius"]
        )
        encoded(reference, shape=ClipShape(64, 32, 9, FPS), encode=encode)
        grown = grow(mask, case["spatial_radius"], case["temporal_radius"])
        shown = (encode.pixels[0][0].movedim(0, -1) + 1) / 2
        for kind, ours in (("mask", grown), ("image", shown)):
            compare(f"fill of a reference ({kind})", ours.flatten()[::211], torch.tensor(case[kind]))
        assert 0 < grown.mean() < 1


def test_what_grows_lies_above_one_half():
    assert grow(torch.tensor([[[0.5, 0.0, 0.0, 0.51]]]), 1, 0).tolist() == [[[0, 0, 1, 1]]]


def test_what_is_filled_goes_with_its_frames():
    """Where they are read in pieces, and where only every second one is shown."""
    fill = torch.zeros(17, 64, 96)
    fill[9, :, :32] = 1
    encode = Seen()
    reference = ReferenceVideo(VideoSource(FRAMES[:17]), 1, 2, fill=fill)
    encoded(reference, shape=ClipShape(96, 64, 17, FPS), encode=encode)
    green = torch.tensor(GREEN) / 255 * 2 - 1
    shown = encode.pixels[0][0]
    assert_close(shown[:, 5, :, :32], green.view(3, 1, 1).expand(3, 64, 32))  # frames 0, 1, 3, 5, 7, 9
    assert_close(shown[:, 5, :, 32:], FRAMES[9].movedim(-1, 0)[:, :, 32:] * 2 - 1)
    assert_close(shown[:, 4], FRAMES[7].movedim(-1, 0) * 2 - 1)
    chunks = list(FRAMES[:17].movedim(-1, 0)[None].split(8, dim=2))
    pieces = torch.cat([*paint(chunks, fill)], dim=2)
    assert_close(pieces, torch.cat([*paint([torch.cat(chunks, dim=2)], fill)], dim=2))
    with pytest.raises(SettingError, match="16 masks, and 17 frames"):
        encoded(ReferenceVideo(VideoSource(FRAMES), fill=fill[1:]), shape=ClipShape(96, 64, 17, FPS))


@pytest.mark.parametrize(
    ("place", "margin", "inner"),
    [
        ("around", 0.0, (48, 0, 64, 64)),
        ("left", 0.0, (96, 0, 64, 64)),
        ("right", 0.5, (0, 16, 32, 32)),
        ("top", 0.5, (64, 32, 32, 32)),
        ("bottom", 0.5, (64, 0, 32, 32)),
    ],
)
def test_what_lies_around_a_reference_is_painted(place, margin, inner):
    """A square in a clip of 160 x 64; what is filled of the square stays where it is in it."""
    square, fill, encode = FRAMES[:9, :, :64], torch.zeros(1, 64, 64), Seen()
    fill[:, :, :16] = 1
    reference = ReferenceVideo(VideoSource(square), outpaint=place, margin=margin, fill=fill)
    shape = ClipShape(160, 64, 9, FPS)
    encoded(reference, shape=shape, encode=encode)
    left, top, width, height = inner
    shown, green = encode.pixels[0][0], (torch.tensor(GREEN) / 255 * 2 - 1).view(3, 1, 1, 1)
    free = torch.ones(64, 160, dtype=torch.bool)
    free[top : top + height, left + width // 4 : left + width] = False
    is_green = torch.isclose(shown, green.expand_as(shown), atol=1e-6).all(0)
    assert torch.equal(is_green, free.expand(9, -1, -1))
    inside = shown[:, :, top : top + height, left + width // 4 : left + width]
    assert_close(inside, fit(square, width, height)[0, :, :, :, width // 4 :])


def test_blended_frames_are_those_of_the_official_node():
    """Numbers of ComfyUI-LTXVideo's LTXVLaplacianPyramidBlend; its inputs are drawn here."""
    recorded = json.loads((Path(__file__).parents[2] / "golden" / "test_vectors_blend.json").read_text())
    draw, cases = partial(torch.rand, generator=torch.Generator().manual_seed(recorded["seed"])), recorded["cases"]
    for pair in zip(cases[::2], cases[1::2]):
        height, width = pair[0]["size"]
        made, kept, mask = draw(3, height, width, 3), draw(3, height, width, 3), torch.zeros(3, height, width)
        mask[:, height // 4 : height // 2, width // 3 : 2 * width // 3] = 1
        mask[1:, :, : width // 4] = draw(2, height, width // 4)
        for case in pair:
            wide = widen(mask, case["radius"])
            compare("mask of a blend", wide.flatten()[::101], torch.tensor(case["mask"]))
            compare("blended frames", blend(made, kept, wide).flatten()[::211], torch.tensor(case["image"]))


def test_a_blended_clip_is_the_reference_far_from_what_was_made_anew():
    """In pieces of any size; at the double size, where the reference has ended, and where no part was made anew."""
    fill, made = torch.zeros(1, 64, 96), 1 - FRAMES
    fill[:, :, :16] = 1
    given = [Picture(FRAMES[:1]), ReferenceVideo(VideoSource(FRAMES[:9]), fill=fill)]
    whole, pieces = (
        torch.cat([*Blending(0).frames(chunks, given, SHAPE)]) for chunks in ([made], made.split((7, 1, 25)))
    )
    assert torch.equal(whole, pieces) and torch.equal(whole[9:], made[9:])
    assert (whole[:9, :, 64:].mean() - FRAMES[:9, :, 64:].mean()).abs() < 2e-3
    assert (whole[:9, :, :8].mean() - made[:9, :, :8].mean()).abs() < 0.02
    assert_close(whole[:9, 8:-8, -16:], FRAMES[:9, 8:-8, -16:], atol=0.05, rtol=0)
    large = torch.zeros(9, 128, 192, 3)
    assert torch.cat([*Blending(2).frames([large], grown(given, Fraction(2)), SHAPE)]).shape == large.shape
    with pytest.raises(SettingError, match="nothing to blend"):
        list(Blending().frames([made], [ReferenceVideo(VideoSource(FRAMES))], SHAPE))
    with pytest.raises(SettingError, match="cannot hold NaN or infinite numbers"):
        list(Blending().frames([made * float("nan")], given, SHAPE))
