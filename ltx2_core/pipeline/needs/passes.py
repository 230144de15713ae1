"""What does a step of some passes through the transformer take? Counted on shapes."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch

from ...memory.link import InPlace
from ...memory.placement import StageNeed
from ...memory.store import Store
from ...memory.trace import Cost, cost
from ...sampling import Guidance
from ...sampling.guidance import PASSES
from ...text.tokenizer import LENGTH
from ...transformer import (
    ImaginedPeers,
    Network,
    Pass,
    SequenceParallel,
    StreamInput,
    TextSchedule,
    Transformer,
    Visibility,
)
from ..stage import LatentSize
from .blueprint import FLOAT32, Blueprint, empty_like
from .cached_text import with_text_caches


def need_of_passes(
    blueprint: Blueprint,
    size: LatentSize,
    passes: tuple[str, ...],
    steps: int,
    first_stg_block: int = 0,
    name: str = "sampling",
    caches_text: bool = False,
) -> StageNeed:
    """Measure all steps of these ``passes`` over a latent of ``size``.

    The perturbed pass is one with the conditional pass up to ``first_stg_block``; with ``caches_text`` the step before
    left what it made of the prompts.
    """
    weights = blueprint.weights("transformer")
    key = ("sweep", size, passes, caches_text)
    whole, block = blueprint.remember(key, lambda: _sweep(blueprint, size, passes, caches_text))
    step = whole + block * (len(weights.blocks.sizes) - 2)
    if {"cond", "perturbed"} <= {*passes} and first_stg_block:
        others = tuple(each for each in passes if each != "perturbed")
        key = ("sweep", size, others, caches_text)
        shared = blueprint.remember(key, lambda: _sweep(blueprint, size, others, caches_text))[1]
        step -= (block - shared) * first_stg_block
    return StageNeed(name, weights, step, input_bytes(blueprint, size, passes), steps)


def in_turns(need: StageNeed, walks: Sequence[StageNeed]) -> StageNeed:
    """Return the need of passes that take turns, beside what all of them are given in ``need``; each walk is a run."""
    run = sum((each.cost for each in walks), Cost()) * (1 / len(walks))
    return replace(need, cost=run, runs=need.runs * len(walks), walks=len(walks))


def _sweep(blueprint: Blueprint, size: LatentSize, names: Sequence[str], caches_text: bool) -> tuple[Cost, Cost]:
    """Return the cost of a step with two blocks, and what the second of them adds to it.

    The store holds on to what a block is given, one state for each pass, in case that it has to run again.
    """
    passes = passes_on_meta(blueprint, size, names)
    one, two = (blueprint.shortened_transformer(layers) for layers in (1, 2))
    peers = ImaginedPeers(blueprint.processes)
    if caches_text:
        passes = with_text_caches(passes)
        for network in (one, two):  # the step before this one, which fills the caches
            cost(partial(network.sweep, passes))  # not measured: within it, no shape needs PyTorch's compiler
    with Store(two, "meta", link=InPlace("meta")).use():
        whole = cost(lambda: _shared(two, peers).sweep(passes))
    return whole, whole - cost(lambda: _shared(one, peers).sweep(passes))


def bytes_sent(blueprint: Blueprint, size: LatentSize, names: tuple[str, ...]) -> int:
    """Return how many bytes each of the processes of ``blueprint`` sends to others in a step with these passes."""

    def sent(layers: int) -> int:
        peers = ImaginedPeers(blueprint.processes)
        network = _shared(blueprint.shortened_transformer(layers), peers)
        passes = passes_on_meta(blueprint, size, names)
        cost(lambda: network.sweep(passes))  # not measured: within it, no shape needs PyTorch's compiler
        return peers.sent

    one, two = blueprint.remember(("sent", size, names), lambda: (sent(1), sent(2)))
    return two + (two - one) * (blueprint.layers - 2)


def _shared(network: Transformer, peers: ImaginedPeers) -> Network:
    return network if peers.size == 1 else SequenceParallel(network, network.config, peers)


def skipped_step(blueprint: Blueprint, size: LatentSize, names: Sequence[str]) -> Cost:
    """Return the cost of a step in which the picture walks through the first block alone, the sound through all."""
    asked = passes_on_meta(blueprint, size, names)
    held = [each if each.video is None else replace(each, video=replace(each.video, updated=False)) for each in asked]
    one, two = (blueprint.shortened_transformer(layers) for layers in (1, 2))
    block = cost(lambda: two.sweep(held)) - cost(lambda: one.sweep(held))
    return cost(lambda: one.sweep(asked)) + block * (blueprint.layers - 1)


def cached_bytes(blueprint: Blueprint, size: LatentSize, passes: int) -> int:
    """Return the bytes of what a step cache keeps: two pictures of each pass, and what the first block made of one."""
    (asked,) = passes_on_meta(blueprint, size, ("cond",))
    if asked.video is None:
        return 0
    batch, tokens, _ = asked.video.tokens.shape
    width = blueprint.shortened_transformer(1).config.video.width
    return (2 * passes + 3) * batch * tokens * width * asked.video.tokens.itemsize


def passes_on_meta(blueprint: Blueprint, size: LatentSize, names: Sequence[str]) -> list[Pass]:
    """Return what the transformer is asked in one step, as shapes."""
    network = blueprint.shortened_transformer(1)

    def stream(name: str, axes: int, tokens: int | None, groups: int, texts: int) -> StreamInput | None:
        if tokens is None:
            return None
        group, weight = torch.empty(2, tokens, device="meta")
        config = getattr(network.config, name)
        width = network.config.caption_width or config.context_width
        return StreamInput(
            tokens=empty_like(network, size.batch, tokens, config.channels_in),
            sigma=torch.empty(size.batch, device="meta"),
            positions=torch.empty(size.batch, axes, tokens, 2, device="meta"),
            context=empty_like(network, size.batch, LENGTH * texts, width),
            schedule=TextSchedule(torch.empty(tokens, texts, device="meta"), (LENGTH,) * texts) if texts > 1 else None,
            visibility=Visibility(group, weight, groups) if groups else None,
        )

    def inputs(texts: int) -> tuple[StreamInput | None, StreamInput | None]:
        (video, audio), groups = size.tokens, size.groups
        return stream("video", 3, video, groups[0], texts), stream("audio", 1, audio, groups[1], texts)

    positive, negative = inputs(size.texts), inputs(1)
    unreferenced = positive[0], stream("audio", 1, size.audio, 0, size.texts)
    perturbing = Guidance(stg_scale=1.0, stg_blocks=(0,))  # the one block that there is
    passes = []
    for name in names:
        kind = PASSES[name]
        video, audio = negative if kind.reads_negative else positive if kind.hears_reference else unreferenced
        passes.append(Pass(video, audio, kind.leaves_out(perturbing, perturbing)))
    return passes


def input_bytes(blueprint: Blueprint, size: LatentSize, passes: Sequence[str]) -> int:
    """Return the bytes of the contexts, and of all that ``latent_bytes`` counts."""
    contexts = sum(stream.context.nbytes for stream in _streams_on_meta(blueprint, size))
    return contexts * count_prompts(passes) + latent_bytes(blueprint, size, passes)


def latent_bytes(blueprint: Blueprint, size: LatentSize, passes: Sequence[str]) -> int:
    """Return the bytes of tokens and positions, and of the latents in float32 that a sampler holds."""
    streams = _streams_on_meta(blueprint, size)
    given = sum(stream.tokens.nbytes + stream.positions.nbytes for stream in streams)
    latent = sum(FLOAT32 * stream.tokens.numel() for stream in streams)
    return given * count_prompts(passes) + (4 + 2 * len(passes)) * latent


def _streams_on_meta(blueprint: Blueprint, size: LatentSize) -> list[StreamInput]:
    (each,) = passes_on_meta(blueprint, size, ("cond",))
    return [stream for stream in (each.video, each.audio) if stream is not None]


def count_prompts(passes: Sequence[str]) -> int:
    """Return how many prompts these passes read."""
    return 2 if "negative" in passes else 1
