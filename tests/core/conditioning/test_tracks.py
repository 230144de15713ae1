"""Motion tracks: which pixels are drawn in which colour, and what is refused."""

import json
from fractions import Fraction

import pytest
import torch
from torch.testing import assert_close

from ltx2_core.conditioning import ReferenceVideo, VideoSource
from ltx2_core.conditioning.tracks import FARTHEST, MotionTracks, curve
from ltx2_core.errors import SettingError
from ltx2_core.geometry import ClipShape


def track(*points: tuple[float, float]) -> list[dict[str, float]]:
    return [{"x": x, "y": y} for x, y in points]


def drawn(tracks: list, *numbers: int, **size: int) -> torch.Tensor:
    """The frames of these numbers, one below the other (N, H, W, 3)."""
    return torch.cat([*MotionTracks(json.dumps(tracks), **size).read(numbers)])


def by_the_rule(points: list[tuple[int, int]], frame: int, width: int, height: int) -> torch.Tensor:
    """One frame (H, W, 3), pixel by pixel: the newest point that covers it decides."""
    picture = torch.zeros(height, width, 3)
    for y in range(height):
        for x in range(width):
            for age in range(min(frame, 50) + 1):
                r, (left, top) = 1 - age / 50, points[frame - age]
                if (x - left) ** 2 + (y - top) ** 2 <= (2 + 6 * r) ** 2:
                    red = max(0, min(1, 3 * r - 1))
                    green = 3 * r if r <= 1 / 3 else min(1, 3 - 3 * r)
                    picture[y, x] = torch.tensor([max(0, 1 - 3 * r), green, red])  # BGR
                    break
    return picture


def test_every_pixel_follows_the_rule():
    """At 1080 lines nothing is resized; near the corner the trail is cut by both edges, and crosses itself."""
    points = [(3 * number, 4) for number in range(20)] + [(60 - 2 * number, number // 2) for number in range(55)]
    frames = drawn([track(*points)], 0, 30, 74, width=1080, height=1080, frames=75)
    for frame, number in zip(frames, (0, 30, 74)):
        assert_close(frame[:50, :80], by_the_rule(points, number, 80, 50))
        assert frame[50:].any() == frame[:, 80:].any() == False  # noqa: E712


def test_the_newest_point_is_red_in_bgr_and_those_of_fifty_one_frames_ago_are_gone():
    points = [(100 + 15 * number, 500) for number in range(52)]
    (frame,) = drawn([track(*points)], 51, width=1080, height=1080, frames=52)
    assert frame[500, points[51][0]].tolist() == [0, 0, 1]
    assert frame[500, points[1][0]].tolist() == [1, 0, 0]
    assert not frame[500, points[0][0]].any()


def test_points_stay_where_they_are_at_every_size():
    for width, height in ((768, 512), (512, 768), (1920, 1088)):
        (frame,) = drawn([track((width * 0.25, height * 0.75))], 3, width=width, height=height, frames=4)
        assert frame.shape == (height, width, 3)
        rows, columns = frame.sum(-1).nonzero().double().mean(0).tolist()
        assert abs(rows - height * 0.75) < 1.5 and abs(columns - width * 0.25) < 1.5


def test_few_points_become_a_curve_through_them():
    line = curve(torch.tensor([[0.0, 0.0], [30.0, 60.0]]), 4)
    assert line.tolist() == [[0, 0], [10, 20], [20, 40], [30, 60]]
    corner = curve(torch.tensor([[0.0, 0.0], [80.0, 0.0], [80.0, 80.0]]), 5)
    assert corner.tolist() == [[0, 0], [40, -5], [80, 0], [85, 40], [80, 80]]
    assert curve(torch.tensor([[5.0, 7.0]]), 3).tolist() == [[5, 7]] * 3
    whole = torch.rand(9, 2)
    assert torch.equal(curve(whole, 9), whole) and torch.equal(curve(whole, 5), whole[:5])


def test_tracks_are_those_of_one_point_list_or_of_several_and_none_is_one_black_frame():
    size = {"width": 256, "height": 256, "frames": 2}
    one, other = track((40, 40), (80, 80)), track((200, 200))
    assert drawn(one, 0, **size).any() and drawn(other, 1, **size).any(), "a picture too small for any track"
    assert torch.equal(drawn(one, 0, 1, **size), drawn([one, []], 0, 1, **size))
    assert_close(drawn([one, other], 1, **size), drawn([one], 1, **size) + drawn([other], 1, **size))
    for nothing in ([], [[]]):
        source = MotionTracks(json.dumps(nothing), **size)
        (frame,) = source.read(range(len(source)))
        assert frame.shape == (1, 256, 256, 3) and not frame.any()


def test_a_reference_of_tracks_is_drawn_as_it_is_read():
    seen = []

    class Encoders:
        crf = 0

        def video(self, read, shape):
            chunks = [*read()]
            seen.append((max(len(each[0, 0]) for each in chunks), torch.cat(chunks, 2), shape))
            return torch.zeros(1, 128, 2, 1, 1)

    tracks = MotionTracks(json.dumps(track((80, 80), (200, 80))), width=256, height=256, frames=12)
    reference = ReferenceVideo(VideoSource(tracks), downscale=2)
    (tokens,) = reference.encode(ClipShape(256, 256, 17, Fraction(24)), ("video",), Encoders())
    ((largest, pixels, shape),) = seen
    assert largest == 1 and shape == (9, 128, 128) and pixels.shape == (1, 3, 9, 128, 128) and tokens.downscale == 2
    assert pixels[0, 2, 0, 40, 40] > 0 and pixels.min() == -1


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("", "no JSON"),
        ('[[{"x": 1, "y": 2, "x": 3}]]', "comes twice"),
        ("[[" * 100_000, "no JSON"),
        ('{"x": 1, "y": 2}', "an object"),
        ("null", "null"),
        ("[[1]]", "point 1 of track 1"),
        ("[5]", "Track 1 is a number"),
        ('[[{"x": 1, "y": 1}], "x"]', "Track 2 is a text"),
        ('[{"x": 1, "y": 1}, {"x": 1}]', "point 2 of track 1"),
        ('[{"x": "a", "y": 1}]', "x of point 1"),
        ('[{"x": true, "y": 1}]', "x of point 1"),
        ('[{"x": 1, "y": NaN}]', "y of point 1"),
        ('[{"x": 1, "y": -Infinity}]', "y of point 1"),
        (f'[{{"x": {FARTHEST + 1}, "y": 1}}]', "100000"),
        (f'[{{"x": 1{"0" * 400}, "y": 1}}]', "300 digits"),
        (" " * 1_000_001, "1,000,001"),
    ],
)
def test_what_is_no_track_is_refused_in_one_sentence(text, facts):
    with pytest.raises(SettingError) as refusal:
        MotionTracks(text)
    assert facts in str(refusal.value) and "\n" not in str(refusal.value) and len(str(refusal.value)) < 300


@pytest.mark.parametrize("size", [{"width": 0}, {"height": 10**9}, {"frames": 0}, {"width": 4096, "height": 256}])
def test_a_size_that_cannot_be_is_refused(size):
    with pytest.raises(SettingError):
        MotionTracks("[]", **size)
