"""What the next stages need is read while one runs: only where it is of use, never beyond free RAM, and once."""

import threading
from copy import copy
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny_parts
import torch
from fake_engine import FakeEngine
from planned import SLOW
from safetensors.torch import save_file

import ltx2_core as ltx2
from ltx2_core.checkpoint.folders import open_file
from ltx2_core.checkpoint.upscaler import open_upscaler
from ltx2_core.disk_cache.mapped import FileSpan
from ltx2_core.memory import PinnedMemory, Room, StageNeed
from ltx2_core.memory.machine import GIB, Machine
from ltx2_core.memory.page_cache import PIECE, ReadAhead, cut, read_span
from ltx2_core.memory.partition import Units, Weights
from ltx2_core.memory.placement import DEVICE, DISK, HOST, Placement
from ltx2_core.memory.ram import kept_free
from ltx2_core.memory.trace import Cost
from ltx2_core.memory.unit import Unit
from ltx2_core.pipeline.decode_video import DecodeVideo
from ltx2_core.pipeline.encode_conditions import EncodeVideo
from ltx2_core.pipeline.encode_text import Connect, ReadPrompts
from ltx2_core.pipeline.engines import local as local_engine
from ltx2_core.pipeline.engines import prefetch
from ltx2_core.pipeline.engines.local import LocalEngine
from ltx2_core.pipeline.generate import run
from ltx2_core.pipeline.plan import plan_stages, seconds_hidden
from ltx2_core.pipeline.stage import (
    AUDIO_DECODER,
    CONNECTORS,
    TEXT_FEATURES,
    TRANSFORMER,
    VIDEO_DECODER,
    VOCODER,
    upscaler_key,
)
from ltx2_core.settings import Request

PIECES = [FileSpan("file", start, start + PIECE) for start in range(0, 8 * PIECE, PIECE)]
SMALL = {"width": 64, "height": 64, "frames": 9, "steps": 2, "seed": 5, "cache": False, "device": "cpu"}
MACHINE = Machine("no card", 0, *[1e9] * 7)


def finish():
    """Wait until all has been read that may be."""
    for thread in threading.enumerate():
        if thread.name == "read ahead":
            thread.join(10)


class Disk:
    """Gives one piece a second of a clock that runs only while somebody computes, or waits for it."""

    def __init__(self):
        self.now, self.cached = 0, []
        self._seconds, self._done = threading.Semaphore(0), threading.Semaphore(0)

    def read(self, span, buffer):
        assert self._seconds.acquire(timeout=10)
        self.cached.append(span)
        self._done.release()

    def pass_seconds(self, count):
        for _ in range(count):
            self.now += 1
            self._seconds.release()
            assert self._done.acquire(timeout=10)

    def finish_piece(self):
        """Let the piece that is under way when a stage ends come, which is waited for."""
        self.now += 1
        self._seconds.release()

    def wait_for(self, pieces):
        """Read what is not there, as a store does."""
        self.now += len([piece for piece in pieces if piece not in self.cached])


def test_waiting_shrinks_by_what_is_read_while_another_stage_computes():
    disk = Disk()
    with ReadAhead(PIECES, lambda: GIB, read=disk.read) as reading:
        disk.pass_seconds(5)
        disk.finish_piece()
    disk.wait_for(PIECES)
    assert disk.cached == PIECES[:6] and reading.nbytes == 6 * PIECE
    assert disk.now == 8  # not 5 + 8


def test_no_more_is_read_than_ram_is_free_and_nothing_twice():
    read, done, free = [], set(), [2 * PIECE + 1]

    def take(span, buffer):
        read.append(span)

    def all_that_fits():
        with ReadAhead(PIECES, lambda: free[0], done, take):
            finish()

    all_that_fits()
    all_that_fits()
    assert read == PIECES[:2]
    free[0] = 100 * PIECE
    all_that_fits()
    assert read == PIECES and done == set(PIECES)
    free[0] = -1
    done.clear()
    all_that_fits()
    assert read == PIECES


def test_a_file_that_is_gone_or_became_shorter_is_nobodys_error(tmp_path):
    whole, short = tmp_path / "whole", tmp_path / "short"
    whole.write_bytes(b"x" * 100)
    short.write_bytes(b"x")
    done = set()
    spans = [FileSpan(str(short), 0, 100), FileSpan(str(whole), 50, 100), FileSpan(str(tmp_path / "gone"), 0, 9)]
    with ReadAhead([*spans, spans[1]._replace(start=0)], lambda: GIB, done):
        finish()
    assert done == set(spans[:2])
    whole.unlink()  # no handle is open, which Windows would refuse


def test_pieces_cover_what_they_are_cut_from():
    spans = [FileSpan("a", 5, 2 * PIECE + 6), FileSpan("b", 1, 2)]
    pieces = list(cut(spans))
    assert [piece.nbytes for piece in pieces] == [PIECE, PIECE, 1, 1]
    assert pieces[1].start == pieces[0].stop == PIECE + 5 and pieces[2].stop == spans[0].stop


def test_a_span_is_read_to_its_end(tmp_path):
    file, buffer = tmp_path / "file", bytearray(8)
    file.write_bytes(bytes(range(10)))
    read_span(FileSpan(str(file), 3, 9), buffer)
    assert buffer == bytes([3, 4, 5, 6, 7, 8, 0, 0])


def test_spans_are_the_bytes_of_a_network(tiny_blueprint):
    _, models = tiny_blueprint
    (file,) = models.files
    content = file.path.read_bytes()
    for name, source in models.sources.items():
        spans = file.spans(source.names.values())
        assert sum(span.nbytes for span in spans) == source.nbytes, name
        held = b"".join(content[span.start : span.stop] for span in spans)
        for key in list(source.names.values())[:5]:
            assert file.get(key).reshape(-1).view(torch.uint8).numpy().tobytes() in held


def test_spans_of_several_files_lie_in_the_file_that_has_the_bytes(tmp_path):
    """With three matrices that are given as one, as files of diffusers have them."""
    state = {f"d.attn.to_{each}.weight": torch.full((2, 3), value) for each, value in zip("kqv", (1.0, 2.0, 3.0))}
    shards = [tmp_path / f"x-0000{number}-of-00002.safetensors" for number in (1, 2)]
    save_file({"a": torch.zeros(5), **state}, shards[0])
    save_file({"b": torch.arange(7.0), "c": torch.ones(4)}, shards[1])
    spans = open_file(shards[0]).spans(["d.attn.qkv.weight", "b"])
    read = [Path(span.path).read_bytes()[span.start : span.stop] for span in spans]
    joined = torch.cat(list(state.values())).numpy().tobytes()  # in the order of names, as the file has them
    assert dict(zip((span.path for span in spans), read, strict=True)) == {
        str(shards[0]): joined,
        str(shards[1]): torch.arange(7.0).numpy().tobytes(),
    }


# --------------------------------------------------------------------------------------------------------- the stages


def test_an_owner_without_a_plan_reads_what_a_clip_usually_needs():
    behind = [TRANSFORMER, AUDIO_DECODER, VOCODER, VIDEO_DECODER]
    assert prefetch.networks_behind(ReadPrompts(1), None) == [TEXT_FEATURES, CONNECTORS, *behind]
    assert prefetch.networks_behind(Connect(1), None) == behind
    assert prefetch.networks_behind(DecodeVideo((1, 2, 2)), None) == []
    assert prefetch.networks_behind(EncodeVideo((9, 64, 64)), None) == []  # which need not be for a clip


class Watched(ReadAhead):
    """Reads all that it may before anything else happens, and remembers."""

    seen: list

    def __enter__(self):
        self.seen.append(self)
        super().__enter__()
        finish()
        return self


@pytest.fixture
def seen(monkeypatch):
    """Everything that is read ahead, one for each stage that asks; cards have memory of their own."""
    Watched.seen = []
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(is_integrated=0))
    monkeypatch.setattr(prefetch, "ReadAhead", Watched)
    return Watched.seen


@pytest.mark.slow
def test_a_run_reads_everything_once_as_soon_as_there_is_room(seen, tiny_blueprint, monkeypatch):
    _, models = tiny_blueprint
    monkeypatch.setattr(local_engine, "current_machine", lambda *_: MACHINE)
    # No RAM is free while the prompt is read.
    monkeypatch.setattr(local_engine, "ram", lambda: (64 * GIB, 60 * GIB if len(seen) != 1 else 0))
    request = Request.of("a red ball", vram=4 * GIB, **SMALL)
    plain = run(models, request, FakeEngine(models))
    clip = run(models, request)
    prompt, features = seen  # nothing is left for the stages behind
    behind = [TEXT_FEATURES, CONNECTORS, TRANSFORMER, AUDIO_DECODER, VOCODER, VIDEO_DECODER]
    pieces = [list(cut(prefetch.spans_of(models, key))) for key in behind]
    assert [*prompt.pieces] == [*chain(*pieces)] and not prompt.nbytes
    assert [*features.pieces] == [*chain(*pieces[1:])]
    assert features.nbytes == sum(models.sources[name].nbytes for key in behind[1:] for name in key.components)
    assert torch.equal(clip.latent.video, plain.latent.video) and torch.equal(clip.waveform, plain.waveform)


@dataclass
class Owner:
    """Of a card, or of a CPU."""

    models: ltx2.Models
    kind: str = "cuda"
    built: tuple = ()
    spare_ram: int = GIB

    def device(self, key):
        return torch.device(self.kind)

    def holds(self, key):
        return key in self.built


def placed(*tiers, nbytes=1000):
    return Placement(StageNeed("prompt", Weights(Units(0, (nbytes,) * len(tiers))), Cost()), tiers, 2, 1, 1)


def test_it_is_off_where_it_would_be_in_the_way(seen, tiny_blueprint):
    owner = Owner(tiny_blueprint[1])
    for placement in (None, placed(DEVICE, DISK)):
        with prefetch.reading_ahead(owner, ReadPrompts(1), None, placement, set()):
            assert not seen
    with prefetch.reading_ahead(owner, ReadPrompts(1), None, placed(DEVICE, HOST), set()):
        assert seen[0].nbytes


def test_what_is_built_is_not_read_again_and_files_may_lack_a_network(seen, tiny_blueprint):
    models = copy(tiny_blueprint[1])
    models.sources = {name: source for name, source in models.sources.items() if name != "vocoder"}
    owner, done = Owner(models, built=(TRANSFORMER, VIDEO_DECODER)), set()
    with prefetch.reading_ahead(owner, Connect(1), None, placed(DEVICE), done):
        assert done == set(cut(prefetch.spans_of(models, AUDIO_DECODER)))
    with prefetch.reading_ahead(owner, Connect(1), None, placed(DEVICE), done):
        assert len(seen) == 1  # all is there


def test_what_runs_in_ram_itself_has_its_bytes_first(seen, tiny_blueprint, monkeypatch):
    placement, integrated = placed(DEVICE, nbytes=GIB), SimpleNamespace(is_integrated=1)
    monkeypatch.setattr(torch.xpu, "get_device_properties", lambda device: integrated)
    for kind, reads in (("cuda", True), ("cpu", False), ("mps", False), ("xpu", False)):
        with prefetch.reading_ahead(Owner(tiny_blueprint[1], kind), ReadPrompts(1), None, placement, set()):
            assert bool(seen[-1].nbytes) == reads, kind


def test_of_several_processes_none_reads_ahead(tiny_blueprint):
    engine = LocalEngine(tiny_blueprint[1])
    engine._processes = object()
    assert engine.spare_ram == 0


def test_ram_that_is_promised_pinned_or_kept_free_is_not_spare():
    total, available = 64 * GIB, 40 * GIB
    pinned = PinnedMemory(GIB, pin=lambda span: True, unpin=lambda span: None)
    free = available - kept_free(total)
    assert pinned.spare(total, available) == free and pinned.spare(total, available, GIB) == GIB
    units = [Unit([torch.zeros(2**10)]), Unit([torch.zeros(2**12)])]
    pinned.admit(units)
    assert pinned.promised == 5 * 2**12 and pinned.spare(total, available) == free - 5 * 2**12
    pinned.fill(units[0])
    assert pinned.promised == 4 * 2**12 and pinned.spare(total, available, GIB) == GIB - 5 * 2**12


def test_weights_that_rest_in_ram_make_room_for_frames(monkeypatch):
    total, available, unpinned = 64 * GIB, [20 * GIB], []
    monkeypatch.setattr("ltx2_core.memory.pinned.ram", lambda: (total, available[0]))

    def unpin(span):
        unpinned.append(span.nbytes)
        available[0] += span.nbytes

    pinned = PinnedMemory(GIB, pin=lambda span: True, unpin=unpin)
    units = [Unit([torch.zeros(2**12)]) for _ in range(3)]
    pinned.admit(units)
    for unit in units:
        pinned.fill(unit)
    free = available[0] - kept_free(total)
    pinned.rest(units[:2])
    assert pinned.free == free + pinned.held == free + 3 * 2**14
    pinned.leave(free)
    assert not unpinned
    pinned.leave(free + 1)
    assert unpinned == [2**14] and units[0].span is None
    pinned.leave(free + 10 * GIB)
    assert unpinned == [2**14] * 2 and units[2].span is not None  # which is in use


def test_an_upscaler_lies_in_a_file_of_its_own(tiny_files, tmp_path):
    file = open_upscaler(tiny_parts.write_upscaler(tmp_path))
    spans = prefetch.spans_of(ltx2.open_models(tiny_files("2.3")[0]), upscaler_key(file))
    assert sum(span.nbytes for span in spans) == file.nbytes and {span.path for span in spans} == {str(file.file.path)}


# ----------------------------------------------------------------------------------------------------------- the plan


def test_the_plan_says_how_much_reading_is_hidden():
    """Ten seconds of work hide ten of the twelve that reading the next takes, if RAM is free for as much."""
    machine = replace(SLOW, disk=100.0)
    first, second = ReadPrompts(1), Connect(1)

    def placement(stage, tier, seconds):
        return Placement(StageNeed(stage.name, Weights(Units(200, (500, 500))), Cost()), (tier,) * 2, 0, 12, seconds)

    def hidden(tier, ram=10_000, **room):
        places = [placement(first, tier, 10.0), placement(second, DEVICE, 1.0)]
        return seconds_hidden([first, second], places, Room(machine, 10_000, ram, **room))

    assert hidden(DEVICE) == 10 and hidden(DEVICE, ram=300) == 3
    assert hidden(HOST, ram=1_300) == 3  # 1000 bytes of it are pinned
    assert hidden(DISK) == 0


def test_the_plan_tells_it(tiny_blueprint):
    blueprint, _ = tiny_blueprint
    stages = [ReadPrompts(1), Connect(1)]
    slow = replace(MACHINE, disk=1e4, products=1e6)
    assert "read ahead" in plan_stages(stages, blueprint, Room(slow, 4 * GIB, GIB)).explain()
    assert "read ahead" not in plan_stages(stages[1:], blueprint, Room(slow, 4 * GIB, GIB)).explain()
