"""Prompts to contexts: the text encoder reads them, features are projected, connectors think about them."""

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..checkpoint.belonging import check_prompt
from ..checkpoint.files import TensorFile
from ..checkpoint.loading import check_numbers
from ..checkpoint.models import Models
from ..checkpoint.prompt_cache import TEXT_COMPONENTS, prompt_cache
from ..disk_cache import LIMIT_BYTES, NOWHERE, DiskCache, fingerprint
from ..errors import CheckpointError, SettingError
from ..health import check_finite
from ..latents import STREAMS
from ..lora.stack import text_identity
from ..memory.placement import StageNeed
from ..memory.trace import Cost, cost
from ..quantization import format_of, matrix_shapes
from ..text import (
    ConnectorConfig,
    Contexts,
    Features,
    HiddenStates,
    TextFeaturesConfig,
    compute_hidden_states,
    connect,
    extract_features,
)
from ..text.prompts import MADE_BY, UNPROCESSED, describe_prompts
from ..text.tokenizer import LENGTH
from .engine import Engine
from .needs.blueprint import Blueprint, empty_like
from .stage import CONNECTORS, TEXT_ENCODER, TEXT_FEATURES, Stage

LONGEST_PROMPT = 100_000  # characters, of which about a twentieth is read


def readable_prompt(prompt: str) -> str:
    """Return ``prompt`` as a tokenizer can take it: halves of letters, which are no text, become question marks.

    Raises SettingError for more than LONGEST_PROMPT characters.
    """
    if len(prompt) > LONGEST_PROMPT:
        raise SettingError(
            f"The prompt has {len(prompt):,} characters, at most {LONGEST_PROMPT:,} are looked at, and {LENGTH} tokens "
            "are read: make it shorter."
        )
    return prompt.encode(errors="replace").decode()


@dataclass(frozen=True)
class ReadPrompts(Stage):
    """Let the text encoder read ``prompts`` prompts together."""

    prompts: int
    name = "prompt"
    networks = (TEXT_ENCODER,)

    def need(self, blueprint: Blueprint) -> StageNeed:
        """Measure one reading, written down rather than traced, of prompts that fill all tokens.

        Per layer and token a reading moves about 40 states and 9 hidden rows of the feed-forward (counted in
        text/gemma.py); quantised matrices are expanded one at a time, which moves seven bytes per number and prompt.
        """
        gemma = blueprint.gemma
        assert gemma is not None
        encoder = blueprint.network("text_encoder")
        itemsize = encoder.model.norm.weight.itemsize
        tokens = self.prompts * LENGTH
        state, row = tokens * gemma.width * itemsize, (gemma.width + gemma.hidden) * itemsize
        modules = dict(encoder.model.layers.named_modules())
        shapes = {name.removesuffix(".weight"): shape for name, shape in matrix_shapes(encoder.model.layers).items()}
        matrices = {name: math.prod(shape) for name, shape in shapes.items() if name in modules}
        expanded = [size for name, size in matrices.items() if format_of(modules[name])]
        reading = Cost(
            peak=(gemma.layers + 3) * state + 3 * row * LENGTH + 2 * max(expanded, default=0),
            products=2 * tokens * sum(matrices.values()),
            attention=4 * tokens * LENGTH * gemma.query_width,
            moved=gemma.layers * (40 * state + 9 * tokens * gemma.hidden * itemsize) + 7 * self.prompts * sum(expanded),
        )
        # Which tokens of each prompt see which, for both kinds of layers; the last is made from distances of 8 bytes.
        visible = (2 * self.prompts + 7) * LENGTH * LENGTH
        return StageNeed(self.name, blueprint.weights("text_encoder"), reading, visible)

    def run(self, engine: Engine, prompts: Sequence[str]) -> HiddenStates:
        """Return the hidden states of all layers for every prompt.

        Raises SettingError for one that is too long, and LTX2Error for a tokenizer that cannot be read, before the
        encoder is brought.
        """
        prompts, tokenizer = [readable_prompt(prompt) for prompt in prompts], engine.tokenizer
        with engine.use(self) as networks:
            return compute_hidden_states(networks[TEXT_ENCODER], tokenizer, prompts)


@dataclass(frozen=True)
class ProjectFeatures(Stage):
    """Project the hidden states of ``prompts`` prompts, one at a time."""

    prompts: int
    name = "features"
    networks = (TEXT_FEATURES,)

    def need(self, blueprint: Blueprint) -> StageNeed:
        """Measure the projection beside the states of all prompts, and the features of those before."""
        gemma, features = blueprint.gemma, blueprint.network("text_features")
        assert gemma is not None
        states = [empty_like(features, 1, LENGTH, gemma.width) for _ in range(gemma.layers + 1)]
        mask = torch.ones(1, LENGTH, dtype=torch.int64, device="meta")
        itemsize = blueprint.tensors["text_encoder"]["model.norm.weight"].itemsize
        given = (gemma.layers + 1) * self.prompts * LENGTH * gemma.width * itemsize
        made: dict[int, int] = {}  # bytes of each result; in 2.0 both are the same tensor
        one = cost(lambda: made.update((id(each), each.nbytes) for each in features(states, mask)))
        projecting = replace(one * self.prompts, peak=one.peak + (self.prompts - 1) * sum(made.values()))
        return StageNeed(self.name, blueprint.weights("text_features"), projecting, given)

    def run(self, engine: Engine, states: HiddenStates) -> list[Features]:
        """Return the features of every prompt."""
        with engine.use(self) as networks:
            return extract_features(networks[TEXT_FEATURES], states)


@dataclass(frozen=True)
class Connect(Stage):
    """Run the connectors over ``prompts`` prompts, one at a time: learned thinking tokens continue each."""

    prompts: int = 1
    name = "connectors"
    networks = (CONNECTORS,)

    def need(self, blueprint: Blueprint) -> StageNeed:
        """Measure both connectors on a prompt of full length, beside the contexts of all prompts."""
        total, contexts = Cost(), 0
        for name in CONNECTORS.components:
            network = blueprint.network(name)
            features = empty_like(network, 1, LENGTH, network.config.width)
            total += cost(partial(network, features))
            contexts += self.prompts * features.nbytes
        return StageNeed(self.name, blueprint.weights(*CONNECTORS.components), total * self.prompts, contexts)

    def run(self, engine: Engine, features: Sequence[Features]) -> list[Contexts]:
        """Return the contexts of every prompt."""
        device, dtype = engine.device(CONNECTORS), engine.dtype(CONNECTORS)
        contexts = []
        with engine.use(self) as networks:
            video, audio = networks[CONNECTORS]
            for each in features:
                moved = Features(each.video.to(device, dtype), each.audio.to(device, dtype))
                contexts.append(connect(moved, video, audio))
            for context in contexts:
                check_finite(context.video, "encoding the prompt")
                check_finite(context.audio, "encoding the prompt")
        return contexts


@dataclass(frozen=True)
class EncodeText:
    """Encode prompts to contexts; those that are kept on disk need no network."""

    cached: Mapping[str, Contexts | None]  # by prompt; None where it has to be read

    @classmethod
    def of(cls, prompts: Sequence[str], cache: DiskCache, engine: Engine, encoded: Path | None = None) -> "EncodeText":
        """Look ``prompts`` up in ``cache``; the first one is in the file ``encoded``, if there is one."""
        device = engine.device(CONNECTORS)
        kept: dict[str, Mapping[str, Tensor] | None] = {each: cache.find(each) for each in dict.fromkeys(prompts)}
        if encoded is not None:
            kept[prompts[0]] = read_contexts(encoded, engine)
        if None in kept.values():
            _ = engine.encoder  # refuses a prompt that nothing could read
        return cls(
            {
                prompt: None if each is None else Contexts(each["video"].to(device), each["audio"].to(device))
                for prompt, each in kept.items()
            }
        )

    @property
    def unread(self) -> list[str]:
        """The prompts that have to be read."""
        return [prompt for prompt, contexts in self.cached.items() if contexts is None]

    def stages(self, blueprint: Blueprint) -> list[Stage]:
        """Return what has to run."""
        return text_stages(blueprint, len(self.unread))

    def run(self, engine: Engine, cache: DiskCache) -> dict[str, Contexts]:
        """Return the contexts of every prompt; what was read is kept in ``cache``."""
        contexts, unread = dict(self.cached), self.unread
        if unread:
            features = read_features(engine, unread)
            engine.events.on_progress("prompt", 1, 2)
            for prompt, each in zip(unread, Connect(len(unread)).run(engine, features)):
                contexts[prompt] = each
                cache.keep(prompt, video=each.video, audio=each.audio)
        engine.events.on_progress("prompt", 2, 2)
        return {prompt: each for prompt, each in contexts.items() if each is not None}


def read_contexts(path: Path, engine: Engine) -> dict[str, Tensor]:
    """Return the contexts of a prompt, by stream, that the official code encoded, as they come with its HDR IC-LoRA.

    Raises:
        LTX2Error: The file cannot be read, holds something else, or is of another model.
    """
    file, found = TensorFile(path), {}
    for stream, width in zip(STREAMS, _widths(engine.models)):
        name = f"{stream}_context"
        shape = file.shape(name) if name in file.entries else ()
        if len(shape) != 3 or (shape[0], shape[2]) != (1, width) or not shape[1]:
            has = f"a {name} of the shape {shape}" if shape else f"no {name}"
            raise CheckpointError(
                f"{path.name} has {has}; {engine.models.kind} reads encoded prompts with one of (1, tokens, {width}): "
                "choose another file, or give the prompt itself."
            )
        check_numbers(file.get(name), partial("{} in {}".format, name, path.name))
        found[stream] = file.get(name).to(engine.dtype(CONNECTORS))
    return found


def contexts_cache(
    engine: Engine,
    folder: str | Path | bool | None,
    limit: int = LIMIT_BYTES,
    components: Sequence[str] = TEXT_COMPONENTS,
) -> DiskCache:
    """Return the cache for contexts of prompts, or what other ``components`` make of them one after the other.

    It may have ``limit`` bytes in ``folder``: True is that of the user's own, False or None keeps nothing.
    """
    if not folder:
        return NOWHERE
    dtype, changes = engine.dtype(TEXT_ENCODER), text_identity(engine.loras, components)
    return prompt_cache(folder, engine.models, engine.encoder, dtype, components, changes, limit)


def text_stages(blueprint: Blueprint, prompts: int) -> list[Stage]:
    """Return the stages that read ``prompts`` prompts, as far as the model has their networks."""
    stages: list[Stage] = []
    if prompts and blueprint.has("text_encoder", "text_features"):
        stages += [ReadPrompts(prompts), ProjectFeatures(prompts)]
    if prompts and blueprint.has(*CONNECTORS.components):
        stages.append(Connect(prompts))
    return stages


def read_features(engine: Engine, prompts: Sequence[str]) -> list[Features]:
    """Return the features of ``prompts``, in one load of the text encoder."""
    reading = ReadPrompts(len(prompts)).run(engine, prompts)
    return ProjectFeatures(len(prompts)).run(engine, reading)


def cached_features(engine: Engine, prompts: Sequence[str], negative: str, keep: bool) -> list[Tensor]:
    """Return the joined features of ``prompts`` and ``negative``, from disk if all are there; ``keep`` puts them there.

    Says which prompts are empty, or longer than what is read, and what in them is of other programs.
    """
    cache, texts = contexts_cache(engine, keep, components=("text_features",)), (*prompts, negative)
    known = [cache.find(each) for each in texts]
    if all(each is not None for each in known):
        encoded = [each["features"] for each in known if each is not None]
    else:
        encoded = [each.joined() for each in read_features(engine, texts)]
        for prompt, features in zip(texts, encoded):
            cache.keep(prompt, features=features)
    for sentence in describe_prompts(prompts, negative):
        engine.events.on_remark(sentence)
    for prompt, features in zip(texts, encoded):
        if features.shape[1] == LENGTH:
            engine.events.on_remark(
                f"Of the prompt that begins with {prompt[:40]!r} only {LENGTH:,} tokens are read, some 700 words: make "
                "it shorter, or say the most important first."
            )
    return encoded


def read_joined(engine: Engine, joined: Tensor, extras: Mapping[str, Any]) -> Contexts:
    """Return the contexts in what a host passes on: a prompt's contexts side by side, or features.

    Args:
        engine: Runs the connectors over features.
        joined: (B, L, D) of both streams.
        extras: What the host says beside it: whether these are features, and of which model.

    Raises:
        SettingError: They are of another model.
    """
    check_prompt(extras.get(MADE_BY), engine.models)
    section, widths = engine.models.config["transformer"], _widths(engine.models)
    if not extras.get(UNPROCESSED) and joined.shape[-1] == sum(widths):
        video, audio = joined.split(widths, dim=-1)
        return Contexts(video, audio)
    return connect_once(engine, Features.from_joined(joined, TextFeaturesConfig.from_json(section)))


def _widths(models: Models) -> list[int]:
    """The channels of the contexts of both streams."""
    section = models.config["transformer"]
    return [ConnectorConfig.from_json(section, stream).width for stream in ("video", "audio")]


_CONNECTED: WeakKeyDictionary[Models, OrderedDict[str, Contexts]] = WeakKeyDictionary()  # in RAM, by what they are of
_KEPT = 16  # of each model; in bfloat16 a prompt takes 12 MB


def connect_once(engine: Engine, features: Features) -> Contexts:
    """Return the contexts of features: those that an earlier stage of a graph has made of the same ones with the same
    files, LoRAs, device and dtype, as long as no ``_KEPT`` others came after it; else made now."""
    known = _CONNECTED.setdefault(engine.models, OrderedDict())
    device, changes = engine.device(CONNECTORS), text_identity(engine.loras, CONNECTORS.components)
    key = fingerprint(features.video, features.audio, str(device), str(engine.dtype(CONNECTORS)), changes)
    if key not in known:
        made = Connect(1).run(engine, [features])[0]
        known[key] = Contexts(made.video.cpu(), made.audio.cpu())
        while len(known) > _KEPT:
            known.popitem(last=False)
    known.move_to_end(key)
    return Contexts(known[key].video.to(device), known[key].audio.to(device))
