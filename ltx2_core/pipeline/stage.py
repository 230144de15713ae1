"""What a stage is: what it works with, what it needs, and whom it tells."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar, cast

from ..audio_vae import AudioDecoder, AudioEncoder, BandwidthExtendingVocoder, Vocoder
from ..checkpoint.encoder_alone import VISION
from ..errors import Finding
from ..errors.kinds import check_kinds
from ..geometry import ClipShape
from ..lora import Stack
from ..memory.machine import Machine
from ..memory.placement import SMALLER, Room, StageNeed
from ..sampling import Step
from ..text import Connector, TextEncoder, TextFeatures, VisionEncoder
from ..transformer import Transformer
from ..upscaler import LatentUpscaler
from ..video_vae import Decoder, VideoEncoder
from .needs.blueprint import Blueprint
from .takes import Take

N = TypeVar("N", covariant=True)
StageT = TypeVar("StageT", bound="Stage")


@dataclass(frozen=True)
class NetworkKey(Generic[N]):
    """Names a network, and says of which type it is.

    Attributes:
        name: what logs and plans call it.
        components: which components of the model it consists of; several are used together, as a sequence.
        source: what it is built from, if it is no component of the model; the engine knows what to do with it.
    """

    name: str
    components: tuple[str, ...] = ()
    source: Hashable | None = None


def _component(name: str) -> NetworkKey[Any]:
    return NetworkKey(name, (name,))


TEXT_ENCODER: NetworkKey[TextEncoder] = _component("text_encoder")
VISION_ENCODER: NetworkKey[VisionEncoder] = _component(VISION)
TEXT_FEATURES: NetworkKey[TextFeatures] = _component("text_features")
CONNECTORS: NetworkKey[Sequence[Connector]] = NetworkKey("connectors", ("video_connector", "audio_connector"))
TRANSFORMER: NetworkKey[Transformer] = _component("transformer")
VIDEO_ENCODER: NetworkKey[VideoEncoder] = _component("video_encoder")
VIDEO_DECODER: NetworkKey[Decoder] = _component("video_decoder")
AUDIO_ENCODER: NetworkKey[AudioEncoder] = _component("audio_encoder")
AUDIO_DECODER: NetworkKey[AudioDecoder] = _component("audio_decoder")
VOCODER: NetworkKey[Vocoder | BandwidthExtendingVocoder] = _component("vocoder")


def upscaler_key(source: Hashable) -> NetworkKey[LatentUpscaler]:
    """Return the key of an upscaler, which ``source`` is for its engine: its file, or a network that is loaded."""
    return NetworkKey("upscaler", source=source)


class Networks:
    """The networks of a stage, ready to run, by their keys."""

    def __init__(self, networks: Mapping[NetworkKey[Any], Any]):
        self._networks = dict(networks)

    def find(self, key: NetworkKey[N]) -> N | None:
        """Return the network of ``key``; None if it is not among them."""
        return cast(N | None, self._networks.get(key))

    def replaced(self, key: NetworkKey[N], network: object) -> "Networks":
        """Return the same with ``network`` as that of ``key``."""
        return Networks({**self._networks, key: network})

    def __getitem__(self, key: NetworkKey[N]) -> N:
        return cast(N, self._networks[key])


@dataclass(frozen=True)
class LatentSize:
    """How large the latents of a run are; a stream that is None is absent.

    Attributes:
        video: latent frames, rows and columns.
        audio: audio latents.
        batch: clips.
        appended: tokens that a clip only looks at, beside its own: of video and of audio.
        groups: how many groups of tokens are seen in part: of video and of audio.
        texts: prompts between which time decides.
    """

    video: tuple[int, int, int] | None
    audio: int | None
    batch: int = 1
    appended: tuple[int, int] = (0, 0)
    groups: tuple[int, int] = (0, 0)
    texts: int = 1

    @classmethod
    def of_clip(cls, shape: ClipShape) -> "LatentSize":
        """Measure one clip with both streams."""
        return cls(shape.video_latent, shape.audio_latents)

    @property
    def tokens(self) -> tuple[int | None, int | None]:
        """Tokens of each stream, appended ones included."""
        return (
            None if self.video is None else math.prod(self.video) + self.appended[0],
            None if self.audio is None else self.audio + self.appended[1],
        )


OnProgress = Callable[[str, int, int], None]
OnFinding = Callable[[Finding], None]
OnStep = Callable[[int, int, Step], None]


@dataclass(frozen=True)
class Events:
    """Whom to tell while a clip is made.

    Attributes:
        on_progress: called with a stage's name, the steps done and all steps.
        on_finding: called with what looks or sounds wrong.
        on_step: called with the steps done, all steps, and what a sampler made of the latest one.
        on_words: called with what a language model has written so far.
        on_remark: called with what else there is to say, such as which recipe is followed.
        on_latent: called with the finished latent before it is decoded, as what ``takes.save_take`` writes.
        check: called between blocks and tiles; it may raise to interrupt.
    """

    on_progress: OnProgress = lambda stage, done, total: None
    on_finding: OnFinding = lambda finding: None
    on_step: OnStep = lambda done, total, step: None
    on_words: Callable[[str], None] = lambda written: None
    on_remark: Callable[[str], None] = lambda text: None
    on_latent: Callable[[Take], None] = lambda take: None
    check: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        """Raise SettingError for what cannot be called."""
        check_kinds(self, unset=False)

    def report_findings(self, findings: Sequence[Finding]) -> None:
        """Report everything that looks or sounds wrong."""
        for finding in findings:
            self.on_finding(finding)


class Load:
    """What LoRAs, CUDA graphs and the like add to the needs of stages; here nothing."""

    def __call__(self, stage: "Stage", need: StageNeed) -> StageNeed:
        """Return the need of a stage with its LoRAs."""
        return need

    def remarks(self, stage: "Stage", need: StageNeed, machine: Machine) -> Sequence[str]:
        """Say what it costs a stage with this ``need``, and what could be had in its place."""
        return ()

    def with_graphs(self, stage: "Stage", need: StageNeed, room: Room) -> StageNeed:
        """Return the need of a stage with the CUDA graphs of its steps, if they were asked for and pay in ``room``."""
        return need


NO_LOAD = Load()


class Stage(ABC):
    """One use of networks: what it does and what it needs stand in one class.

    Stages are frozen dataclasses of sizes and settings, so a plan can be made before any of them runs, and kept. Each
    has a ``run(engine, ...)`` that takes the tensors.
    """

    loras: Stack | None = None  # in place of those of the model, where a stage has its own

    @property
    @abstractmethod
    def name(self) -> str:
        """What plan and progress call it; engines know a planned stage by it."""

    @property
    @abstractmethod
    def networks(self) -> tuple[NetworkKey[Any], ...]:
        """What it works with; the first is streamed if need be, the others stay."""

    @abstractmethod
    def need(self, blueprint: Blueprint) -> StageNeed:
        """Measure what the stage needs."""

    @property
    def measured(self: StageT) -> StageT:
        """The stage without the files that it runs with, of which its need knows nothing: what is remembered of a stage
        must not keep them open."""
        return self if self.loras is None else replace(cast(Any, self), loras=None)

    def fit(self: StageT, blueprint: Blueprint, room: Room, load: Load = NO_LOAD) -> StageT:
        """Return the stage with the largest tiles that fit, with what comes by ``load``; without tiles, as it is."""
        return self

    def advise(self, need: StageNeed, budget: int) -> str:
        """Say what to do if the stage does not fit ``budget`` bytes."""
        return SMALLER

    def refuse(self, room: Room) -> str:
        """Say why the RAM of ``room`` is too small for what the stage makes; empty if it is not."""
        return ""

    def remarks(self, blueprint: Blueprint, machine: Machine) -> Sequence[str]:
        """Say what is less good than it could be, and why; ``machine`` tells what it costs."""
        return ()

    def shared_network(self, blueprint: Blueprint) -> NetworkKey[Any] | None:
        """Return the network that several devices share in this stage; None where it works on one."""
        return TRANSFORMER if TRANSFORMER in self.networks else None

    def describe_tiles(self) -> str:
        """Say in which tiles the stage works; empty without tiles."""
        return ""


def need_of(stage: Stage, blueprint: Blueprint) -> StageNeed:
    """Return what ``stage`` needs, measured once."""
    return blueprint.remember(("need", stage.measured), lambda: stage.need(blueprint))


def fit_tiles(candidates: Iterable[StageT], blueprint: Blueprint, budget: int) -> StageT:
    """Return the first of the same stage in several tilings that fits ``budget`` bytes, else the last one."""
    for stage in candidates:
        if need_of(stage, blueprint).peak <= budget:
            break
    return stage


def try_in_ram(stages: Iterable[StageT], room: Room, waiting: Callable[[StageT], int]) -> Iterator[StageT]:
    """Yield each of ``stages``, and then the same with what waits for its tiles ``in_ram``, where there is room for it.

    Args:
        stages: that have a field ``in_ram``.
        room: the device, and the RAM.
        waiting: returns how many bytes wait.
    """
    for stage in stages:
        yield stage
        if not room.in_ram and waiting(stage) <= room.free:
            yield replace(stage, in_ram=True)  # type: ignore[type-var]
