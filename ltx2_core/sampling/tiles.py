"""Pictures and lengths that are too much for one call of the network, in overlapping tiles.

Of the video, tiles see and make only their part; what overlaps is blended with linear ramps (spec: conditioning.md,
section 7a). Sound has no place in the picture and is never made of tiles: all of them hear it whole, and a sound that
is not held fixed follows from a view of the whole picture, in which only every second, third ... cell of a row is left
so that it is no larger than a tile.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product

import torch
from torch import Tensor

from ..conditioning import AVState
from ..geometry import SPACE_SCALE, pixel_frames
from ..latents import AVLatent
from ..transformer import Pass, StreamInput
from ..video_vae.tiling import Span, blend_weights
from .denoiser import Network, Velocities

Size = Sequence[int]  # time, height, width

_SIDE = 16  # cells; only what is smaller than that is cut in time, too


@dataclass(frozen=True)
class Tiles:
    """How many tiles there are along time, height and width, and how many cells of the latent neighbours share.

    Each tile is where it is in the whole clip. With ``local`` ones all start at 0, as if each was a clip by itself: for
    clips that are larger or longer than those that the model was trained on.
    """

    counts: Size
    overlap: Size = (4, 4, 4)
    local: bool = False

    def __post_init__(self):
        if min(self.counts) < 1 or min(self.overlap) < 0:
            raise ValueError(
                f"{self.counts} tiles that share {self.overlap} cells cannot be: along time, height and width there "
                "must be at least 1 tile, and at least 0 cells."
            )

    @classmethod
    def within(cls, size: Size, tokens: int, overlap: Size = (4, 4, 4), local: bool = False) -> "Tiles":
        """Tiles of a latent (F, H, W) that have at most ``tokens`` cells; time is cut last."""
        tiles = cls((1, 1, 1), overlap, local)
        while math.prod(sides := tiles.largest(size)) > tokens:
            axis = 1 if sides[1] >= sides[2] else 2
            axis = axis if sides[axis] > _SIDE or sides[0] == 1 else 0
            counts = [count + (number == axis) for number, count in enumerate(tiles.counts)]
            tiles = replace(tiles, counts=tuple(counts))
        return tiles

    @property
    def count(self) -> int:
        """How many there are."""
        return math.prod(self.counts)

    def spans(self, size: Size) -> list[list[Span]]:
        """The tiles along each axis. Raises ValueError where there are more of them than cells."""
        if any(count > length for count, length in zip(self.counts, size)):
            raise ValueError(f"A latent of {size} cells (time, height, width) cannot be cut into {self.counts} tiles.")
        return [_spans(*axis) for axis in zip(size, self.counts, self.overlap)]

    def largest(self, size: Size) -> tuple[int, int, int]:
        """The cells of the largest tile along time, height and width."""
        frames, rows, columns = (max(span.stop - span.start for span in axis) for axis in self.spans(size))
        return frames, rows, columns

    def edges(self, size: Size) -> tuple[list[int], list[int], list[int]]:
        """The frames, rows and columns of cells with which a tile begins, or which come first after its end."""
        frames, rows, columns = (
            sorted({edge for span in axis for edge in (span.start, span.stop)} - {0, length})
            for axis, length in zip(self.spans(size), size)
        )
        return frames, rows, columns

    def seams(self, size: Size) -> tuple[list[int], list[int], list[int]]:
        """The same in pixels and in frames of the clip."""
        frames, rows, columns = self.edges(size)
        return (
            [pixel_frames(edge) for edge in frames],
            [edge * SPACE_SCALE for edge in rows],
            [edge * SPACE_SCALE for edge in columns],
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class View:
    """A part of the video, and of the sound what belongs to it."""

    size: Size
    video: Tensor  # (n,) numbers of tokens, the clip's own before the appended ones
    audio: Tensor | None = None  # (m,) numbers of tokens; None = all
    origin: Tensor | None = None  # (3,) seconds and pixels at which the part begins, where that is to count as 0

    def pick(self, whole: Pass, part: Callable[[StreamInput, Tensor], StreamInput]) -> Pass:
        """What a pass looks like from here; ``part`` makes the inputs."""
        assert whole.video is not None
        audio = whole.audio if whole.audio is None or self.audio is None else part(whole.audio, self.audio)
        return Pass(part(whole.video, self.video), audio, whole.perturbation)

    def part(self, stream: StreamInput, which: Tensor) -> StreamInput:
        which = which.to(stream.tokens.device)
        return replace(
            stream,
            tokens=stream.tokens[:, which],
            positions=self._moved(stream.positions[:, :, which]),
            timesteps=None if stream.timesteps is None else stream.timesteps[:, which],
            visibility=None if stream.visibility is None else stream.visibility.select(which),
        )

    def state(self, given: AVState) -> AVState:
        """What is given here."""
        video, audio = given.video, given.audio
        assert video is not None
        video = video.select(self.video, (video.shape[0], *self.size))
        if audio is not None and self.audio is not None:
            own = int((self.audio < audio.count).sum())
            audio = audio.select(self.audio, (audio.shape[0], own, audio.shape[2]))
            audio = replace(audio, positions=self._moved(audio.positions))
        return AVState(replace(video, positions=self._moved(video.positions)), audio)

    def tokens(self, latent: AVLatent) -> AVLatent:
        """The tokens that are here."""
        assert latent.video is not None
        audio = latent.audio if latent.audio is None or self.audio is None else latent.audio[:, self.audio]
        return AVLatent(latent.video[:, self.video], audio)

    def _moved(self, positions: Tensor) -> Tensor:
        """Positions from the origin on; what lies before the clip, such as the sound of a voice, still does."""
        if self.origin is None:
            return positions
        origin = self.origin[: positions.shape[1], None, None].to(positions)
        return torch.where(positions[:, :1, :, :1] < 0, positions, positions - origin)


@dataclass(frozen=True, eq=False, kw_only=True)
class Tile(View):
    """A part of the mosaic."""

    weight: Tensor  # (n, 1) how much of a token of the whole is what becomes of it here

    def add(self, part: Tensor, total: Tensor) -> None:
        """Add what became of the video's tokens (B, n, C) to the whole (B, N, C)."""
        total.index_add_(1, self.video.to(total.device), part.float() * self.weight.to(part.device))


class TiledNetwork:
    """A network that does every call in tiles and blends their velocities.

    In each step all of them leave from the same latent, so they cannot drift apart, and to blend velocities is to
    blend x0. Neither guidance nor samplers know of it. With one tile it is the network itself.
    """

    def __init__(self, network: Network, given: AVState, tiles: Tiles):
        """Raises ValueError if ``given`` cannot be cut so."""
        self._network, self._tiles = network, cut(given, tiles)
        silent = given.audio is None or given.audio.is_frozen
        self._overview = None if silent else overview(given, max(len(tile.video) for tile in self._tiles))

    def sweep(self, passes: Sequence[Pass], between_blocks: Callable[[], None] | None = None) -> Sequence[Velocities]:
        """The velocities (B, N, C) of all passes; those of a sound that is held fixed are 0."""
        if len(self._tiles) == 1:
            return self._network.sweep(passes, between_blocks)

        def seen(view: View) -> Sequence[Velocities]:
            part = cache(view.part)  # passes that share an input still do
            return self._network.sweep([view.pick(each, part) for each in passes], between_blocks)

        pictures = [
            torch.zeros_like(each.video.tokens, dtype=torch.float32) for each in passes if each.video is not None
        ]
        for tile in self._tiles:
            for total, (velocity, _) in zip(pictures, seen(tile)):
                if velocity is not None:
                    tile.add(velocity, total)
        if self._overview is not None:
            sounds = [velocity for _, velocity in seen(self._overview)]
        else:
            sounds = [None if each.audio is None else torch.zeros_like(each.audio.tokens) for each in passes]
        return list(zip(pictures, sounds))


def one_by_one(run: Callable[[AVState, AVLatent], AVLatent], given: AVState, noise: AVLatent, tiles: Tiles) -> AVLatent:
    """The cheap mode: every tile is sampled to its end by ``run(given, noise)``, and they are blended once.

    Sound that is not held fixed is made first, with the view of the whole picture, and then held.
    """
    made, audio = cut(given, tiles), given.audio
    if len(made) == 1:
        return run(given, noise)
    if audio is not None and not audio.is_frozen:
        view = overview(given, max(len(tile.video) for tile in made))
        sound = run(view.state(given), view.tokens(noise)).audio
        assert sound is not None
        audio = replace(audio, latent=sound, clean=sound, mask=torch.zeros_like(audio.mask))
        given = AVState(given.video, audio)
    assert given.video is not None
    total = torch.zeros_like(given.video.latent)
    for tile in made:
        video = run(tile.state(given), tile.tokens(noise)).video
        assert video is not None
        tile.add(video, total)
    return AVLatent(total, None if audio is None else audio.clean)


def runs(given: AVState, tiles: Tiles) -> int:
    """How often ``one_by_one`` calls ``run``."""
    hears = given.audio is not None and not given.audio.is_frozen
    return tiles.count + int(tiles.count > 1 and hears)


def cut(given: AVState, tiles: Tiles) -> list[Tile]:
    """The tiles of what is given.

    An appended token belongs to each tile that it touches, and to all if it lies before the clip; of one that no tile
    has, nothing is made. A tile hears all of the sound, or with local positions what it touches.
    """
    if given.video is None:
        raise ValueError("This latent has no video stream; sound is not made in tiles.")
    (_, *size), count, positions = given.video.shape, given.video.count, given.video.positions[0]
    numbers = torch.arange(count, device=positions.device).view(size)
    found = []
    for spans in product(*(zip(axis, blend_weights(axis, from_zero=False)) for axis in tiles.spans(size))):
        (f, time), (h, height), (w, width) = spans
        own = numbers[f.start : f.stop, h.start : h.stop, w.start : w.stop]
        inside = positions[:, own.flatten()]
        box = torch.stack((inside[..., 0].amin(1), inside[..., 1].amax(1)))
        found.append((own, (time[:, None, None] * height[:, None] * width).to(positions), box))
    touching = [_touches(positions[:, count:], box) for _, _, box in found]
    share = 1 / torch.stack(touching).sum(0).clamp(min=1)
    heard = given.audio if tiles.local else None
    return [
        Tile(
            size=tuple(own.shape),
            video=torch.cat((own.flatten(), count + touches.nonzero().flatten())),
            audio=None if heard is None else _touches(heard.positions[0], box[:, :1]).nonzero().flatten(),
            origin=box[0] if tiles.local else None,
            weight=torch.cat((weight.flatten(), share[touches]))[:, None],
        )
        for (own, weight, box), touches in zip(found, touching)
    ]


def overview(given: AVState, most: int) -> View:
    """All of the picture that fits into ``most`` tokens, with cells left out evenly, and all of the sound.

    The cells that are left are as noisy as before, which those of a smaller picture would not be.
    """
    assert given.video is not None
    size = given.video.shape[1:]
    every, step = torch.arange(given.video.count, device=given.video.positions.device).view(size), 1
    while every[:, ::step, ::step].numel() > most and step < max(size):
        step += 1
    left = every[:, ::step, ::step]
    return View(size=tuple(left.shape), video=left.flatten())


def _spans(length: int, count: int, overlap: int) -> list[Span]:
    """``count`` tiles of equal size, the first ones one longer if need be (spec: conditioning.md, section 7a)."""
    overlap = min(overlap, length - count)
    size, longer = divmod(length + overlap * (count - 1), count)
    starts = [number * (size - overlap) + min(number, longer) for number in range(count)]
    return [
        Span(start, start + size + (number < longer), overlap if number else 0, overlap if number < count - 1 else 0)
        for number, start in enumerate(starts)
    ]


def _touches(positions: Tensor, box: Tensor) -> Tensor:
    """Which of the tokens at ``positions`` (axes, N, 2) overlap ``box`` (2, axes), or lie before the clip; (N,)."""
    inside = (positions[..., 0] < box[1][:, None]) & (positions[..., 1] > box[0][:, None])
    return inside.all(0) | (positions[0, :, 0] < 0)
