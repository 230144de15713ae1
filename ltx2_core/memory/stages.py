"""What does each stage of a clip need: which weights, how much memory for its work, how much work?

All of it is told by shapes. Networks are built on the meta device and run there, so the numbers are those of the code
as it is, not of a formula beside it.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from ..audio_vae.vocoder import CHUNK
from ..checkpoint.components import COMPONENTS
from ..checkpoint.files import DTYPES, Entry
from ..checkpoint.models import Models
from ..checkpoint.text_encoder import TextEncoderFiles
from ..checkpoint.versions import VERSIONS
from ..geometry import (
    AUDIO_BINS,
    AUDIO_CHANNELS,
    SPACE_SCALE,
    TIME_SCALE,
    VIDEO_CHANNELS,
    ClipShape,
    pixel_frames,
)
from ..latents import AVLatent
from ..quantization import SCALE_SUFFIXES, castable, use_scaled_products
from ..quantization.fp8 import FORMATS as FP8
from ..quantization.fp8 import adopt_fp8
from ..text import GemmaConfig, GemmaEncoder
from ..text.tokenizer import LENGTH
from ..transformer import UNPERTURBED, Pass, Perturbation, StreamInput
from ..upscaler import Upscaler, UpscalerConfig, upscale
from ..video_vae import Tiling
from ..video_vae.layers import ChannelStatistics
from ..video_vae.tiling import Span, split_axis, split_time_axis
from .link import InPlace
from .store import Store, cuts
from .trace import Cost, cost

# A kernel's own workspace, and the gaps of the allocator.
KERNELS = 2**29

PASSES = ("cond", "negative", "isolated", "perturbed")  # in the order in which people turn them on
FORMATS = ("bf16", "fp8")

MEL_BINS, MEL_FRAMES = 64, 4  # of the spectrogram, and per audio latent

_SCALES = ("weight_scale", "scale_weight")

Tensors = dict[str, Tensor]  # our names; on the meta device


@dataclass(frozen=True)
class Extent:
    """How large the latents of a run are; a stream that is None is absent."""

    video: tuple[int, int, int] | None  # (F, H, W)
    audio: int | None  # latents
    batch: int = 1
    appended: tuple[int, int] = (0, 0)  # tokens that are given beside those of the clip, video and audio

    @classmethod
    def of_clip(cls, shape: ClipShape) -> "Extent":
        return cls(shape.video_latent, shape.audio_latents)

    @property
    def tokens(self) -> tuple[int | None, int | None]:
        """Of each stream, appended ones included."""
        return (
            None if self.video is None else math.prod(self.video) + self.appended[0],
            None if self.audio is None else self.audio + self.appended[1],
        )

    @classmethod
    def of_latent(cls, latent: AVLatent) -> "Extent":
        video, audio = latent.video, latent.audio
        (batch,) = {len(x) for x in latent.streams().values()}
        return cls(
            None if video is None else (video.shape[2], video.shape[3], video.shape[4]),
            None if audio is None else audio.shape[2],
            batch,
        )


@dataclass(frozen=True)
class Weights:
    """Bytes of a network, as they travel: blocks one by one, or parts of blocks, and the rest, which stays."""

    rest: int
    blocks: tuple[int, ...] = ()
    part_rest: int = 0  # when parts travel: what several of them need stays, too
    parts: tuple[int, ...] = ()

    @property
    def total(self) -> int:
        return self.rest + sum(self.blocks)

    def units(self, parts: bool) -> tuple[int, ...]:
        """What travels at once."""
        return self.parts if parts else self.blocks

    def beside(self, parts: bool) -> int:
        """What stays whatever travels."""
        return self.part_rest if parts else self.rest

    def __add__(self, other: "Weights") -> "Weights":
        return Weights(
            self.rest + other.rest,
            self.blocks + other.blocks,
            self.part_rest + other.part_rest,
            self.parts + other.parts,
        )

    @classmethod
    def of(cls, network: nn.Module) -> "Weights":
        """As a store would cut it."""
        blocks, parts = cuts(network).values()
        return cls(
            blocks.rest.nbytes,
            tuple(unit.nbytes for unit in blocks.units),
            parts.rest.nbytes,
            tuple(unit.nbytes for unit in parts.units),
        )


@dataclass(frozen=True)
class Need:
    """One stage: its weights, what one run of it costs, and what else lies on the device meanwhile."""

    name: str
    weights: Weights
    cost: Cost
    inputs: int = 0
    runs: int = 1

    @property
    def scratch(self) -> int:
        """Bytes on the device beside the weights."""
        return self.cost.peak + self.inputs + KERNELS


class Blueprint:
    """The networks of a model as shapes and formats, without a weight."""

    def __init__(self, title: str, config: dict[str, Any], tensors: dict[str, Tensors], gemma: GemmaConfig | None):
        self.title, self.config, self.tensors, self.gemma = title, config, tensors, gemma
        self._weights: dict[str, Weights] = {}

    @classmethod
    def of_files(
        cls,
        models: Models,
        encoder: TextEncoderFiles | None,
        dtype: torch.dtype | Mapping[str, torch.dtype],
        format: str | None = None,
    ) -> "Blueprint":
        """As files will be loaded to compute in ``dtype``, one for all or one for each component, the transformer cast
        to ``format``; from their headers alone."""
        dtypes = dtype if isinstance(dtype, Mapping) else dict.fromkeys((*models.sources, "text_encoder"), dtype)
        tensors = {}
        for name, source in models.sources.items():
            entries = {ours: source.file.entries[key] for ours, key in source.names.items()}
            with torch.device("meta"):
                network = COMPONENTS[name].make(models.config, {ours: entry.shape for ours, entry in entries.items()})
            tensors[name] = _stored(entries, getattr(network, "compute_dtype", dtypes[name]))
        if encoder is not None:
            entries = {ours: file.entries[key] for ours, (file, key) in encoder.names.items()}
            tensors["text_encoder"] = _stored(entries, dtypes["text_encoder"])
        if format is not None:
            transformer = tensors["transformer"]
            for name in castable(transformer):
                weight = transformer[name]
                transformer |= _fp8(name, weight, FP8["float8_e4m3fn"], (len(weight), 1))
        files = dict.fromkeys(source.file.path.name for source in models.sources.values())
        title = f"LTX-{models.version} ({', '.join(files)}{f', cast to {format}' if format else ''})"
        return cls(title, models.config, tensors, encoder.config if encoder else None)

    @classmethod
    def of_version(cls, version: str, format: str = "bf16", dtype: torch.dtype = torch.bfloat16) -> "Blueprint":
        """A released model with Gemma 3 12B, needing no file.

        ``format`` fp8 is as in the official fp8 file and the usual one of Gemma: the matrices of the transformer's
        blocks, the first and the last five excepted, and those of Gemma's layers.
        """
        if version not in VERSIONS or format not in FORMATS:
            raise ValueError(
                f"There is no plan for LTX-{version} in {format}: versions are {', '.join(VERSIONS)}, formats "
                f"{', '.join(FORMATS)}."
            )
        config, gemma = VERSIONS[version].config, GemmaConfig()
        flat = {"projection.weight": (1, (gemma.layers + 1) * gemma.width)}
        with torch.device("meta"):
            networks = {name: component.make(config, flat) for name, component in COMPONENTS.items()}
            networks["text_encoder"] = GemmaEncoder(gemma)
        tensors = {}
        for name, network in networks.items():
            kept = getattr(network, "compute_dtype", dtype)
            tensors[name] = {ours: tensor.to(kept) for ours, tensor in network.state_dict().items()}
        if format == "fp8":
            last = config["transformer"].get("num_layers", 48) - 6
            for name, inside in (("transformer", range(1, last + 1)), ("text_encoder", range(gemma.layers))):
                tensors[name] = _as_fp8(tensors[name], inside)
        return cls(f"LTX-{version} in {format}", config, tensors, gemma)

    def weights(self, *names: str) -> Weights:
        """Of components together."""
        for name in names:
            if name not in self._weights:
                self._weights[name] = Weights.of(self.network(name))
        return sum((self._weights[name] for name in names), Weights(0))

    def has(self, *names: str) -> bool:
        return all(name in self.tensors for name in names)

    def network(self, name: str) -> Any:
        """Component ``name`` on the meta device, in the formats it will run in."""
        if name == "text_encoder":
            assert self.gemma is not None
            with torch.device("meta"):
                return _given(GemmaEncoder(self.gemma), self.tensors[name])
        return _filled(name, self.config, self.tensors[name])

    def shortened_transformer(self, layers: int) -> Any:
        """The transformer with only a few blocks from its middle, as it multiplies on a card that has float8."""
        middle = self.config["transformer"].get("num_layers", 48) // 2
        tensors = {}
        for name, tensor in self.tensors["transformer"].items():
            found = re.match(r"blocks\.(\d+)\.(.*)", name)
            if found is None:
                tensors[name] = tensor
            elif 0 <= (number := int(found.group(1)) - middle) < layers:
                tensors[f"blocks.{number}.{found.group(2)}"] = tensor
        config = self.config | {"transformer": self.config["transformer"] | {"num_layers": layers}}
        network = _filled("transformer", config, tensors)
        use_scaled_products(network, ("meta",))
        return network


@lru_cache(maxsize=128)
def prompt(blueprint: Blueprint, prompts: int) -> tuple[Need, ...]:
    """Gemma reads all prompts together; then the states of one at a time are projected."""
    gemma = blueprint.gemma
    if gemma is None or not blueprint.has("text_encoder", "text_features"):
        return ()
    tensors = blueprint.tensors["text_encoder"]
    itemsize = tensors["model.norm.weight"].itemsize
    tokens = prompts * LENGTH
    state = tokens * gemma.width * itemsize
    matrices = [tensor for name, tensor in tensors.items() if ".layers." in name and name.endswith(".weight")]
    expanded = [tensor.numel() for tensor in matrices if tensor.itemsize == 1]  # from fp8
    reading = Cost(
        peak=(gemma.layers + 5) * state + 3 * tokens * gemma.hidden * itemsize + 2 * max(expanded, default=0),
        products=2 * tokens * sum(tensor.numel() for tensor in matrices),
        attention=4 * tokens * LENGTH * gemma.heads * gemma.head_dim * gemma.layers,
        moved=gemma.layers * (40 * state + 9 * tokens * gemma.hidden * itemsize) + 7 * sum(expanded),
    )
    features = blueprint.network("text_features")
    states = [_empty(1, LENGTH, gemma.width, like=features) for _ in range(gemma.layers + 1)]
    mask = torch.ones(1, LENGTH, dtype=torch.int64, device="meta")
    projecting = cost(lambda: features(states, mask)) * prompts
    return (
        Need("prompt", blueprint.weights("text_encoder"), reading),
        Need("features", blueprint.weights("text_features"), projecting, (gemma.layers + 1) * state),
    )


@lru_cache(maxsize=128)
def connectors(blueprint: Blueprint, prompts: int) -> tuple[Need, ...]:
    """The contexts of each prompt."""
    names = ("video_connector", "audio_connector")
    if not blueprint.has(*names):
        return ()
    total = Cost()
    for name in names:
        network = blueprint.network(name)
        features = _empty(1, LENGTH, network.config.width, like=network)
        total += cost(partial(network, features))
    return (Need("connectors", blueprint.weights(*names), total * prompts),)


@lru_cache(maxsize=128)
def sampling(
    blueprint: Blueprint, extent: Extent, passes: tuple[str, ...] = PASSES[:1], steps: int = 8, stg_block: int = 0
) -> Need:
    """All steps of these ``passes``. The perturbed pass is one with the conditional pass up to ``stg_block``."""
    weights = blueprint.weights("transformer")
    whole, block = _sweep(blueprint, extent, passes)
    step = whole + block * (len(weights.blocks) - 2)
    if "perturbed" in passes and stg_block:
        others = tuple(name for name in passes if name != "perturbed")
        step -= (block - _sweep(blueprint, extent, others)[1]) * stg_block
    return Need("sampling", weights, step, _input_bytes(blueprint, extent, passes), steps)


@lru_cache(maxsize=128)
def upscaling(config: UpscalerConfig, dtype: torch.dtype, extent: Extent) -> Need:
    """A latent upscaler, whose norms need the whole clip at once."""
    assert extent.video is not None
    with torch.device("meta"):
        upscaler, statistics = Upscaler(config).to(dtype), ChannelStatistics(config.in_channels)
    latent = AVLatent(torch.empty(extent.batch, config.in_channels, *extent.video, device="meta"), None)
    work = cost(lambda: upscale(upscaler, latent, Fraction(1), statistics))
    given = sum(x.nbytes for x in latent.streams().values())
    return Need(f"upscaling {config.enlarges}", Weights.of(upscaler), work, given)


@lru_cache(maxsize=128)
def refining(
    blueprint: Blueprint,
    extent: Extent,
    tile: tuple[int, int, int],
    sweeps: int = 1,
    passes: tuple[str, ...] = PASSES[:1],
    steps: int = 3,
) -> Need:
    """All steps of these ``passes`` in ``sweeps`` parts, of which the largest is ``tile``: the work of one part, beside
    the latents of the whole."""
    one = sampling(blueprint, replace(extent, video=tile), passes, steps)
    if sweeps > 1:
        assert extent.video is not None
        blended = len(passes) * 4 * extent.batch * VIDEO_CHANNELS * math.prod(extent.video)
        one = replace(one, inputs=one.inputs + _input_bytes(blueprint, extent, passes) + blended)
    return replace(one, name="refining", runs=steps * sweeps)


@lru_cache(maxsize=128)
def frames(blueprint: Blueprint, extent: Extent, tiling: Tiling) -> Need:
    """The video decoder, tile by tile, and the frames that are being blended."""
    assert extent.video is not None
    decoder = blueprint.network("video_decoder")
    length, height, width = extent.video
    size, overlap = tiling.tile_size // SPACE_SCALE, tiling.tile_overlap // SPACE_SCALE
    spans = split_time_axis(length, tiling.tile_frames // TIME_SCALE, tiling.frame_overlap // TIME_SCALE)
    sides = [
        split_axis(side, max(2, overlap + 1, round(size * side / max(height, width))), overlap)
        for side in (height, width)
    ]
    largest, tiles = _largest(spans, *sides)
    given = _empty(extent.batch, VIDEO_CHANNELS, *largest, like=decoder)
    tile = cost(lambda: decoder(given))
    picture = extent.batch * height * width * SPACE_SCALE**2 * 3 * 4  # float32
    interval = picture * pixel_frames(largest[0])  # what is being blended
    tail = picture * tiling.frame_overlap * (len(spans) > 1)
    # The check for numbers takes half as much again as an interval that is handed out, but the tile is gone by then.
    work = replace(tile * tiles, peak=max(tile.peak + interval + tail, 5 * interval // 2))
    latent = 4 * extent.batch * VIDEO_CHANNELS * length * height * width
    return Need("frames", blueprint.weights("video_decoder"), work, latent)


@lru_cache(maxsize=128)
def pictures(blueprint: Blueprint, extent: Extent, tiling: Tiling) -> Need:
    """The video encoder, tile by tile."""
    assert extent.video is not None
    encoder = blueprint.network("video_encoder")
    length, height, width = extent.video
    size, overlap = tiling.tile_size // SPACE_SCALE, tiling.tile_overlap // SPACE_SCALE
    spans = split_time_axis(length, tiling.tile_frames // TIME_SCALE, tiling.frame_overlap // TIME_SCALE)
    (time, rows, columns), tiles = _largest(spans, *(split_axis(side, size, overlap) for side in (height, width)))
    given = _empty(extent.batch, 3, pixel_frames(time), rows * SPACE_SCALE, columns * SPACE_SCALE, like=encoder)
    latent = 4 * extent.batch * VIDEO_CHANNELS * length * height * width
    return Need("pictures", blueprint.weights("video_encoder"), cost(lambda: encoder(given)) * tiles, 3 * latent)


def _largest(*axes: Sequence[Span]) -> tuple[tuple[int, ...], float]:
    """The size of the largest tile, and how many of these are as much work as all tiles are."""
    sizes = [[span.stop - span.start for span in axis] for axis in axes]
    largest = tuple(map(max, sizes))
    return largest, math.prod(map(sum, sizes)) / math.prod(largest)


@lru_cache(maxsize=128)
def hearing(blueprint: Blueprint, extent: Extent) -> Need:
    """The audio encoder."""
    assert extent.audio is not None
    encoder = blueprint.network("audio_encoder")
    mel = _empty(extent.batch, 2, extent.audio * MEL_FRAMES, MEL_BINS, like=encoder)
    return Need("hearing", blueprint.weights("audio_encoder"), cost(lambda: encoder(mel)), mel.nbytes)


@lru_cache(maxsize=128)
def mel(blueprint: Blueprint, extent: Extent) -> Need:
    """The audio decoder."""
    decoder, latent = blueprint.network("audio_decoder"), _audio_latent(blueprint, extent)
    work = cost(lambda: decoder(latent).float())
    return Need("mel", blueprint.weights("audio_decoder"), work, latent.nbytes)


@lru_cache(maxsize=128)
def sound(blueprint: Blueprint, mel_frames: int, batch: int = 1) -> Need:
    """The vocoder, a few seconds at a time."""
    vocoder = blueprint.network("vocoder")
    mel = torch.empty(batch, 2, mel_frames, MEL_BINS, device="meta")
    heard = mel[:, :, : CHUNK + 2 * vocoder.receptive_frames]
    with torch.inference_mode():
        waveform = vocoder(heard).nbytes // heard.shape[2] * mel_frames
    piece = cost(lambda: vocoder(heard))
    again = 2 * vocoder.receptive_frames * (math.ceil(mel_frames / CHUNK) - 1)  # frames that two pieces hear
    work = piece * ((mel_frames + again) / heard.shape[2])
    return Need(
        "sound",
        blueprint.weights("vocoder"),
        replace(work, peak=max(piece.peak + waveform, 2 * waveform)),
        mel.nbytes,
    )


def mel_frames(blueprint: Blueprint, extent: Extent) -> int:
    """How many frames of a mel spectrogram the sound becomes."""
    with torch.inference_mode():
        return blueprint.network("audio_decoder")(_audio_latent(blueprint, extent)).shape[2]


def _audio_latent(blueprint: Blueprint, extent: Extent) -> Tensor:
    assert extent.audio is not None
    decoder = blueprint.network("audio_decoder")
    return _empty(extent.batch, AUDIO_CHANNELS, extent.audio, AUDIO_BINS, like=decoder)


def _sweep(blueprint: Blueprint, extent: Extent, names: Sequence[str]) -> tuple[Cost, Cost]:
    """One step of a transformer with two blocks, and what the second of them adds to it.

    The store holds on to what a block is given, one state for each pass, in case that it has to run again.
    """
    passes = _passes(blueprint, extent, names)
    one, two = (blueprint.shortened_transformer(layers) for layers in (1, 2))
    with Store(two, "meta", link=InPlace("meta")).use():
        whole = cost(lambda: two.sweep(passes))
    return whole, whole - cost(lambda: one.sweep(passes))


def _passes(blueprint: Blueprint, extent: Extent, names: Sequence[str]) -> list[Pass]:
    network = blueprint.shortened_transformer(1)

    def stream(name: str, axes: int, tokens: int | None) -> StreamInput | None:
        if tokens is None:
            return None
        kind = getattr(network.config, name)
        return StreamInput(
            tokens=_empty(extent.batch, tokens, kind.channels_in, like=network),
            sigma=torch.empty(extent.batch, device="meta"),
            positions=torch.empty(extent.batch, axes, tokens, 2, device="meta"),
            context=_empty(extent.batch, LENGTH, network.config.caption_width or kind.context_width, like=network),
        )

    perturbations = {
        "perturbed": Perturbation(frozenset({0}), frozenset({0})),
        "isolated": Perturbation(audio_to_video=False, video_to_audio=False),
    }
    video, audio = extent.tokens
    positive, negative = ((stream("video", 3, video), stream("audio", 1, audio)) for _ in range(2))
    return [
        Pass(*(negative if name == "negative" else positive), perturbations.get(name, UNPERTURBED)) for name in names
    ]


def _input_bytes(blueprint: Blueprint, extent: Extent, passes: Sequence[str]) -> int:
    """Tokens, positions and contexts; and the sampler's latents in float32, of which it holds a few."""
    (each,) = _passes(blueprint, extent, PASSES[:1])
    streams = [stream for stream in (each.video, each.audio) if stream is not None]
    given = sum(x.nbytes for stream in streams for x in (stream.tokens, stream.positions, stream.context))
    latent = sum(4 * stream.tokens.numel() for stream in streams)
    return given * (1 + ("negative" in passes)) + (4 + 2 * len(passes)) * latent


def _empty(*shape: int, like: nn.Module) -> Tensor:
    """Something of this shape in the dtype that ``like`` computes in."""
    parameters = like.named_parameters()
    dtype = next(p.dtype for name, p in parameters if p.itemsize > 1 and not name.endswith("weight_scale"))
    return torch.empty(shape, dtype=dtype, device="meta")


def _stored(entries: Mapping[str, Entry], dtype: torch.dtype) -> Tensors:
    """Tensors of a file as they will be loaded: matrices of float8 stay that, all else is ``dtype``."""
    tensors: Tensors = {}
    for name, entry in entries.items():
        module, _, leaf = name.rpartition(".")
        if leaf in SCALE_SUFFIXES:
            continue
        stored = DTYPES.get(entry.dtype, dtype)
        if leaf == "weight" and len(entry.shape) == 2 and stored in FP8.values():
            scales = [entries[key].shape for kind in _SCALES if (key := f"{module}.{kind}") in entries]
            tensors |= _fp8(name, torch.empty(entry.shape, device="meta"), stored, *scales)
        else:
            tensors[name] = torch.empty(entry.shape, dtype=dtype, device="meta")
    return tensors


def _as_fp8(tensors: Tensors, blocks: Iterable[int]) -> Tensors:
    """With the matrices of these blocks in float8."""
    inside = re.compile(rf"(.*\.)?(blocks|layers)\.({'|'.join(map(str, blocks))})\..*\.weight")
    found: Tensors = {}
    for name, tensor in tensors.items():
        matrix = tensor.ndim == 2 and inside.fullmatch(name)
        found |= _fp8(name, tensor, torch.float8_e4m3fn) if matrix else {name: tensor}
    return found


def _fp8(name: str, weight: Tensor, dtype: torch.dtype, scale: tuple[int, ...] = ()) -> Tensors:
    """A matrix and its scale."""
    return {name: weight.to(dtype), f"{name}_scale": torch.empty(scale, dtype=torch.float32, device="meta")}


def _filled(name: str, config: dict[str, Any], tensors: Tensors) -> Any:
    with torch.device("meta"):
        network = COMPONENTS[name].make(config, {ours: tuple(tensor.shape) for ours, tensor in tensors.items()})
    return _given(network, tensors)


def _given(network: nn.Module, tensors: Tensors) -> Any:
    state = dict(tensors)
    adopt_fp8(network, state)
    network.load_state_dict(state, assign=True, strict=False)
    return network.requires_grad_(False).eval()
