"""What is given for a clip becomes latents: pictures and sounds are encoded at the size of each stage."""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from math import prod
from typing import Any
from weakref import ref

import torch
from torch import Tensor

from .. import geometry, latents
from ..audio_vae import AudioEncoder, encode_waveform
from ..conditioning import AVState, LatentCondition, apply_conditions
from ..conditioning.conditions import Condition, check_frames, encode_conditions
from ..conditioning.rate import at_rate
from ..conditioning.sizes import SizeOnlyEncoders, audible_latents, latent_size
from ..errors import NotANumberError, SettingError
from ..geometry import SPACE_SCALE, ClipShape, pixel_frames
from ..health import check_finite
from ..latents import AVLatent
from ..memory.placement import Room, StageNeed
from ..memory.ram import check_ram
from ..memory.trace import cost
from ..video_vae import Tiling, VideoEncoder, encode_stream
from ..video_vae.tiling import TILINGS, count_encoding_tiles, largest_tile
from .engine import Engine
from .engines.shared_tiles import SharedTiles
from .needs.blueprint import FLOAT32, Blueprint, empty_like
from .precision import widen
from .stage import AUDIO_ENCODER, NO_LOAD, VIDEO_ENCODER, Load, NetworkKey, Stage, StageT, fit_tiles, try_in_ram

SAMPLE_RATE = 48_000  # the highest at which sounds are read
MEL_BINS, MEL_FRAMES = 64, 4  # of the spectrogram, and per audio latent
LATENTS_HELD = 5  # latents of a clip: itself, its tokens, its noise, and copies of those while they are made
CHUNK_FRAMES = 8  # so many frames at a time go to where the encoder is


@dataclass(frozen=True)
class EncodeVideo(Stage):
    """Encode pixels to a latent of (F, H, W) ``size``, tile by tile; they wait for it on the card, or ``in_ram``."""

    size: tuple[int, int, int]
    tiling: Tiling = Tiling()
    in_ram: bool = False
    name = "pictures"
    networks = (VIDEO_ENCODER,)

    def fit(self, blueprint: Blueprint, room: Room, load: Load = NO_LOAD) -> "EncodeVideo":
        """Choose the largest tiles that fit, of those whose overlap hides their seams."""
        if room.budget is None:
            return self
        stages = (replace(self, tiling=tiling) for tiling in TILINGS[:-2])
        return fit_tiles(try_in_ram(stages, room, EncodeVideo._waiting), blueprint, room.budget)

    def shared_network(self, blueprint: Blueprint) -> NetworkKey[Any] | None:
        """Return the encoder if it makes several tiles."""
        return VIDEO_ENCODER if self.count_tiles(blueprint) > 1 else None

    def count_tiles(self, blueprint: Blueprint) -> int:
        """Return in how many tiles the pixels are encoded."""
        return count_encoding_tiles(self.size, self.tiling)

    def share_of_tiles(self, blueprint: Blueprint) -> float:
        """Return 1: all work is that of tiles."""
        return 1.0

    def need(self, blueprint: Blueprint) -> StageNeed:
        """Measure the largest tile, beside the pixels that are held for it."""
        encoder = blueprint.network("video_encoder")
        (time, rows, columns), tiles = largest_tile(self.size, self.tiling, coupled=False)
        size = pixel_frames(time), rows * SPACE_SCALE, columns * SPACE_SCALE
        pixels = empty_like(encoder, 1, 3, *size)
        latent = FLOAT32 * geometry.VIDEO_CHANNELS * prod(self.size)
        held = FLOAT32 * 3 * prod(size) if self.in_ram else self._waiting()
        work = cost(lambda: encoder(pixels)) * tiles
        return StageNeed(self.name, blueprint.weights("video_encoder"), work, 3 * latent + held)

    def _waiting(self) -> int:
        """Return the bytes of the pixels that wait for their tiles."""
        _, height, width = self.size
        (time, _, _), _ = largest_tile(self.size, self.tiling, coupled=False)
        return FLOAT32 * 3 * (pixel_frames(time) + CHUNK_FRAMES) * height * width * SPACE_SCALE**2


@dataclass(frozen=True)
class EncodeAudio(Stage):
    """Encode a waveform to ``latents`` audio latents."""

    latents: int
    name = "hearing"
    networks = (AUDIO_ENCODER,)

    def need(self, blueprint: Blueprint) -> StageNeed:
        """Measure the encoder on the whole mel spectrogram, beside the waveform that it is made from."""
        encoder = blueprint.network("audio_encoder")
        mel = empty_like(encoder, 1, 2, self.latents * MEL_FRAMES, MEL_BINS)
        waveform = 2 * FLOAT32 * self.latents * SAMPLE_RATE // geometry.AUDIO_RATE
        given = mel.nbytes + 7 * waveform // 3  # as it came, padded, and at a third of the rate
        return StageNeed(self.name, blueprint.weights("audio_encoder"), cost(lambda: encoder(mel)), given)


def encode_video(
    encoder: VideoEncoder | SharedTiles[VideoEncoder],
    chunks: Iterable[Tensor],
    frames: int,
    device: torch.device,
    tiling: Tiling = Tiling(),
    in_ram: bool = False,
) -> Tensor:
    """Encode pixels, of which few more frames than a tile are held.

    Args:
        encoder: ready to run on ``device``, or on several, to which each tile goes by itself.
        chunks: (B, 3, F, H, W) in -1..1, consecutive.
        frames: how many of them to take.
        device: where the encoder is.
        tiling: in which tiles.
        in_ram: whether they are held where they come from.

    Returns:
        The latent (B, C, f, h, w), float32.

    Raises:
        NotANumberError: if the encoder produces something that is not a number.
    """
    parts = (part for chunk in chunks for part in chunk.split(CHUNK_FRAMES, dim=2))
    if isinstance(encoder, SharedTiles):
        latent = encode_stream(encoder.network, parts, frames, tiling, encoder.make, encoder.home)
    else:
        held = parts if in_ram else (part.to(device) for part in parts)
        latent = encode_stream(encoder, held, frames, tiling, device=device)
    check_finite(latent, "encoding pictures")
    return latent


def encode_audio(
    encoder: AudioEncoder, waveform: Tensor, sample_rate: int, device: torch.device, latents: int | None = None
) -> Tensor:
    """Encode a waveform (1 or 2, N) in -1..1 to a latent (1, C, t, M), float32; ``latents`` as for encode_waveform.

    Raises:
        NotANumberError: if the encoder produces something that is not a number.
    """
    latent = encode_waveform(encoder, waveform[None].to(device), sample_rate, latents).float()
    check_finite(latent, "encoding a sound")
    return latent


class EngineEncoders:
    """The encoders of an engine's model, brought when they are first needed; only one of them is there at a time.

    Use it as a context, so that the last one leaves whatever happens.
    """

    def __init__(self, engine: Engine):
        self.crf = engine.models.image_crf
        self._engine, self._open = engine, ExitStack()
        self._stage: Stage | None = None
        self._network: Any = None

    def __enter__(self) -> "EngineEncoders":
        return self

    def __exit__(self, *raised: Any) -> None:
        """Let the encoder leave; it hears what was ``raised``, since it can tell of which weight or stage it comes."""
        self._stage = self._network = None
        self._open.__exit__(*raised)

    def video(self, read: Callable[[], Iterable[Tensor]], shape: tuple[int, int, int]) -> Tensor:
        """Encode pixels of (F, H, W) ``shape``; see conditioning.sources.Encoders."""

        def encode(stage: EncodeVideo) -> Tensor:
            encoder = self._ready(stage, VIDEO_ENCODER)
            if stage.in_ram:
                self._engine.clear_ram(stage._waiting())
            device = self._engine.device(VIDEO_ENCODER)
            return encode_video(encoder, read(), shape[0], device, stage.tiling, stage.in_ram).cpu()

        return self._with_numbers(EncodeVideo(latent_size(shape)), encode)

    def audio(self, waveform: Tensor, sample_rate: int, latents: int | None = None) -> Tensor:
        """Encode a waveform; see conditioning.sources.Encoders."""

        def encode(stage: EncodeAudio) -> Tensor:
            encoder = self._ready(stage, AUDIO_ENCODER)
            return encode_audio(encoder, waveform, sample_rate, self._engine.device(AUDIO_ENCODER), latents).cpu()

        return self._with_numbers(EncodeAudio(max(latents or 0, audible_latents(waveform, sample_rate))), encode)

    def _with_numbers(self, stage: StageT, encode: Callable[[StageT], Tensor]) -> Tensor:
        """Return what ``encode`` makes; an encoder that gives no number is in float32 from then on."""
        try:
            return encode(self._engine.fit(stage))
        except NotANumberError as error:
            self._engine = widen(self._engine, stage, self._explained(error))
        return encode(self._engine.fit(stage))

    def _explained(self, error: NotANumberError) -> NotANumberError:
        """Let the encoder that is there leave, and return ``error`` as it explains it."""
        try:
            self.__exit__(type(error), error, error.__traceback__)
        except NotANumberError as explained:
            return explained
        return error

    def _ready(self, stage: Stage, key: NetworkKey[Any]) -> Any:
        if stage != self._stage:
            self.__exit__(None, None, None)
            self._network = self._open.enter_context(self._engine.use(stage))[key]
            self._stage = stage
        return self._network


@dataclass(frozen=True)
class ConditionSizes:
    """What will be given, before anything is encoded.

    Attributes:
        state: both streams, with zeros in place of what is given.
        pictures: (F, H, W) of the largest latent that is encoded; None if no picture is.
        sound: audio latents of the longest sound that is encoded; None if none is.
        batch: clips.
    """

    state: AVState
    pictures: tuple[int, int, int] | None = None
    sound: int | None = None
    batch: int = 1

    @property
    def generated_frames(self) -> tuple[int, ...]:
        """The keyframes that are generated beside the clip."""
        return () if self.state.video is None else self.state.video.generated_frames

    def begin(self, shape: ClipShape) -> AVLatent:
        """Return the empty latent of a clip of ``shape`` with the streams that it has."""
        return latents.empty(shape, self.batch).select(self.state.streams())

    def covering(self, other: "ConditionSizes") -> "ConditionSizes":
        """Return this with what is encoded as large as the largest of both."""
        pictures = max((each.pictures for each in (self, other) if each.pictures), key=prod, default=None)
        sound = max((each.sound for each in (self, other) if each.sound), default=None)
        return replace(self, pictures=pictures, sound=sound)

    @property
    def stages(self) -> list[Stage]:
        """What has to run."""
        stages: list[Stage] = []
        if self.pictures is not None:
            stages.append(EncodeVideo(self.pictures))
        if self.sound is not None:
            stages.append(EncodeAudio(self.sound))
        return stages


def measure_conditions(
    conditions: Iterable[Condition],
    shape: ClipShape,
    streams: Collection[str],
    more: Iterable[LatentCondition] = (),
    batch: int = 1,
) -> ConditionSizes:
    """Measure everything that is given in ``batch`` clips of these ``streams``; ``more`` needs no encoder.

    Raises:
        SettingError: for what cannot be given so, and where nothing is left to be made.
        DoesNotFitError: for a clip whose latents alone are too large for the RAM that is free.
    """
    check_latents_fit(shape, batch)
    encoders = SizeOnlyEncoders()
    empty = latents.empty(shape, batch).select(streams)
    items = [*encode_conditions(conditions, shape, streams, encoders), *more]
    state = apply_conditions(empty, shape.fps, items)
    check_something_is_left(state)
    return ConditionSizes(state, encoders.pictures, encoders.sound, batch)


def foreseen_items(
    conditions: Sequence[Condition], shape: ClipShape, streams: Collection[str], times: int
) -> list[LatentCondition]:
    """Return what ``ConditionCache.encode`` will, with zeros for what it encodes; it refuses what cannot be given."""
    check_frames(conditions, shape)
    return encode_conditions(at_rate(conditions, shape, times), shape, streams, SizeOnlyEncoders())


def check_latents_fit(shape: ClipShape, batch: int) -> None:
    """Raise DoesNotFitError if what is held of a clip before anything is planned takes more RAM than is free."""
    needed = LATENTS_HELD * FLOAT32 * batch * geometry.VIDEO_CHANNELS * prod(shape.video_latent)
    size = f"{shape.width} x {shape.height} pixels and {shape.frames} frames"
    check_ram(needed, f"The latent of a clip of {size}", "make it smaller or shorter")


def check_something_is_left(state: AVState) -> None:
    """Raise SettingError if everything in a clip is given, so that nothing has to be generated."""
    if state.is_given:
        raise SettingError(
            "Nothing is left to make: every part of this clip is already given and stays (ranges and masks limit each "
            "other). Take a condition out."
        )


def check_keyframes(state: AVState, blueprint: Blueprint) -> None:
    """Raise SettingError if keyframes are to be generated by a transformer that cannot tell them from the clip."""
    if state.video is not None and state.video.generated_frames:
        check_marker(blueprint)


def check_marker(blueprint: Blueprint) -> None:
    """Raise SettingError for a transformer that cannot tell generated keyframes from the clip."""
    if not blueprint.shortened_transformer(1).config.video.marks_keyframes:
        raise SettingError(
            "This model cannot generate keyframes beside a clip: its transformer has no keyframe marker "
            "(keyframes_abs_pos_embedding), as that of LTX-2.5 has. Take the generated keyframes out, or choose an "
            "LTX-2.5 file that has it."
        )


def encode_all(
    conditions: Sequence[Condition], shape: ClipShape, streams: Collection[str], engine: Engine
) -> list[LatentCondition]:
    """Encode everything that is given for a clip of ``shape`` with these ``streams``."""
    with EngineEncoders(engine) as encoders:
        return encode_conditions(conditions, shape, streams, encoders)


class ConditionCache:
    """Latents of conditions, so that another seed needs no encoder; those unused for longest go first.

    Entries live as long as the condition does, and take at most ``limit`` bytes together.
    """

    def __init__(self, limit: int = 2**30):
        self._limit = limit
        self._entries: OrderedDict[tuple[Any, ...], tuple[ref, list[LatentCondition], int]] = OrderedDict()

    def encode(
        self,
        conditions: Sequence[Condition],
        shape: ClipShape,
        streams: Collection[str],
        engine: Engine,
        times: int = 1,
    ) -> list[LatentCondition]:
        """Return the latents of all conditions in a clip of ``shape``, in their order.

        Their frames are those of a clip that ``shape`` has so many ``times`` the frame rate of.
        """
        encoded: list[LatentCondition] = []
        check_frames(conditions, shape)
        with EngineEncoders(engine) as encoders:
            for condition in conditions:
                key = (id(condition), shape, tuple(streams), times)
                entry = self._entries.get(key)
                if entry is None or entry[0]() is not condition:
                    given = at_rate([condition], shape, times)
                    entry = self._add(key, condition, encode_conditions(given, shape, streams, encoders))
                self._entries.move_to_end(key)
                encoded += entry[1]
        self._trim()
        return encoded

    @property
    def nbytes(self) -> int:
        """Bytes that are kept."""
        return sum(nbytes for _, _, nbytes in self._entries.values())

    def _add(
        self, key: tuple[Any, ...], condition: Condition, items: list[LatentCondition]
    ) -> tuple[ref, list[LatentCondition], int]:
        nbytes = sum(value.nbytes for item in items for value in vars(item).values() if isinstance(value, Tensor))
        self._entries[key] = ref(condition), items, nbytes
        return self._entries[key]

    def _trim(self) -> None:
        """Forget what belongs to conditions that are gone, then what was not used for longest."""
        for key in [key for key, (condition, _, _) in self._entries.items() if condition() is None]:
            del self._entries[key]
        while len(self._entries) > 1 and self.nbytes > self._limit:
            self._entries.popitem(last=False)
