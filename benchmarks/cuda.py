"""What only a card can tell, at full size with random weights: python -m benchmarks.cuda

rates    what the card and its link reach
attention  a pass with every kind that can be asked for: seconds, difference from PyTorch's own, of which weights at
         random make the worst where it is sparse
vocoder  in float32 and as PyTorch has it (TF32), beside the same on the CPU: decibels of error, seconds
forward  a step with all weights on the card: seconds and peak of activations, beside the plan's
delays   a streamed step with random waits between its copies and blocks: equal to the same step without them
graphs   a step of a small clip as a CUDA graph and without: seconds of both by turns, equality, memory of the graph
peers    one pass beside ltx-core and diffusers with the same weights: ratios within rounds of turning order
stream   the same steps streamed by block and by part, and as planned under caps of memory: seconds beside the plan's
         and beside the first placement of the same step, equality with it, loads, memory reserved beside the plan's

Every figure is a row, printed as it comes and kept in results/cuda_<card>_<date>.json; what fails or finds no time is a
row that says so; --table FILE prints such a file as tables of a page. Needs twice the bytes of the bf16 weights in host
memory (80 GB). With --tiny a miniature on the CPU.
"""

import argparse
import gc
import json
import platform
import random
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from datetime import date
from functools import cache, cached_property, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from ltx2_core.checkpoint.components import COMPONENTS
from ltx2_core.checkpoint.keys.transformer import TRANSFORMER
from ltx2_core.errors import DoesNotFitError
from ltx2_core.geometry import ClipShape, audio_positions, video_positions
from ltx2_core.memory import PinnedMemory, Plain, Store, Streamed
from ltx2_core.memory.machine import GIB, Machine, this_machine
from ltx2_core.memory.placement import Room, StageNeed, explain_refusal, place
from ltx2_core.memory.ram import pinnable, ram
from ltx2_core.memory.ring import Link
from ltx2_core.memory.unit import Slot, Unit
from ltx2_core.pipeline.needs.blueprint import Blueprint
from ltx2_core.pipeline.needs.passes import need_of_passes
from ltx2_core.pipeline.precision import exact_float32
from ltx2_core.pipeline.stage import LatentSize
from ltx2_core.pipeline.stages import PLANNED_PASSES
from ltx2_core.quantization import CASTS, castable, install_quantized_layers, use_scaled_products
from ltx2_core.transformer import (
    ATTENTIONS,
    UNPERTURBED,
    Pass,
    Perturbation,
    StreamInput,
    Transformer,
    TransformerConfig,
    attending_with,
    note_step,
)

from . import peers
from .markdown import markdown
from .no_card import LENGTH
from .weights import released

HERE = Path(__file__).parent
FORMATS = ("bf16", "fp8", "fp8 products")  # each is made from the one before; the last multiplies float8 by float8
SIZES = {"3.5k": (640, 352), "8.2k": (960, 544), "14.1k": (1280, 704), "32.6k": (1920, 1088)}  # by tokens
SMALL = "0.6k", (256, 160)
STEPS, ROUNDS, FPS = 8, 4, 24
CONTEXT = 900_000_000  # what CUDA takes of a card and no cap counts
PEERS = {"ltx-core": (peers.ltx_core, peers.of_ltx_core), "diffusers": (peers.diffusers, peers.of_diffusers)}
TINY = {
    "num_layers": 3, "num_attention_heads": 2, "attention_head_dim": 32, "cross_attention_dim": 64,
    "audio_num_attention_heads": 2, "audio_attention_head_dim": 16, "audio_cross_attention_dim": 32,
    "caption_channels": 48,
}  # fmt: skip

NARROW = {"upsample_initial_channel": 64}  # of the vocoder of 2.0

COLUMNS = {"part": 9, "format": 14, "clip": 7, "passes": 3, "where": 19}  # of what is printed

Figures = dict[str, Any]
Case = tuple[Figures, Callable[[], Figures]]  # which it is, and how to measure it


class Bench:
    """The network in one format after the other, and the rows that were found."""

    def __init__(self, options: argparse.Namespace):
        self.deadline = time.perf_counter() + 60 * options.minutes
        self.device = torch.device("cpu" if options.tiny else "cuda:0")
        config = released(options.version)
        self.section = config["transformer"] | (TINY if options.tiny else {})
        self.vocoder = config["vocoder"] | (NARROW if options.tiny else {})
        self.clips = {name: ClipShape(*SIZES[name], 121, FPS) for name in options.clips}
        self.small, size = SMALL
        self.shapes = self.clips | {self.small: ClipShape(*size, 121, FPS)}
        self.passes, self.caps = options.passes, options.caps
        if options.tiny:
            self.small, self.caps = "tiny", (4, 1)
            self.shapes = self.clips = {"tiny": ClipShape(64, 64, 9, FPS)}
        self.about = machine_and_versions(self.device) | {"options": {k: str(v) for k, v in vars(options).items()}}
        self.path = results_file(options.output, "cuda", self.about)
        self.format = ""
        self.rows: list[Figures] = []
        self.first: dict[tuple, tuple[str, list[Tensor], float]] = {}  # of each step: where, its result and seconds
        self.stg_block = self.section["num_layers"] * 29 // 48
        self.pinned = PinnedMemory()
        self.is_late, self.dice = False, random.Random(0)

    @cached_property
    def machine(self) -> Machine:
        """The rates of the device, measured once."""
        return this_machine(self.device)

    def measure(self, part: str, which: Figures, figures: Callable[[], Figures]) -> None:
        """Add one row: what ``figures`` returns, or why it failed."""
        row = {"part": part, **which}
        try:
            row |= figures() if time.perf_counter() < self.deadline else {"skipped": "no time was left"}
        except Exception as error:
            row["failed"] = f"{type(error).__name__}: {error}"[:600]
        cap(self.device, None)
        self.rows.append({k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in row.items()})
        self.path.write_text(json.dumps({"about": self.about, "rows": self.rows}, indent=1) + "\n")
        columns = "".join(str(row.get(name, "")).ljust(width) for name, width in COLUMNS.items())
        print(columns, ", ".join(f"{k} {v}" for k, v in self.rows[-1].items() if k not in COLUMNS), flush=True)

    @torch.inference_mode(False)
    @torch.no_grad()
    def load(self, format: str) -> Figures:
        """Make the network of this ``format`` from what is there; its weights are on the host."""
        start, self.format = time.perf_counter(), format
        if format == "bf16":
            self.state = random_state(self.section, self.device)
        elif format in CASTS:
            self.network = self.store = None  # which makes room
            for name in castable(self.state):
                for suffix, tensor in CASTS[format].quantize(self.state[name].to(self.device)).items():
                    self.state[f"{name.removesuffix('weight')}{suffix}"] = tensor.cpu()
        if format in CASTS or format == "bf16":
            self.network = empty_network(self.section)
            state = dict(self.state)
            install_quantized_layers(self.network, state)
            self.network.load_state_dict(state, assign=True)
            card = self.device.type == "cuda"
            self.link = Late(self.device, self.pinned, self.wait) if card else Plain(self.device)
            self.sent = counted(self.link)
            self.store = Store(self.network, self.device, link=self.link)
            shapes = {name: tensor.to("meta") for name, tensor in state.items()}
            self.blueprint = Blueprint(format, {"transformer": self.section}, {"transformer": shapes}, None)
        use_scaled_products(self.network, () if format in CASTS else [self.device.type])
        return {"seconds": time.perf_counter() - start, "weights, GB": self.store.wanted_bytes / 1e9}

    def wait(self) -> None:
        """Let the current stream of the card wait for up to 3 ms, while that is asked for."""
        if self.is_late and self.device.type == "cuda":
            torch.cuda._sleep(int(self.dice.random() * 4_500_000))  # cycles of 1.5 GHz

    def need(self, clip: str, passes: int) -> StageNeed:
        """Return what the planner says that a step of ``clip`` with so many passes needs."""
        size = LatentSize.of_clip(self.shapes[clip])
        return need_of_passes(self.blueprint, size, PLANNED_PASSES[:passes], STEPS, self.stg_block)


class Late(Streamed):
    """Waits on the stream of copies before each of them."""

    def __init__(self, device: torch.device, pinned: PinnedMemory, wait: Callable[[], None]):
        super().__init__(device, pinned)
        self._wait = wait

    def _copy(self, *given: Any) -> torch.cuda.Event:
        with torch.cuda.stream(self._copies):
            self._wait()
        return super()._copy(*given)


def main(arguments: list[str] | None = None) -> Path:
    """Measure what the arguments ask for, and return the file with the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)

    def add(name: str, kind: Callable[[str], Any], default: tuple, help: str) -> None:
        parser.add_argument(name, type=lambda text: tuple(map(kind, text.split(","))), default=default, help=help)

    add("--only", str, tuple(PARTS), f"some of {','.join(PARTS)}")
    add("--formats", str, FORMATS, f"some of {','.join(FORMATS)}")
    add("--clips", str, tuple(SIZES)[:3], f"some of {','.join(SIZES)} tokens; all but the last by default")
    add("--passes", int, (1, 4), "of a step, 1 to 4")
    add("--caps", float, (32, 24, 16, 12, 8), "GB of the cards to imitate")
    parser.add_argument("--version", choices=("2.0", "2.3"), default="2.0", help="19B or 22B")
    parser.add_argument("--minutes", type=float, default=8, help="begin no row after so long")
    parser.add_argument("--output", type=Path, default=HERE / "results")
    parser.add_argument("--tiny", action="store_true", help="a miniature on the CPU, to try this script")
    parser.add_argument("--table", type=Path, help="print this file as tables instead")
    options = parser.parse_args(arguments)
    if options.table:
        print(tables_of(json.loads(options.table.read_text())))
        return options.table
    options.output.mkdir(parents=True, exist_ok=True)
    bench = Bench(options)
    with torch.inference_mode():
        for format in FORMATS[: 1 + max(map(FORMATS.index, options.formats))]:
            bench.measure("load", {"format": format}, partial(bench.load, format))
            for part in parts_of(format, options):
                for which, figures in PARTS[part](bench):
                    bench.measure(part, {"format": format, **which}, figures)
    return bench.path


def parts_of(format: str, options: argparse.Namespace) -> list[str]:
    """Return what is measured of a format; what is the same in all of them is measured in the turn of bf16."""
    asked = options.only if format in options.formats else ()
    return [part for part in asked if format == "bf16" or part not in ONCE]


def tables_of(content: Figures) -> str:
    """Return a table of a page for each part, with what was measured on and the figures that its rows have."""
    about, parts = content["about"], dict.fromkeys(row["part"] for row in content["rows"])
    measured = ", ".join(f"{name} {about[name]}" for name in ("card", "driver", "torch", "date") if name in about)
    return "\n\n".join([measured, *(_table([r for r in content["rows"] if r["part"] == part]) for part in parts)])


def _table(rows: list[Figures]) -> str:
    """One part, with a column for each figure that a row of it has."""
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name != "part"]
    table = markdown(names, ([str(row.get(name, "")) for name in names] for row in rows))
    return f"## {rows[0]['part']}\n\n{table}"


# --------------------------------------------------------------------------------------------------------------- parts


def rates(bench: Bench) -> Iterator[Case]:
    """Yield what the card and its link reach."""
    device, card = bench.device, bench.device.type == "cuda"
    side, size = (8192, GIB) if card else (64, 2**16)

    def product(dtype: torch.dtype) -> Figures:
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in "ab")
        one = torch.ones((), device=device)
        scaled = partial(torch._scaled_mm, a, b.t(), one, one, out_dtype=torch.bfloat16)
        seconds = seconds_of(scaled if dtype.itemsize == 1 else lambda: a @ b.t(), 20, device)
        return {"TFLOPS": 2 * side**3 / seconds / 1e12}

    def copy() -> Figures:
        pinned = torch.empty(size, dtype=torch.uint8, pin_memory=card)
        there = torch.empty_like(pinned, device=device)
        return {"GB/s": size / seconds_of(lambda: there.copy_(pinned, non_blocking=True), 20, device) / 1e9}

    yield {"what": "the machine, as the planner measures it"}, lambda: asdict(bench.machine)
    yield {"what": "copy from pinned memory"}, copy
    for dtype in (torch.bfloat16, torch.float8_e4m3fn):
        yield {"what": f"product of {side} x {side}, {dtype}"}, partial(product, dtype)


def vocode(bench: Bench) -> Iterator[Case]:
    """Yield the vocoder with random weights, whose numbers are float32 in every format."""
    torch.manual_seed(0)
    vocoder = COMPONENTS["vocoder"].make({"vocoder": bench.vocoder}, {})
    mel = torch.randn(1, 2, 100 if bench.device.type == "cuda" else 4, 64) - 4
    exact = vocoder(mel).double()

    def beside_the_host(precision: AbstractContextManager[None]) -> Figures:
        network, given = vocoder.to(bench.device), mel.to(bench.device)
        with precision:
            found = network(given).cpu().double()
            seconds = seconds_of(lambda: network(given), 3, bench.device)
        error = (found - exact).square().mean() / exact.square().mean()
        return {"seconds": seconds, "error, dB": 10 * float(error.clamp(min=1e-30).log10())}

    for where, precision in {"in float32": exact_float32(), "as PyTorch has it": nullcontext()}.items():
        yield {"where": where}, partial(beside_the_host, precision)


def attention(bench: Bench) -> Iterator[Case]:
    """Yield one pass with all weights on the device, with every attention beside PyTorch's."""

    def beside_pytorch(clip: str, name: str) -> Figures:
        put(bench, "block", None)
        given = passes_of(bench, clip, 1)

        def run(name: str) -> tuple[Tensor, float]:
            with attending_with(name):
                note_step(0.5, 1)  # at which it may be sparse
                return swept(bench.network, given)[0], seconds_of(partial(bench.network.sweep, given), 2, bench.device)

        with bench.store.use():
            (exact, plain), (found, seconds) = run("pytorch"), run(name)
        error = ((found - exact).float().norm() / exact.float().norm()).item()
        return {"seconds": seconds, "beside PyTorch's": seconds / plain, "difference": error}

    for clip in bench.clips:
        for name in ATTENTIONS:
            yield {"clip": clip, "where": name}, partial(beside_pytorch, clip, name)


def delay(bench: Bench) -> Iterator[Case]:
    """Yield a step of the smallest clip, streamed by block, with random waits."""

    def late(need: StageNeed) -> Figures:
        figures = streamed(bench, "block", need)
        bench.is_late = True
        return figures

    clip, passes = next(iter(bench.clips)), bench.passes[0]

    def with_waits() -> Figures:
        hooks = [block.register_forward_pre_hook(lambda *_: bench.wait()) for block in bench.network.blocks]
        try:
            return step(bench, clip, passes, "late", late)
        finally:
            for hook in hooks:
                hook.remove()

    yield {"clip": clip, "passes": passes, "where": "late"}, with_waits


def forward(bench: Bench) -> Iterator[Case]:
    """Yield steps with all weights on the device."""
    return steps(bench, {"resident": lambda need: put(bench, "block", None)})


def graph(bench: Bench) -> Iterator[Case]:
    """Yield steps of a small clip with all weights on the device, as graphs and without; a CPU has none."""
    for passes in bench.passes:
        which = {"clip": bench.small, "passes": passes, "where": "graph"}
        yield which, partial(beside_the_plain_way, bench, passes)


def beside_the_plain_way(bench: Bench, passes: int) -> Figures:
    """Measure a step as a graph and without, by turns."""
    put(bench, "block", None)
    given, cost, network = passes_of(bench, bench.small, passes), bench.need(bench.small, passes).cost, bench.network
    figures: Figures = {"planned, starting": bench.machine.starting(cost), "planned, GB": cost.peak / 1e9}
    figures["planned, working"] = bench.machine.working(cost)
    with bench.store.use(), network.graphed() as graphs:
        ways, rounds, before = {"plain": None, "graph": graphs}, list[dict[str, float]](), reserved(bench.device)
        for _ in range(3):  # recorded, compared, replayed
            found = swept(network, given)
        figures |= {"reserved for it, GB": (reserved(bench.device) - before) / 1e9, "replays": graphs.replays}
        for index in range(ROUNDS):
            seconds = {}
            for name in list(ways)[:: -1 if index % 2 else 1]:
                network.graphs = ways[name]
                seconds[name] = seconds_of(lambda: network.sweep(given), STEPS, bench.device)
            rounds.append(seconds)
        network.graphs, start = None, time.perf_counter()
        network.sweep(given)
        figures["started in"] = time.perf_counter() - start
        figures["equal"] = all(map(torch.equal, found, swept(network, given)))
    figures |= {f"{name}, seconds": median(each[name] for each in rounds) for name in ways}
    return figures | {"graph / plain": median(each["graph"] / each["plain"] for each in rounds)}


def stream(bench: Bench) -> Iterator[Case]:
    """Yield steps with streamed weights: by block, by part, and as planned for smaller cards."""
    places = {f"streamed by {unit}": partial(streamed, bench, unit) for unit in ("block", "part")}
    return steps(bench, places | {f"planned for {each:g} GB": partial(planned, bench, each) for each in bench.caps})


def compare(bench: Bench) -> Iterator[Case]:
    """Yield one pass beside ltx-core and diffusers, with the weights where ours are."""

    @cache
    def network(peer: str) -> Any:
        prefix = TRANSFORMER.prefixes[0]
        state = {TRANSFORMER.official(n).removeprefix(prefix): p.data for n, p in bench.network.named_parameters()}
        return PEERS[peer][0](bench.section, state)

    def ratio(clip: str, peer: str) -> Figures:
        if bench.about[peer] == "absent":
            return {"skipped": f"{peer} is absent"}
        put(bench, "block", None)
        (given,) = passes_of(bench, clip, 1)
        with bench.store.use():
            runs = {"ours": lambda: bench.network.sweep([given])[0]}
            runs["theirs"] = PEERS[peer][1](network(peer), given.video, given.audio)
            ours, theirs = (run()[0].float() for run in runs.values())
            rounds = []
            for index in range(ROUNDS):
                order = list(runs)[:: -1 if index % 2 else 1]
                rounds.append({name: seconds_of(runs[name], 1, bench.device) for name in order})
        figures = {f"{name}, seconds": median(each[name] for each in rounds) for name in runs}
        figures["ours / theirs"] = median(each["ours"] / each["theirs"] for each in rounds)
        return figures | {"difference": ((ours - theirs).abs().max() / theirs.abs().max()).item()}

    for clip in bench.clips:
        for peer in PEERS:
            yield {"clip": clip, "passes": 1, "where": f"beside {peer}"}, partial(ratio, clip, peer)


PARTS = {
    "rates": rates, "attention": attention, "vocoder": vocode, "forward": forward, "graphs": graph,
    "delays": delay, "peers": compare, "stream": stream,
}  # fmt: skip
ONCE = ("rates", "attention", "vocoder", "peers")  # what all formats have alike, or only bf16 has


# --------------------------------------------------------------------------------------------------------------- steps


def steps(bench: Bench, places: dict[str, Callable[[StageNeed], Figures]]) -> Iterator[Case]:
    """Yield every clip and number of passes at each of ``places``, by what it is called and how to go there."""
    for where, put_there in places.items():
        for clip in bench.clips:
            for passes in bench.passes:
                which = {"clip": clip, "passes": passes, "where": where}
                yield which, partial(step, bench, clip, passes, where, put_there)


def streamed(bench: Bench, unit: str, need: StageNeed) -> Figures:
    """Let all units come through two slots."""
    bench.store.stream_by(unit)
    return put(bench, unit, bench.store.rest_bytes + 2 * max(bench.store.unit_bytes))


def planned(bench: Bench, gigabytes: float, need: StageNeed) -> Figures:
    """Place the weights as planned for a card of so many GB."""
    machine = replace(bench.machine, memory=int(gigabytes * GIB))
    total, available = ram()
    room = Room(machine, machine.budget, pinnable(total, available + bench.pinned.taken))
    placement = place(need, room)
    if placement is None:
        raise DoesNotFitError(explain_refusal(need, room))
    put(bench, placement.unit, placement.weight_budget, placement.slots or 2)
    cap(bench.device, machine.memory - CONTEXT)
    figures = {"unit": placement.unit, "slots": placement.slots, "planned seconds": placement.run}
    figures |= {tier: placement.tiers.count(tier) for tier in dict.fromkeys(placement.tiers)}
    return figures | {"planned, GB": placement.device_bytes / 1e9}


def put(bench: Bench, unit: str, budget: int | None, slots: int = 2) -> Figures:
    """Let the store stream by ``unit`` within ``budget`` bytes; None keeps all weights on the device."""
    bench.is_late = False
    bench.store.stream_by(unit, slots)
    bench.store.set_budget(budget)
    cap(bench.device, None)
    return {}


def step(bench: Bench, clip: str, passes: int, where: str, put_there: Callable[[StageNeed], Figures]) -> Figures:
    """Measure a step from its second run on; in the first, weights are still read into pinned memory."""
    store, device, need = bench.store, bench.device, bench.need(clip, passes)
    figures = {"planned seconds": bench.machine.seconds(need.cost)} if where == "resident" else {}
    figures |= put_there(need)
    given = passes_of(bench, clip, passes)
    with store.use():
        card = device.type == "cuda"
        if card:
            torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device) if card else 0
        start = time.perf_counter()
        result = [x.cpu() for each in bench.network.sweep(given) for x in each]
        times = max(2, min(STEPS, round(2 / (time.perf_counter() - start))))
        bench.sent.clear()
        seconds = seconds_of(lambda: bench.network.sweep(given), times, device)
        figures |= {"seconds": seconds, "resident units": sum(store.staying), "units": len(store.staying)}
        figures |= {"loads per step": len(bench.sent) / times, "GB loaded per step": sum(bench.sent) / times / 1e9}
        figures |= {"weights, GB": store.card_bytes / 1e9, "pinned, GB": bench.pinned.taken / 1e9}
    if card:
        figures["activations, GB"] = (torch.cuda.max_memory_allocated(device) - before) / 1e9
        figures["reserved, GB"] = torch.cuda.max_memory_reserved(device) / 1e9
    figures |= {"planned activations, GB": need.cost.peak / 1e9}
    figures["TFLOPS"] = (need.cost.products + need.cost.attention) / seconds / 1e12
    other, expected, its_seconds = bench.first.setdefault((bench.format, clip, passes), (where, result, seconds))
    if other == where:
        if plain := bench.first.get(("bf16", clip, passes)):
            found, exact = (torch.cat(each, 1).double() for each in (result, plain[1]))
            figures["difference from bf16"] = ((found - exact).norm() / exact.norm()).item()
        return figures | {"finite": all(bool(x.isfinite().all()) for x in result)}
    same = all(torch.equal(a, b) for a, b in zip(result, expected))
    return figures | {f"equal to {other}": same, f"seconds / {other}": seconds / its_seconds}


def swept(network: Transformer, given: list[Pass]) -> list[Tensor]:
    """Return the velocities of a step, on the host."""
    return [x.cpu() for each in network.sweep(given) for x in each if x is not None]


def reserved(device: torch.device) -> int:
    """Return the bytes that the allocator has taken of a card."""
    return torch.cuda.memory_reserved(device) if device.type == "cuda" else 0


def passes_of(bench: Bench, clip: str, count: int) -> list[Pass]:
    """Return the passes of a step in the planner's order, with random inputs."""
    shape, config, device = bench.shapes[clip], bench.network.config, bench.device
    generator, sigma = torch.Generator(device).manual_seed(1), torch.full((1,), 0.7, device=device)
    positions = {
        "video": video_positions(shape.video_latent, shape.fps, device),
        "audio": audio_positions(shape.audio_latents, device),
    }

    def random(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=generator, device=device, dtype=torch.bfloat16)

    def stream_of(name: str) -> StreamInput:
        kind, where = getattr(config, name), positions[name]
        context = random(1, LENGTH, config.caption_width or kind.context_width)
        return StreamInput(random(1, where.shape[2], kind.channels_in), sigma, where, context)

    positive = stream_of("video"), stream_of("audio")
    negative = tuple(replace(each, context=torch.flip(each.context, [1])) for each in positive)
    perturbations = {
        "perturbed": Perturbation(frozenset({bench.stg_block}), frozenset({bench.stg_block})),
        "isolated": Perturbation(audio_to_video=False, video_to_audio=False),
    }
    return [
        Pass(*(negative if name == "negative" else positive), perturbations.get(name, UNPERTURBED))
        for name in PLANNED_PASSES[:count]
    ]


# ------------------------------------------------------------------------------------------------ weights and measuring


def empty_network(section: dict[str, Any]) -> Transformer:
    """Return the transformer that ``section`` of a config describes, on the meta device."""
    with torch.device("meta"):
        return Transformer(TransformerConfig.from_json(section)).requires_grad_(False)


def random_state(section: dict[str, Any], device: torch.device) -> dict[str, Tensor]:
    """Weights that keep the size of what passes through them; made on the device, kept on the host."""
    generator, state = torch.Generator(device).manual_seed(0), {}
    for name, tensor in empty_network(section).state_dict().items():
        drawn = torch.randn(tensor.shape, generator=generator, device=device, dtype=torch.bfloat16)
        state[name] = drawn.mul_(tensor.shape[-1] ** -0.5 if tensor.ndim > 1 else 0.2).add_("norm" in name).cpu()
    return state


def counted(link: Link) -> list[int]:
    """Return a list that gets the bytes of every unit that ``link`` sends from now on."""
    send, sent = link.send, list[int]()

    def send_and_count(unit: Unit, slot: Slot) -> None:
        sent.append(unit.nbytes)
        send(unit, slot)

    link.send = send_and_count  # type: ignore[method-assign]
    return sent


def seconds_of(run: Callable[[], object], times: int, device: torch.device) -> float:
    """Return the seconds of one run among ``times`` in a row."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    for _ in range(times):
        run()
    wait()
    return (time.perf_counter() - start) / times


def cap(device: torch.device, nbytes: int | None) -> None:
    """Let the allocator, emptied, take so much of the card at most."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(1.0 if nbytes is None else min(1.0, nbytes / total), device)


def machine_and_versions(device: torch.device) -> Figures:
    """Return what the figures were measured with: date, card, driver and versions."""
    about: Figures = {"date": str(date.today()), "card": platform.machine(), "cuda": torch.version.cuda}
    if device.type == "cuda":
        about["card"] = torch.cuda.get_device_name(device)
        about["driver"] = subprocess.getoutput("nvidia-smi --query-gpu=driver_version --format=csv,noheader")
    for name in ("torch", "ltx-core", "diffusers"):
        try:
            about[name] = version(name)
        except PackageNotFoundError:
            about[name] = "absent"
    return about


def results_file(folder: Path, kind: str, about: Figures) -> Path:
    """Return where figures of a ``kind`` are kept, by the card and the day."""
    card = re.sub(r"[^a-z0-9]+", "-", about["card"].lower().removeprefix("nvidia "))
    return folder / f"{kind}_{card}_{about['date']}.json"


if __name__ == "__main__":
    main()
