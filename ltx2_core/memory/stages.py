"""What does each stage of a clip need: which weights, how much memory for its work, how much work?

All of it is told by shapes. Networks are built on the meta device and run there, so the numbers are those of the code
as it is, not of a formula beside it.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoint.components import COMPONENTS
from ..checkpoint.files import DTYPES, Entry
from ..checkpoint.models import Models
from ..checkpoint.text_encoder import TextEncoderFiles
from ..checkpoint.versions import VERSIONS
from ..geometry import AUDIO_BINS, AUDIO_CHANNELS, SPACE_SCALE, TIME_SCALE, VIDEO_CHANNELS, ClipShape
from ..quantization import SCALE_SUFFIXES
from ..quantization.fp8 import FORMATS as FP8
from ..quantization.fp8 import adopt_fp8
from ..text import GemmaConfig, GemmaEncoder
from ..text.tokenizer import LENGTH
from ..transformer import UNPERTURBED, Pass, Perturbation, StreamInput
from ..video_vae import Tiling
from ..video_vae.tiling import split, split_time
from .trace import Cost, cost
from .unit import ALIGNMENT

# A kernel's own workspace, and the gaps of the allocator.
KERNELS = 2**29

PASSES = ("cond", "negative", "isolated", "perturbed")  # in the order in which people turn them on
FORMATS = ("bf16", "fp8")

_SCALES = ("weight_scale", "scale_weight")

Tensors = dict[str, Tensor]  # our names; on the meta device


@dataclass(frozen=True)
class Weights:
    """Bytes of a network, as they travel: blocks one by one, and what lies outside of them as a whole."""

    rest: int
    blocks: tuple[int, ...] = ()
    unit: int = 0  # the largest part of a block that runs by itself

    @property
    def total(self) -> int:
        return self.rest + sum(self.blocks)

    def __add__(self, other: "Weights") -> "Weights":
        return Weights(self.rest + other.rest, self.blocks + other.blocks, max(self.unit, other.unit))

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Weights":
        """By the names of the tensors: the members of lists are blocks, and of these the modules with weights units."""
        blocks, units, rest = Counter[str](), Counter[str](), 0
        for name, tensor in tensors.items():
            if found := re.match(r"(.*?\.\d+(?:\.\d+)*)\.", name):
                blocks[found.group(1)] += _span(tensor)
                units[name.rsplit(".", 2)[0]] += _span(tensor)
            else:
                rest += _span(tensor)
        return cls(rest, tuple(blocks.values()), max(units.values(), default=0))


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

    @classmethod
    def of_files(cls, models: Models, encoder: TextEncoderFiles | None, dtype: torch.dtype) -> "Blueprint":
        """As files will be loaded to compute in ``dtype``; from their headers alone."""
        tensors = {}
        for name, source in models.sources.items():
            entries = {ours: source.file.entries[key] for ours, key in source.names.items()}
            with torch.device("meta"):
                network = COMPONENTS[name].make(models.config, {ours: entry.shape for ours, entry in entries.items()})
            tensors[name] = _stored(entries, getattr(network, "compute_dtype", dtype))
        if encoder is not None:
            entries = {ours: file.entries[key] for ours, (file, key) in encoder.names.items()}
            tensors["text_encoder"] = _stored(entries, dtype)
        title = f"LTX-{models.version} ({models.source('transformer').file.path.name})"
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
        parts = [Weights.of(self.tensors[name]) for name in names]
        return sum(parts[1:], parts[0])

    def has(self, *names: str) -> bool:
        return all(name in self.tensors for name in names)

    def network(self, name: str) -> Any:
        """Component ``name`` on the meta device, in the formats it will run in."""
        return _filled(name, self.config, self.tensors[name])

    def shortened_transformer(self, layers: int) -> Any:
        """The transformer with only a few blocks from its middle."""
        middle = len(Weights.of(self.tensors["transformer"]).blocks) // 2
        tensors = {}
        for name, tensor in self.tensors["transformer"].items():
            found = re.match(r"blocks\.(\d+)\.(.*)", name)
            if found is None:
                tensors[name] = tensor
            elif 0 <= (number := int(found.group(1)) - middle) < layers:
                tensors[f"blocks.{number}.{found.group(2)}"] = tensor
        config = self.config | {"transformer": self.config["transformer"] | {"num_layers": layers}}
        return _filled("transformer", config, tensors)


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
    expanded = [tensor.numel() for tensor in matrices if tensor.itemsize == 1]  # from fp8, by way of float32
    reading = Cost(
        peak=(gemma.layers + 5) * state + 3 * tokens * gemma.hidden * itemsize + 10 * max(expanded, default=0),
        products=2 * tokens * sum(tensor.numel() for tensor in matrices),
        attention=4 * tokens * LENGTH * gemma.heads * gemma.head_dim * gemma.layers,
        moved=gemma.layers * (40 * state + 9 * tokens * gemma.hidden * itemsize) + 19 * sum(expanded),
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
def sampling(blueprint: Blueprint, shape: ClipShape, passes: int = 1, steps: int = 8, stg_block: int = 0) -> Need:
    """All steps. The perturbed pass is one with the conditional pass up to ``stg_block``."""
    if not 1 <= passes <= len(PASSES):
        raise ValueError(f"A step has 1 to {len(PASSES)} passes ({', '.join(PASSES)}), not {passes}.")
    weights, names = blueprint.weights("transformer"), PASSES[:passes]
    whole, block = _sweep(blueprint, shape, names)
    step = whole + block * (len(weights.blocks) - 2)
    if "perturbed" in names and stg_block:
        step -= (block - _sweep(blueprint, shape, names[:-1])[1]) * stg_block
    return Need("sampling", weights, step, _input_bytes(blueprint, shape, passes), steps)


@lru_cache(maxsize=128)
def frames(blueprint: Blueprint, shape: ClipShape, tiling: Tiling) -> Need:
    """The video decoder, tile by tile, and the frames that are being blended."""
    decoder = blueprint.network("video_decoder")
    length, height, width = shape.video_latent
    size, overlap = tiling.pixels // SPACE_SCALE, tiling.pixel_overlap // SPACE_SCALE
    spans = split_time(length, tiling.frames // TIME_SCALE, tiling.frame_overlap // TIME_SCALE)
    sides = [
        split(side, max(2, overlap + 1, round(size * side / max(height, width))), overlap) for side in (height, width)
    ]
    time, rows, columns = ([span.stop - span.start for span in axis] for axis in (spans, *sides))
    tile = cost(lambda: decoder(_empty(1, VIDEO_CHANNELS, max(time), max(rows), max(columns), like=decoder)))
    tiles = sum(time) * sum(rows) * sum(columns) / (max(time) * max(rows) * max(columns))
    picture = shape.width * shape.height * 3 * 4  # float32
    interval = picture * (1 + TIME_SCALE * (max(time) - 1))  # what is being blended
    tail = picture * tiling.frame_overlap * (len(spans) > 1)
    # The check for numbers takes half as much again as an interval that is handed out, but the tile is gone by then.
    work = replace(tile * tiles, peak=max(tile.peak + interval + tail, 5 * interval // 2))
    latent = 4 * VIDEO_CHANNELS * length * height * width
    return Need("frames", blueprint.weights("video_decoder"), work, latent)


@lru_cache(maxsize=128)
def sound(blueprint: Blueprint, shape: ClipShape) -> tuple[Need, ...]:
    """The mel spectrogram, then the waveform."""
    if not blueprint.has("audio_decoder", "vocoder"):
        return ()
    decoder, vocoder = blueprint.network("audio_decoder"), blueprint.network("vocoder")
    latent = _empty(1, AUDIO_CHANNELS, shape.audio_latents, AUDIO_BINS, like=decoder)
    with torch.inference_mode():
        mel = decoder(latent).float()
    return (
        Need("mel", blueprint.weights("audio_decoder"), cost(lambda: decoder(latent).float()), latent.nbytes),
        Need("sound", blueprint.weights("vocoder"), cost(lambda: vocoder(mel)), mel.nbytes),
    )


def _sweep(blueprint: Blueprint, shape: ClipShape, names: Sequence[str]) -> tuple[Cost, Cost]:
    """One step of a transformer with two blocks, and what the second of them adds to it."""
    passes = _passes(blueprint, shape, names)
    one, two = (blueprint.shortened_transformer(layers) for layers in (1, 2))
    whole = cost(lambda: two.sweep(passes))
    return whole, whole - cost(lambda: one.sweep(passes))


def _passes(blueprint: Blueprint, shape: ClipShape, names: Sequence[str]) -> list[Pass]:
    network = blueprint.shortened_transformer(1)
    tokens = {"video": math.prod(shape.video_latent), "audio": shape.audio_latents}

    def stream(name: str, axes: int) -> StreamInput:
        kind = getattr(network.config, name)
        return StreamInput(
            tokens=_empty(1, tokens[name], kind.channels_in, like=network),
            sigma=torch.empty(1, device="meta"),
            positions=torch.empty(1, axes, tokens[name], 2, device="meta"),
            context=_empty(1, LENGTH, network.config.caption_width or kind.context_width, like=network),
        )

    perturbations = {
        "perturbed": Perturbation(frozenset({0}), frozenset({0})),
        "isolated": Perturbation(audio_to_video=False, video_to_audio=False),
    }
    positive, negative = ((stream("video", 3), stream("audio", 1)) for _ in range(2))
    return [
        Pass(*(negative if name == "negative" else positive), perturbations.get(name, UNPERTURBED)) for name in names
    ]


def _input_bytes(blueprint: Blueprint, shape: ClipShape, passes: int) -> int:
    """Tokens, positions and contexts; and the sampler's latents in float32, of which it holds a few."""
    positive, negative = _passes(blueprint, shape, PASSES[:2])
    streams = [positive.video, positive.audio, *((negative.video, negative.audio) if passes > 1 else ())]
    given = [x for stream in streams for x in (stream.tokens, stream.positions, stream.context)]
    latent = 4 * (math.prod(shape.video_latent) * VIDEO_CHANNELS + shape.audio_latents * AUDIO_CHANNELS * AUDIO_BINS)
    return sum(x.nbytes for x in given) + (4 + 2 * passes) * latent


def _empty(*shape: int, like: nn.Module) -> Tensor:
    """Something of this shape in the dtype that ``like`` computes in."""
    parameters = like.named_parameters()
    dtype = next(p.dtype for name, p in parameters if p.itemsize > 1 and not name.endswith("weight_scale"))
    return torch.empty(shape, dtype=dtype, device="meta")


def _span(tensor: Tensor) -> int:
    """Bytes that the tensor takes in a store."""
    return -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT


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
    state = dict(tensors)
    with torch.device("meta"):
        network = COMPONENTS[name].make(config, {ours: tuple(tensor.shape) for ours, tensor in state.items()})
    adopt_fp8(network, state)
    network.load_state_dict(state, assign=True, strict=False)
    return network.requires_grad_(False).eval()
