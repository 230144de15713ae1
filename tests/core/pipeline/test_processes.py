"""Processes that compute a pass together, without starting any: one that joins itself (several: ``test_sequence``)."""

import socket
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from ltx2_core.checkpoint import open_models
from ltx2_core.cli import main
from ltx2_core.cli.together import run_together
from ltx2_core.memory.ram import ram
from ltx2_core.pipeline.engines import local as local_engine
from ltx2_core.pipeline.engines import processes
from ltx2_core.pipeline.engines.processes import Launch, Processes, joined_processes
from ltx2_core.pipeline.stage import TRANSFORMER
from ltx2_core.settings import Resources


@pytest.fixture
def alone(monkeypatch):
    """As torchrun says it to a process that is the only one."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MASTER_PORT", str(unused.getsockname()[1]))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    return Launch()


def test_one_process_exchanges_with_itself_and_leaves(alone, capsys):
    def run(tell) -> int:
        processes, x = joined_processes(), torch.arange(6.0).view(1, 3, 2)
        assert isinstance(processes, Processes) and processes.ram[0] == ram()[0]
        assert torch.equal(processes.exchange(x), x) and torch.equal(processes.gather(x[0]), x)
        assert processes.device("cpu") == torch.device("cpu") and processes.is_first_to_fail()
        assert processes.exchanges == 2
        tell("error: nothing is wrong.")
        return 0

    assert run_together(alone, run, str) == 0
    assert capsys.readouterr().err == "error: nothing is wrong.\n"
    assert joined_processes() is None and not dist.is_initialized()


def test_weights_know_what_was_exchanged(monkeypatch, tiny_files):
    """So that a block that has sent something is not run again when memory runs out."""
    processes = SimpleNamespace(size=2, rank=0, exchanges=7, device=torch.device, vram=None, ram=ram())
    monkeypatch.setattr(local_engine, "joined_processes", lambda: processes)
    engine = local_engine.LocalEngine(open_models(*tiny_files("2.3")[:2]), Resources("cpu"))
    store = engine._prepare(TRANSFORMER, ()).store
    assert store.exchanges() == 7
    processes.exchanges += 1
    assert store.exchanges() == 8


def test_whoever_cannot_join_says_why(alone, monkeypatch, capsys):
    def refuse(*_, **__):
        raise RuntimeError("no route to host\nmore")

    monkeypatch.setattr(dist, "init_process_group", refuse)
    assert run_together(alone, lambda tell: pytest.fail("it runs alone"), lambda error: str(error)) == 2
    said = capsys.readouterr().err
    assert "(no route to host)" in said and said.count("\n") == 1 and joined_processes() is None


def test_what_torchrun_says_is_read(monkeypatch):
    assert Launch.of_environment() == Launch()
    for name, value in {"WORLD_SIZE": "4", "RANK": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert Launch.of_environment() == Launch(2, 4, 0, 2) and not Launch.of_environment().leads


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"WORLD_SIZE": "many"}, "WORLD_SIZE is 'many' in the environment, where torchrun writes a number"),
        ({"WORLD_SIZE": "9" * 5000}, "WORLD_SIZE is '999"),
        ({"RANK": ""}, "RANK is '' in the environment"),
        ({"RANK": "2"}, "RANK is '2' in the environment, where torchrun writes a number from 0 to 1:"),
        ({"LOCAL_RANK": "-1"}, "LOCAL_RANK is '-1'"),
        ({"LOCAL_WORLD_SIZE": "3"}, "LOCAL_WORLD_SIZE is '3'"),
        ({}, "cannot meet (Error initializing torch.distributed using env:// rendezvous: environment variable MASTER"),
        ({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "x"}, "cannot meet (invalid literal"),
    ],
)
def test_what_torchrun_never_says_is_told(monkeypatch, capsys, said, sentence):
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"RANK": "0", "WORLD_SIZE": "2"} | said).items():
        monkeypatch.setenv(name, value)
    assert main(["generate", "--prompt", "a red ball", "--output", "x.mp4"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and sentence in line


@pytest.mark.parametrize("rank", ["0", "1"])
def test_whoever_waits_in_vain_says_so(alone, monkeypatch, capsys, rank):
    monkeypatch.setattr(processes, "PATIENCE", timedelta(seconds=1))
    for name, value in {"RANK": rank, "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert run_together(Launch.of_environment(), lambda tell: pytest.fail("it runs alone"), str) == 2
    said = capsys.readouterr().err
    assert ("Another process of this run is gone" in said) == (rank == "0") and said.count("\n") <= 1
