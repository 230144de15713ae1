"""From the file to the device: through threads, pinned memory and a stream, without a byte changed or too many kept."""

import json
import random
import struct
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from devices import Pins, full_cards, on_stand_ins, through
from safetensors.torch import save_file
from torch import nn

from ltx2_core.checkpoint.files import TensorFile
from ltx2_core.disk_cache.mapped import mapped_files
from ltx2_core.memory import PinnedMemory, Plain, Store, Streamed, link, pinned
from ltx2_core.memory.link import Readers
from ltx2_core.memory.unit import ALIGNMENT, Unit

SIDE, BLOCKS = 32, 6
BLOCK = SIDE * SIDE * 4 + ALIGNMENT  # a weight and a bias

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what a process has of its memory")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(SIDE, SIDE) for _ in range(BLOCKS))
        self.scale = nn.Parameter(torch.rand(SIDE))

    def forward(self, x):
        for block in self.blocks:
            x = block(x).relu()
        return x * self.scale


X = torch.randn(3, SIDE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def path(tmp_path) -> Path:
    torch.manual_seed(0)
    save_file(Net().state_dict(), tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


def mapped(path: Path) -> Net:
    """The network, mapped from its file."""
    file = TensorFile(path)
    with torch.device("meta"):
        network = Net()
    network.load_state_dict({key: file.get(key) for key in file.entries}, assign=True)
    return network.requires_grad_(False)


# -------------------------------------------------------------------------------------------------------------- units


@pytest.fixture
def mixed() -> list[torch.Tensor]:
    sizes = [(torch.float32, (7, 3)), (torch.bfloat16, ()), (torch.int8, (513,)), (torch.float8_e4m3fn, (2, 5))]
    tensors = [torch.randn(shape).mul(9).to(dtype) for dtype, shape in sizes]
    return [*tensors, torch.randn(4, 6).t(), torch.empty(0), torch.tensor([True, False])]


def test_a_unit_is_one_aligned_span(mixed):
    unit = Unit(mixed)
    copies, span = [tensor.clone() for tensor in mixed], torch.empty(unit.nbytes, dtype=torch.uint8)
    unit.read(span)
    unit.bind(span)
    for tensor, copy in zip(mixed, copies):
        assert tensor.dtype == copy.dtype and torch.equal(tensor.float(), copy.float())
        assert (tensor.data_ptr() - span.data_ptr()) % ALIGNMENT == 0 or tensor.numel() == 0
    unit.go_home()
    assert not {tensor.data_ptr() for tensor in mixed if tensor.numel()} & set(range(span.data_ptr(), unit.nbytes))


@pytest.mark.parametrize("piece", [1, 7, 100, 512, 5000])
def test_a_unit_is_read_in_pieces_of_any_size(mixed, piece):
    unit = Unit(mixed)
    whole, pieces = torch.zeros(2, unit.nbytes, dtype=torch.uint8)
    unit.read(whole)
    for start in range(0, unit.nbytes, piece):
        unit.read(pieces[start : start + piece], start)
    assert torch.equal(whole, pieces)


def test_what_is_mapped_is_read_from_its_file(path, monkeypatch):
    network = mapped(path)
    unit, plain = Unit(list(network.parameters()), mapped_files()), Unit(list(network.parameters()))
    assert all(part.path == str(path) for part in unit._parts)
    assert not any(plain._parts)
    one, other = torch.zeros(2, unit.nbytes, dtype=torch.uint8)
    unit.read(one)
    plain.read(other)
    assert torch.equal(one, other) and one.any()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not let go of a file that is mapped")
def test_a_file_that_is_no_longer_at_its_path_is_read_through_its_mapping(path):
    network = mapped(path)
    path.unlink()
    assert str(path) not in [file.path for file in mapped_files()]
    path.write_bytes(b"another file")
    unit = Unit(list(network.parameters()), mapped_files())
    assert not any(unit._parts)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not let go of a file that is mapped")
@pytest.mark.parametrize("gone", [True, False])
def test_a_file_that_another_one_takes_the_place_of_is_read_on_through_its_mapping(path, gone):
    """A download that ends while its older file streams must not be read by the places of that."""
    network = mapped(path)
    expected, store = network(X), Store(network, "cpu", link=Plain("cpu"))
    store.set_budget(store.rest_bytes + 2 * store.unit_bytes[0])
    path.unlink()
    if not gone:
        path.write_bytes(bytes(10 * BLOCK * BLOCKS))
    with store.use() as network:
        assert torch.equal(network(X), expected)


def test_a_file_that_was_cut_is_an_error_and_no_crash(path):
    store = Store(mapped(path), "cpu", link=Plain("cpu"))
    with open(path, "rb+") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(OSError, match="became shorter while it was in use"), store.use() as network:
        network(X)
    assert store.card_bytes == 0


@linux
def test_a_file_that_is_larger_than_ram_and_swap_is_mapped(tmp_path):
    swap = next(int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines() if "SwapTotal" in line)
    rows = 2 * (pinned.ram()[0] + swap * 1024) // 2**13
    header = {"blocks.0.weight": {"dtype": "BF16", "shape": [rows, 2**12], "data_offsets": [0, rows * 2**13]}}
    text = json.dumps(header).encode()
    with open(tmp_path / "large.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.seek(8 + len(text) + rows * 2**13 - 2)
        file.write(b"\x80\x3f")  # 1; one that ends in zeros is taken for a download
    weight = TensorFile(tmp_path / "large.safetensors").get("blocks.0.weight")
    assert weight.shape == (rows, 2**12) and weight[-1].sum() == 1
    assert [file.path for file in mapped_files()].count(str(tmp_path / "large.safetensors")) == 1
    del weight
    assert str(tmp_path / "large.safetensors") not in [file.path for file in mapped_files()]


# ------------------------------------------------------------------------------------------------------ to the card


@pytest.fixture
def cuda(monkeypatch):
    return on_stand_ins(monkeypatch)


@pytest.mark.parametrize("slots", [1, 2, 4])
@pytest.mark.parametrize("budget", [None, 4 * BLOCK, 0])
@pytest.mark.parametrize("limit, most", [(10**9, 10**9), (3 * BLOCK, 10**9), (0, 10**9), (10**9, 2 * BLOCK)])
@pytest.mark.sample(6)
def test_every_way_to_the_card_gives_the_same_result(cuda, path, monkeypatch, slots, budget, limit, most):
    network, pins, dice, read = mapped(path), Pins(most), random.Random(0), Unit.read
    expected = network(X)

    def slowly(self, into, start=0):
        assert threading.current_thread() is not threading.main_thread()
        time.sleep(dice.random() * 1e-3)
        read(self, into, start)

    monkeypatch.setattr(Unit, "read", slowly)
    store = Store(network, "cpu", slots=slots, link=through(pins.memory(limit)))
    store.set_budget(budget)
    for _ in range(2):
        with store.use():
            for _ in range(3):
                assert torch.equal(network(X), expected)
    streamed = sum(unit.nbytes for unit in store.partition.units if unit.place is None)
    assert sum(pins.pinned.values()) == min(streamed, limit, most)
    store.release()
    assert store.card_bytes == 0 and torch.equal(network(X), expected)
    del store, network
    assert pins.pinned == {}


def test_copying_and_computing_wait_for_each_other(cuda, path):
    one, other = Unit([torch.ones(8)]), Unit([torch.ones(9)])
    streams = through(Pins().memory())
    streams.prepare([one, other])
    memory = streams.slot(2 * ALIGNMENT)
    for unit, start in ((one, 0), (other, ALIGNMENT), (one, 0)):
        slot = memory.piece(start, ALIGNMENT)
        streams.send(unit, slot)
        streams.arrive(unit, slot)
        streams.leave(unit, slot)
        assert cuda == [
            ("compute", "reached", slot.free),  # all that may read what is overwritten
            ("copies", "waits for", slot.free),
            ("copies", "reached", slot.ready),
            ("compute", "waits for", slot.ready),
        ]
        cuda.clear()


def test_what_is_pinned_is_read_once(cuda, path, monkeypatch):
    store, reads, read = Store(mapped(path), "cpu", link=through(Pins().memory(2 * BLOCK))), [], Unit.read

    def counting(self, into, start=0):
        reads.append(self)
        read(self, into, start)

    store.set_budget(0)
    with store.use() as network:
        network(X)
        monkeypatch.setattr(Unit, "read", counting)
        network(X)
        network(X)
    assert len(set(reads)) == BLOCKS - 2


@pytest.mark.parametrize("limit", [10**9, 0])
def test_readers_work_on_the_card_of_their_link(cuda, path, monkeypatch, limit):
    """A thread begins on the first card, where nothing is to be pinned for another one: it may be full."""
    current, seen, pins = threading.local(), [], Pins()

    @contextmanager
    def on_stream(stream):
        before, current.stream = vars(current).get("stream"), stream
        yield
        current.stream = before

    def look(*_):
        seen.append(vars(current).get("stream"))
        return True

    monkeypatch.setattr(torch.cuda, "stream", on_stream)
    monkeypatch.setattr(
        link._Buffer, "__init__", lambda self, n, first=link._Buffer.__init__: look() and first(self, n)
    )
    link_of_card = through(PinnedMemory(limit, lambda span: look() and pins.pin(span), pins.unpin))
    store = Store(mapped(path), "cpu", link=link_of_card)
    store.set_budget(0)
    with store.use() as network:
        network(X)
    assert seen and set(seen) == {link_of_card._copies}


def test_who_rests_makes_room_for_who_runs(cuda, path):
    pins = Pins()
    memory = pins.memory(4 * BLOCK)
    first, second, third = (Store(mapped(path), "cpu", link=through(memory)) for _ in range(3))

    def spans(store):
        return sum(unit.span is not None for unit in store.partition.units)

    for store in (first, second, third):
        store.set_budget(0)
    with first.use() as network:
        network(X)
    assert spans(first) == 4
    with first.use(), second.use() as network:
        network(X)
        assert (spans(first), spans(second)) == (4, 0)
    with second.use() as network:
        network(X)
    assert (spans(first), spans(second)) == (0, 4)
    with third.use() as network:
        network(X)
    assert (spans(second), spans(third)) == (0, 4) and len(pins.pinned) == 4


def test_a_tenth_of_the_ram_stays_free(cuda, path, monkeypatch):
    monkeypatch.setattr(pinned, "ram", lambda: (2**36, 2**36 // 10 + 2 * BLOCK))
    store, pins = Store(mapped(path), "cpu"), Pins()
    memory = pins.memory()
    memory.admit(store.partition.units)
    assert memory.taken == 2 * BLOCK


@linux
def test_an_error_of_a_reader_is_told_where_the_unit_is_needed(cuda, path):
    store = Store(mapped(path), "cpu", link=through(Pins().memory(0)))
    store.set_budget(0)
    with open(path, "rb+") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(OSError, match="became shorter"), store.use() as network:
        network(X)
    assert store.card_bytes == 0 and all("forward" not in vars(block) for block in store.partition.modules)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.sample(2)
def test_wrong_guesses_and_a_slow_disk_change_nothing(cuda, path, monkeypatch, seed):
    """Units are overwritten while they are still being read, and the run ends while the next ones are."""
    network, dice, read, reading = mapped(path), random.Random(seed), Unit.read, []
    x, expected = X, X
    order = dice.choices(range(BLOCKS), k=20)
    for index in order:
        expected = network.blocks[index](expected)

    def slowly(self, into, start=0):
        reading.append(self)
        time.sleep(dice.random() * 2e-3)
        read(self, into, start)
        reading.pop()

    monkeypatch.setattr(Unit, "read", slowly)
    store = Store(network, "cpu", slots=3, link=through(Pins().memory(2 * BLOCK)))
    store.set_budget(0)
    with store.use():
        for index in order:
            x = network.blocks[index](x)
    assert reading == []
    assert torch.equal(x, expected)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA card")
@pytest.mark.parametrize("slots", [1, 2, 4])
@pytest.mark.parametrize("budget", [None, 4 * BLOCK, 0])
@pytest.mark.parametrize("limit", [10**9, 3 * BLOCK, 0])
@torch.inference_mode()
def test_every_way_to_a_real_card_gives_the_same_result(path, slots, budget, limit):
    expected = mapped(path).cuda()(X.cuda())
    store = Store(mapped(path), "cuda", slots=slots, link=Streamed("cuda", PinnedMemory(limit)))
    store.set_budget(budget)
    for _ in range(2):
        with store.use() as network:
            for _ in range(20):
                assert torch.equal(network(X.cuda()), expected)
    store.release()
    assert all(not parameter.is_cuda for parameter in network.parameters())


def test_a_buffer_is_not_written_before_it_has_been_read():
    unit, pending, whole = Unit([torch.randn(1024)]), [], []

    def deliver(piece, start):
        def unchanged():
            assert torch.equal(piece, copy)
            pending.remove(unchanged)

        copy = piece.clone()
        assert start == sum(map(len, whole))
        whole.append(copy)
        pending.append(unchanged)
        return unchanged

    readers = Readers(700)
    readers.submit(readers.read, unit, deliver).result()
    assert len(pending) == 2
    for unchanged in pending.copy():
        unchanged()
    assert torch.equal(torch.cat(whole), unit.homes[0].view(torch.uint8))


def test_ram_is_known():
    total, available = pinned.ram()
    assert 0 < available < total


# ------------------------------------------------------------------------------------------------------------ at size

RUN = """
import sys, torch
from pathlib import Path
from torch import nn
from ltx2_core.checkpoint.files import TensorFile
from ltx2_core.memory import Plain, Store

def read(name, *keys):
    lines = dict(line.split(":") for line in Path(f"/proc/self/{name}").read_text().splitlines())
    return [int(lines[key].split()[0]) for key in keys]

torch.set_num_threads(1)
file = TensorFile(sys.argv[1])
with torch.device("meta"):
    network = nn.Sequential(nn.ModuleList(nn.Linear(4096, 4096, bias=False) for _ in file.keys()))
network.load_state_dict({f"0.{key}": file.get(key) for key in file.keys()}, assign=True)
store = Store(network, "cpu", link=Plain("cpu"))
store.set_budget(0)
before = read("io", "write_bytes", "wchar")
with torch.inference_mode(), store.use():
    x = torch.ones(1, 4096, dtype=torch.bfloat16)
    for block in network[0]:
        x = block(x)
assert read("io", "write_bytes", "wchar") == before
print(read("status", "VmHWM")[0] * 1024)
"""


@linux
@pytest.mark.slow
def test_a_file_larger_than_the_memory_it_takes(tmp_path):
    """1.6 GB of weights are run in less than 1.3 GB, those of Python and torch included, and nothing is written."""
    path, count, size = tmp_path / "large.safetensors", 48, 4096 * 4096 * 2
    header = {
        f"{i}.weight": {"dtype": "BF16", "shape": [4096, 4096], "data_offsets": [i * size, (i + 1) * size]}
        for i in range(count)
    }
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.seek(8 + len(text) + count * size - 2)  # behind a hole, which reads as zeros
        file.write(b"\x80\x3f")
    root = Path(__file__).parents[3]
    result = subprocess.run([sys.executable, "-c", RUN, path], cwd=root, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 1.3e9 < path.stat().st_size


@pytest.mark.slow
def test_a_card_streams_only_after_it_has_passed_a_trial(monkeypatch, caplog):
    """On stand-ins, where copies are at once: right ones pass, a piece that is missing does not, nor does a failure."""
    on_stand_ins(monkeypatch)
    pins = Pins()
    monkeypatch.setattr(pinned, "_register", pins.pin)
    monkeypatch.setattr(pinned, "_unregister", pins.unpin)
    trial, device = link._passes_trial.__wrapped__, torch.device("cpu")
    assert trial(device)
    whole = link.Streamed._copy
    monkeypatch.setattr(link.Streamed, "_copy", lambda self, piece, slot, start=0: whole(self, piece[:-4], slot, start))
    assert not trial(device) and "wrong numbers" in caplog.text
    monkeypatch.setattr(link.Streamed, "_copy", lambda *_: 1 / 0)
    assert not trial(device) and "failed its trial" in caplog.text


def test_a_trial_for_which_there_was_no_memory_is_made_again(monkeypatch, caplog):
    errors = [*full_cards(), torch.OutOfMemoryError()]  # the last one says nothing
    pending = errors.copy()

    def fail(*_):
        raise pending.pop()

    monkeypatch.setattr(link, "Streamed", fail)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch, "randn", lambda *_, **__: torch.ones(2, 2))
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *_: self)
    kinds = [type(link.link_to(torch.device("cuda"))) for _ in errors]
    assert kinds == [link.Plain] * len(errors) and not pending
    assert caplog.text.count("no memory left to try") == len(errors)


def test_what_carries_weights_to_which_device(monkeypatch):
    passed = []
    monkeypatch.setattr(link, "_passes_trial", lambda device: passed.append(device) or len(passed) < 2)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    monkeypatch.setattr(link, "shares_ram", lambda device: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    kinds = [type(link.link_to(torch.device(name))) for name in ("cpu", "mps", "cuda", "cuda")]
    assert kinds == [link.InPlace, link.Plain, link.Streamed, link.Plain]
    monkeypatch.setattr(torch.version, "cuda", None)  # ROCm calls its devices cuda, too
    assert type(link.link_to(torch.device("cuda"))) is link.Plain and len(passed) == 2
