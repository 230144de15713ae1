"""Memory that ends, and a signal, are told in a sentence, and leave nothing half-written."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from devices import full_cards

from ltx2_core.checkpoint import open_models
from ltx2_core.cli import commands, main
from ltx2_core.errors import LTX2Error, OutOfMemoryError, OutOfRamError, is_out_of_memory, memory_told, ran_out
from ltx2_core.pipeline.encode_text import Connect
from ltx2_core.pipeline.engines.local import LocalEngine

pytestmark = pytest.mark.slow

NO_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GB"),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes."),
    *full_cards(),
]


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda error: type(error).__name__)
def test_only_a_device_that_is_full_can_be_helped_by_giving_way_on_it(error):
    assert ran_out(error)
    assert is_out_of_memory(error) == (NO_MEMORY.index(error) not in (1, 2))


@pytest.mark.parametrize("error", [
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx( handle, opa, opb)`"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (1x2 and 3x4)"),
    OSError("No space left on device"),
], ids=str)  # fmt: skip
def test_other_errors_of_a_card_do_not_say_that_it_is_full(error):
    assert not ran_out(error) and not is_out_of_memory(error)


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda error: type(error).__name__)
def test_memory_that_ends_is_told_in_one_sentence(error, monkeypatch, capsys):
    def fail(*_):
        raise error

    with (
        pytest.raises(LTX2Error, match=r"^Memory ran out: .*while testing; make the clip smaller") as told,
        memory_told(" while testing"),
    ):
        fail()
    # Of what is torch's own kind, ComfyUI says that the GPU's memory ran out.
    assert told.type is (OutOfMemoryError if is_out_of_memory(error) else OutOfRamError)
    assert issubclass(told.type, torch.OutOfMemoryError) == is_out_of_memory(error)
    monkeypatch.setitem(commands.COMMANDS, "inspect", fail)
    assert main(["inspect", "x"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: Memory ran out: ")
    with pytest.raises(RuntimeError, match="other"), memory_told():
        raise RuntimeError("other")


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda error: type(error).__name__)
def test_memory_that_ends_in_a_stage_says_what_was_done(error, tiny_files):
    engine = LocalEngine(open_models(tiny_files("2.3")[0]))
    with pytest.raises(LTX2Error, match="while reading the prompt; make"), engine.use(Connect()):
        raise error


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to send")
def test_sigterm_leaves_no_folder_of_pictures(tmp_path):
    program = """
import sys, time, torch
from ltx2_core import cli
from ltx2_core.cli import commands
from ltx2_core.media import write_frames

def forever():
    while True:
        yield torch.rand(1, 16, 16, 3)
        print("frame", flush=True)
        time.sleep(0.05)

commands.COMMANDS["inspect"] = lambda options: write_frames(options.files[0], forever())
sys.exit(cli.main(["inspect", sys.argv[1]]))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "pictures")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3], env=os.environ,
    )  # fmt: skip
    assert process.stdout.readline() == "frame\n" and len(list(tmp_path.iterdir())) == 1
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143 and said.strip() == "Stopped; nothing half-written is left."
    assert list(tmp_path.iterdir()) == []
