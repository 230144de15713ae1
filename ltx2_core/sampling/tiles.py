"""Overlapping tiles, for pictures and lengths that are too much for one call of the network.

Tiles see and make only their part of the video; where they overlap, they are blended with linear ramps (``README.md``,
"Tiles"). Sound has no place in the picture and is never made of tiles: all of them hear it whole, and a sound that is
not held fixed follows from a view of the whole picture, in which only every second, third ... cell of a row is left so
that it is no larger than a tile.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Annotated

import torch
from torch import Tensor

from ..conditioning import AVState, State
from ..errors import SettingError
from ..fields import Checked, Choice, Whole, zero
from ..geometry import SPACE_SCALE, TIME_SCALE, pixel_frames
from ..latents import AVLatent
from ..transformer import Network, Pass, StreamInput, Velocities
from ..video_vae.tiling import Span, blend_weights
from .denoiser import ManyNetworks

Size = Sequence[int]  # time, height, width

_SIDE = 16  # cells; only what is smaller than that is cut in time, too


@dataclass(frozen=True)
class Tiles:
    """The number of tiles along time, height and width, and the latent cells that neighbours share.

    Each tile keeps its place in the whole clip. With ``local`` all start at 0, as if each was a clip by itself: for
    clips that are larger or longer than those that the model was trained on. ``alone`` ones are such clips, which begin
    with a latent of one frame and have noise of their own. Raises SettingError for fewer than 1 tile or 0 cells.
    """

    counts: Size
    overlap: Size = (4, 4, 4)
    local: bool = False
    alone: bool = False

    def __post_init__(self):
        if min(self.counts) < 1 or min(self.overlap) < 0:
            raise SettingError(
                f"{self.counts} tiles that share {self.overlap} cells cannot be: along time, height and width there "
                "must be at least 1 tile, and at least 0 cells."
            )

    def within(self, size: Size, tokens: int) -> "Tiles":
        """Split a latent (F, H, W) further, as little as leaves at most ``tokens`` cells in each tile; time comes last.

        Raises SettingError if even single cells are more.
        """
        tiles = self
        while math.prod(sides := tiles.largest(size)) > tokens:
            axis = 1 if sides[1] >= sides[2] else 2
            axis = axis if sides[axis] > _SIDE or sides[0] == 1 else 0
            counts = [count + (number == axis) for number, count in enumerate(tiles.counts)]
            tiles = replace(tiles, counts=tuple(counts))
        return tiles

    @property
    def count(self) -> int:
        """The number of tiles."""
        return math.prod(self.counts)

    def spans(self, size: Size) -> list[list[Span]]:
        """Split each axis of a latent (F, H, W). Raises SettingError for more tiles than cells."""
        if any(count > length for count, length in zip(self.counts, size)):
            raise SettingError(
                f"A latent of {tuple(size)} cells (time, height, width) cannot be cut into {tuple(self.counts)} tiles: "
                "take fewer of them."
            )
        return [_spans(*axis) for axis in zip(size, self.counts, self.overlap)]

    def largest(self, size: Size) -> tuple[int, int, int]:
        """Return the cells of the largest tile along time, height and width."""
        frames, rows, columns = (max(span.stop - span.start for span in axis) for axis in self.spans(size))
        return frames, rows, columns

    def edges(self, size: Size) -> tuple[list[int], list[int], list[int]]:
        """Return the frames, rows and columns of cells with which a tile begins, or which come first after its end."""
        frames, rows, columns = (
            sorted({edge for span in axis for edge in (span.start, span.stop)} - {0, length})
            for axis, length in zip(self.spans(size), size)
        )
        return frames, rows, columns

    def seams(self, size: Size) -> tuple[list[int], list[int], list[int]]:
        """Return the ``edges`` in pixels, and in frames of the clip."""
        frames, rows, columns = self.edges(size)
        return (
            [pixel_frames(edge) for edge in frames],
            [edge * SPACE_SCALE for edge in rows],
            [edge * SPACE_SCALE for edge in columns],
        )


@dataclass(frozen=True)
class TileSettings(Checked):
    """The settings of a refinement in tiles, for every surface."""

    columns: Annotated[
        int,
        Whole(0, 64, advanced=True, instead=zero("automatic", usual=2)),
        "Tiles side by side. With 0 here and in the next two, as few are chosen as the memory allows. 1 in all three "
        "is the whole clip at once.",
    ] = 0
    rows: Annotated[
        int,
        Whole(0, 64, advanced=True, instead=zero("automatic", usual=2)),
        "Tiles one above the other. 0 as above, or 1 if another one is set.",
    ] = 0
    intervals: Annotated[
        int,
        Whole(0, 64, advanced=True, instead=zero("automatic", usual=2)),
        "Tiles one after the other in time. 0 as above, or 1 if another one is set.",
    ] = 0
    overlap: Annotated[
        int,
        Whole(0, 1024, 32, advanced=True),
        "Pixels that neighbouring tiles share. More hides their seams better, and takes longer.",
    ] = 128
    frame_overlap: Annotated[
        int,
        Whole(0, 256, 8, advanced=True),
        "Frames that two intervals share. More hides their seams better, and takes longer.",
    ] = 32
    mode: Annotated[
        str,
        Choice(("together", "one by one"), advanced=True),
        "together blends the tiles at every step, so that they cannot drift apart. one by one finishes each tile "
        "before the next and blends them once, as other tools do: neighbours may disagree.",
    ] = "together"
    positions: Annotated[
        str,
        Choice(("absolute", "local", "alone"), advanced=True),
        "absolute tells each tile where in the clip it is. local tells each that it is a clip by itself: for clips "
        "wider than 2048 pixels or longer than 20 seconds, which the models have not seen. alone makes each a clip by "
        "itself, with noise of its own and one by one, as the official HDR pipeline does.",
    ] = "absolute"

    def __post_init__(self) -> None:
        """Raise SettingError for tiles that are blended at every step and yet clips of their own."""
        super().__post_init__()
        if self.alone and self.together:
            raise SettingError(
                "Tiles whose positions are alone have noise of their own, so they cannot be made together: set mode to "
                "one by one, or positions to local."
            )

    @property
    def alone(self) -> bool:
        """True if each tile is a clip by itself."""
        return self.positions == "alone"

    @property
    def together(self) -> bool:
        """True if tiles are blended at every step."""
        return self.mode == "together"

    @property
    def whole(self) -> Tiles:
        """One tile, which is split as these settings say where they name no counts."""
        across = self.overlap // SPACE_SCALE
        shared = self.frame_overlap // TIME_SCALE, across, across
        return Tiles((1, 1, 1), shared, self.positions != "absolute", self.alone)

    def chosen(self) -> Tiles | None:
        """Return the tiles that were asked for; None if as few are to be chosen as the memory allows."""
        counts = self.intervals, self.rows, self.columns
        return replace(self.whole, counts=tuple(max(1, count) for count in counts)) if any(counts) else None


@dataclass(frozen=True, eq=False, kw_only=True)
class View:
    """A selection of the video's tokens, and of the sound's tokens that belong to it."""

    size: Size
    video: Tensor  # (n,) numbers of tokens, the clip's own before the appended ones
    audio: Tensor | None = None  # (m,) numbers of tokens; None = all
    origin: Tensor | None = None  # (3,) seconds and pixels at which the part begins, where that is to count as 0
    alone: bool = False  # a clip by itself, of which the first latent is one frame

    def passes(self, whole: Sequence[Pass]) -> list[Pass]:
        """Reduce passes to this view; those that share an input still do."""
        select = cache(self.select)

        def reduced(each: Pass) -> Pass:
            assert each.video is not None
            audio = each.audio if each.audio is None or self.audio is None else select(each.audio, self.audio)
            return Pass(select(each.video, self.video), audio, each.perturbation)

        return [reduced(each) for each in whole]

    def select(self, stream: StreamInput, which: Tensor) -> StreamInput:
        """Reduce the input of a stream to the tokens ``which`` (n,), as far as it has them."""
        which = which[which < stream.tokens.shape[1]].to(stream.tokens.device)
        return replace(
            stream,
            tokens=stream.tokens[:, which],
            positions=self._moved(stream.positions[:, :, which]),
            timesteps=None if stream.timesteps is None else stream.timesteps[:, which],
            levels=None,
            keyframes=None if stream.keyframes is None else stream.keyframes[:, which],
            visibility=None if stream.visibility is None else stream.visibility.select(which),
            schedule=None if stream.schedule is None else stream.schedule.select(which),
        )

    def state(self, state: AVState) -> AVState:
        """Reduce the states of both streams to this view."""
        video, audio = state.video, state.audio
        assert video is not None
        video = video.select(self.video, (video.shape[0], *self.size))
        if self.alone and video.keyframes is not None:
            first = torch.arange(self.video.numel(), device=video.keyframes.device) < self.size[1] * self.size[2]
            video = replace(video, keyframes=video.keyframes.masked_fill(first[:, None], 1))
        if audio is not None and self.audio is not None:
            own = int((self.audio < audio.count).sum())
            audio = audio.select(self.audio, (audio.shape[0], own, audio.shape[2]))
            audio = replace(audio, positions=self._moved(audio.positions))
        return AVState(replace(video, positions=self._moved(video.positions)), audio)

    def tokens(self, latent: AVLatent) -> AVLatent:
        """Reduce a latent of tokens to this view."""
        assert latent.video is not None
        audio = latent.audio if latent.audio is None or self.audio is None else latent.audio[:, self.audio]
        return AVLatent(latent.video[:, self.video], audio)

    def _moved(self, positions: Tensor) -> Tensor:
        """Positions from the origin on; what lies before the clip, such as a voice or a face, still does, as long."""
        if self.origin is None:
            return positions
        moved = positions - self.origin[: positions.shape[1], None, None].to(positions)
        if self.alone:
            moved[:, 0].clamp_(min=0)
        before = positions[:, 0, :, :1] < 0
        moved[:, 0] = torch.where(before, positions[:, 0], moved[:, 0])
        return moved


@dataclass(frozen=True, eq=False, kw_only=True)
class Tile(View):
    """A view that is one tile, and its share of each token of the whole."""

    weight: Tensor  # (n, 1) how much of a token of the whole is what becomes of it here

    def add(self, tokens: Tensor, total: Tensor) -> None:
        """Add the tokens (B, n, C) of this tile, weighted, to those of the whole video (B, N, C)."""
        total.index_add_(1, self.video.to(total.device), tokens.float() * self.weight.to(tokens.device))


class TiledNetwork:
    """A network that does every call in tiles and blends their velocities.

    In each step all tiles leave from the same latent, so they cannot drift apart, and to blend velocities is to blend
    x0. Neither guidance nor samplers know of it. With one tile it is the network itself.

    Args:
        network: The whole transformer.
        state: The states of both streams.
        tiles: How the video is split.

    Raises:
        SettingError: If ``state`` cannot be split so.
    """

    def __init__(self, network: Network, state: AVState, tiles: Tiles):
        self._network, self._tiles = network, split_tiles(state, tiles)
        silent = state.audio is None or state.audio.is_frozen
        self._overview = None if silent else overview(state, max(len(tile.video) for tile in self._tiles))

    def sweep(self, passes: Sequence[Pass], between_blocks: Callable[[], None] | None = None) -> Sequence[Velocities]:
        """Compute the velocities (B, N, C) of all passes; those of a sound that is held fixed are 0."""
        if len(self._tiles) == 1:
            return self._network.sweep(passes, between_blocks)

        pictures = [
            torch.zeros_like(each.video.tokens, dtype=torch.float32) for each in passes if each.video is not None
        ]
        views = [*self._tiles, *([] if self._overview is None else [self._overview])]
        answers = self._sweep_views(views, passes, between_blocks)
        for tile, answer in zip(self._tiles, answers):
            for total, (velocity, _) in zip(pictures, answer):
                if velocity is not None:
                    tile.add(velocity, total)
        if self._overview is not None:
            sounds = [velocity for _, velocity in next(answers)]
        else:
            sounds = [None if each.audio is None else torch.zeros_like(each.audio.tokens) for each in passes]
        return list(zip(pictures, sounds))

    def _sweep_views(
        self, views: Sequence[View], passes: Sequence[Pass], between_blocks: Callable[[], None] | None
    ) -> Iterator[Sequence[Velocities]]:
        """Yield the velocities of all passes in each view, one after the other where there is one device."""
        groups = (view.passes(passes) for view in views)
        if isinstance(self._network, ManyNetworks):
            yield from self._network.sweep_each(list(groups), between_blocks)
        else:
            for group in groups:
                yield self._network.sweep(group, between_blocks)


def one_by_one(
    run: Callable[[AVState, AVLatent], AVLatent],
    state: AVState,
    noise: AVLatent,
    tiles: Tiles,
    draw: Callable[[AVState, int], AVLatent] | None = None,
) -> AVLatent:
    """Sample each tile to its end by ``run(state, noise)`` and blend them once, which is cheap and less consistent.

    Sound that is not held fixed is made first, with the view of the whole picture, and then held.

    Args:
        run: Samples a state from noise.
        state: The whole clip.
        noise: Of the whole clip.
        tiles: How the video is split.
        draw: Draws the noise of a tile that is a clip by itself, by its number; others have their part of ``noise``.
    """
    pieces, own = split_tiles(state, tiles), draw if tiles.alone else None
    if len(pieces) == 1:
        return run(state, noise if own is None else own(state, 0))
    state = _with_sound(run, state, noise, max(len(tile.video) for tile in pieces))
    assert state.video is not None
    total = torch.zeros_like(state.video.latent)
    for number, tile in enumerate(pieces):
        here = tile.state(state)
        video = run(here, tile.tokens(noise) if own is None else own(here, number)).video
        assert video is not None
        tile.add(video, total)
    return AVLatent(total, None if state.audio is None else state.audio.clean)


def _with_sound(run: Callable[[AVState, AVLatent], AVLatent], state: AVState, noise: AVLatent, most: int) -> AVState:
    """Make a sound that is not held fixed, with a view of at most ``most`` tokens of the picture, and hold it."""
    audio = state.audio
    if audio is None or audio.is_frozen:
        return state
    view = overview(state, most)
    sound = run(view.state(state), view.tokens(noise)).audio
    assert sound is not None
    return AVState(state.video, replace(audio, latent=sound, clean=sound, mask=torch.zeros_like(audio.mask)))


def count_runs(state: AVState, tiles: Tiles) -> int:
    """Count how often ``one_by_one`` calls ``run``."""
    hears = state.audio is not None and not state.audio.is_frozen
    return tiles.count + int(tiles.count > 1 and hears)


def split_tiles(state: AVState, tiles: Tiles) -> list[Tile]:
    """Split the tokens of a clip into tiles.

    An appended token belongs to each tile that it touches, and to all if it lies before the clip; one that touches no
    tile is left out. A tile hears all of the sound, or with local positions what it touches.

    Raises:
        SettingError: For a clip without video.
    """
    if state.video is None:
        raise SettingError("This latent has no video stream; sound is not made in tiles.")
    (_, *size), count, positions = state.video.shape, state.video.count, state.video.positions[0]
    numbers = torch.arange(count, device=positions.device).view(size)
    boxes = []
    weighted_axes = [list(zip(axis, blend_weights(axis, from_zero=False))) for axis in tiles.spans(size)]
    for spans in product(*weighted_axes):
        (f, time), (h, height), (w, width) = spans
        own = numbers[f.start : f.stop, h.start : h.stop, w.start : w.stop]
        inside = positions[:, own.flatten()]
        box = torch.stack((inside[..., 0].amin(1), inside[..., 1].amax(1)))
        boxes.append((own, (time[:, None, None] * height[:, None] * width).to(positions), box))
    touching = [_touches(positions[:, count:], box) for _, _, box in boxes]
    share = 1 / torch.stack(touching).sum(0)
    heard = state.audio if tiles.local else None
    return [
        Tile(
            size=tuple(own.shape),
            video=torch.cat((own.flatten(), count + touches.nonzero().flatten())),
            audio=None if heard is None else _touches(heard.positions[0], box[:, :1]).nonzero().flatten(),
            origin=_origin(state.video, box, tiles.alone) if tiles.local else None,
            alone=tiles.alone,
            weight=torch.cat((weight.flatten(), share[touches]))[:, None],
        )
        for (own, weight, box), touches in zip(boxes, touching)
    ]


def overview(state: AVState, most: int) -> View:
    """View the whole picture in at most ``most`` tokens, with cells left out evenly, and all of the sound.

    The cells that are left are as noisy as before, which those of a smaller picture would not be.
    """
    assert state.video is not None
    size = state.video.shape[1:]
    every, step = torch.arange(state.video.count, device=state.video.positions.device).view(size), 1
    while every[:, ::step, ::step].numel() > most and step < max(size):
        step += 1
    rest = every[:, ::step, ::step]
    return View(size=tuple(rest.shape), video=rest.flatten())


def _spans(length: int, count: int, overlap: int) -> list[Span]:
    """Split an axis into ``count`` tiles of equal size, the first ones one longer if need be."""
    overlap = min(overlap, length - count)
    size, longer = divmod(length + overlap * (count - 1), count)
    starts = [number * (size - overlap) + min(number, longer) for number in range(count)]
    return [
        Span(start, start + size + (number < longer), overlap if number else 0, overlap if number < count - 1 else 0)
        for number, start in enumerate(starts)
    ]


def _origin(video: State, box: Tensor, alone: bool) -> Tensor:
    """Where (3,) a tile begins: ``alone``, all but one frame of its first latent lie before."""
    later = alone and bool(box[0, 0] > 0)
    return box[0] + box.new_tensor([later * (TIME_SCALE - 1) / float(video.fps), 0, 0])


def _touches(positions: Tensor, box: Tensor) -> Tensor:
    """Mark (N,) the tokens at ``positions`` (axes, N, 2) that overlap ``box`` (2, axes) or lie before the clip."""
    inside = (positions[..., 0] < box[1][:, None]) & (positions[..., 1] > box[0][:, None])
    return inside.all(0) | (positions[0, :, 0] < 0)
