"""Given pictures reach the encoder in the clip's size, and as a video would have shown them."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from ltx2_core.checkpoint.versions import VERSIONS
from ltx2_core.conditioning.preprocess import fit
from ltx2_core.media import compress


def plane(height: int, width: int) -> torch.Tensor:
    """A picture (1, height, width, 3) whose red is the place from left to right, and green from top to bottom."""
    y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
    return torch.stack([x, y, torch.zeros_like(x)], dim=-1)[None]


# Size and range


def test_a_picture_of_the_right_size_only_changes_its_range():
    picture = torch.rand(3, 32, 64, 3)
    assert_close(fit(picture, 64, 32), 2 * picture.movedim(-1, 0)[None] - 1)


@pytest.mark.parametrize("size", [(32, 32), (100, 40), (33, 77), (640, 480), (20, 90)])
def test_a_picture_covers_the_clip_and_is_cropped_at_its_centre(size):
    fitted = fit(plane(*size), 96, 64)
    assert fitted.shape == (1, 3, 1, 64, 96)
    scale = max(64 / size[0], 96 / size[1])
    for channel, (old, new) in enumerate(zip(reversed(size), (96, 64))):
        places = (fitted[0, channel, 0].movedim(channel, 0)[0] + 1) / 2 * old * scale  # in pixels of the clip
        expected = torch.arange(new) + 0.5 + (old * scale - new) / 2
        inside = slice(8, -8)  # at its border a picture has no neighbour to mix with
        assert (places - expected)[inside].abs().max() < 1, "at most the rounding of size and offset away"


def test_sizes_are_rounded_up_and_nothing_smooths_what_becomes_smaller():
    """50 x 70 becomes 68.57 x 96, so 69 rows, of which two are cut off above; 200 x 280 is read at two places each."""
    for height, width in ((50, 70), (200, 280)):
        picture = torch.rand(1, height, width, 3)
        expected = F.interpolate(picture.movedim(-1, 1), (69, 96), mode="bilinear")[0, :, 2:66] * 2 - 1
        assert_close(fit(picture, 96, 64)[0, :, 0], expected)


def test_an_odd_rest_is_cut_off_at_the_end():
    picture = torch.zeros(1, 32, 35, 3)
    picture[:, :, 1] = 1
    assert fit(picture, 32, 32)[0, 0, 0, 0].tolist() == [1] + 31 * [-1]


# Compression


def error(picture: torch.Tensor, crf: int) -> float:
    return (compress(picture, crf) - picture).square().mean().item()


def test_a_higher_crf_loses_more_and_0_nothing():
    picture = plane(64, 96) + 0.1 * torch.rand(1, 64, 96, 3)
    assert torch.equal(compress(picture, 0), picture)
    assert 0 < error(picture, 10) < error(picture, VERSIONS["2.3"].image_crf) < error(picture, 45) < 0.01


def test_an_odd_last_row_and_column_are_cut_off():
    assert compress(torch.rand(1, 33, 65, 3), 33).shape == (1, 32, 64, 3)
    tiny = torch.rand(1, 1, 65, 3)
    assert torch.equal(compress(tiny, 33), tiny)


def test_a_compressed_picture_stays_where_it_was():
    picture = plane(64, 96)
    assert (compress(picture, 33)[..., :2] - picture[..., :2]).abs().mean() < 0.02
