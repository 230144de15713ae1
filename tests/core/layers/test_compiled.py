"""Light work of blocks by torch.compile: the same up to rounding, on request only, and one line where it cannot be."""

import logging
import shutil
from dataclasses import replace
from functools import partial

import pytest
import torch
from agreement import relative_error
from official import inputs, tiny_section
from planned import SAMPLING

from benchmarks.weights import component
from ltx2_core.layers import kernels
from ltx2_core.layers.kernels import NORM_MODULATE, NORM_ROTATE, compiled, compiling
from ltx2_core.memory import Plain, Store
from ltx2_core.pipeline.encode_text import ReadPrompts
from ltx2_core.pipeline.engines.local import LocalEngine
from ltx2_core.pipeline.engines.prepare import RunLoad
from ltx2_core.pipeline.sample import Sample
from ltx2_core.pipeline.stage import LatentSize
from ltx2_core.settings import Resources

CPU = torch.device("cpu")
SAMPLES = Sample(SAMPLING, LatentSize((1, 2, 2), 4))
COMPILER = any(map(shutil.which, ("g++", "clang++", "c++", "cl")))


@pytest.fixture(autouse=True)
def _nothing_was_tried_before(monkeypatch):
    for operation in (NORM_MODULATE, NORM_ROTATE):
        monkeypatch.setattr(operation, "_chosen", {})
    monkeypatch.setattr(compiled._Asked, "failed", False)
    monkeypatch.setattr(compiled._Asked, "told", set())


@pytest.mark.parametrize("operation", [NORM_MODULATE, NORM_ROTATE], ids=lambda each: each.name)
@pytest.mark.parametrize("dtype, rounding", [(torch.float32, 1e-6), (torch.bfloat16, 6e-3)])
def test_what_is_compiled_computes_what_the_plain_way_does(operation, dtype, rounding):
    found, expected = (run(*operation.sample(CPU, dtype)) for run in (operation.form, operation.plain))
    assert found.shape == expected.shape and found.dtype == expected.dtype
    assert relative_error(found, expected) < rounding


def tiny_transformer():
    """In bfloat16, with inputs for one clip."""
    section = tiny_section("2.3")
    network, _ = component("transformer", {"transformer": section}, dtype=torch.bfloat16)
    narrow = {"tokens", "context"}
    streams = [replace(each, **{name: getattr(each, name).bfloat16() for name in narrow}) for each in inputs(section)]
    return network, streams


@pytest.mark.slow
@pytest.mark.skipif(not COMPILER, reason="no C++ compiler")
@torch.inference_mode()
def test_a_kernel_by_the_compiler_of_this_machine_agrees(caplog):
    caplog.set_level(logging.INFO, "ltx2_core")
    config = {"compile_threads": 1, "cpp.vec_isa_ok": False}  # no pool of processes, no half a minute of trying vectors
    with compiling(True), torch._inductor.config.patch(config):
        x, scale, shift, eps = NORM_MODULATE.sample(CPU, torch.bfloat16)
        kernel = NORM_MODULATE.find(x)
        for tokens in (37, 20):
            some = torch.randn(1, 1, tokens, x.shape[-1], dtype=x.dtype)
            found, expected = (run(some, scale, shift, eps) for run in (kernel, NORM_MODULATE.plain))
            assert relative_error(found, expected) < 1e-2
    assert len([each for each in caplog.messages if "compiled in" in each]) == 1
    assert "done by torch.compile on cpu" in caplog.text


@pytest.mark.slow
@torch.inference_mode()
def test_a_transformer_agrees_also_streamed_and_is_traced_once_for_all_sizes(caplog, monkeypatch):
    """With the graphs that would be compiled, run as they are."""
    caplog.set_level(logging.INFO, "ltx2_core")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    network, streams = tiny_transformer()
    plain = network(*streams)
    with compiling(True):
        found = network(*streams)
        traced = [each for each in caplog.messages if "compiled in" in each]
        store = Store(network, "cpu", link=Plain("cpu"))
        store.set_budget(0)
        with store.use():
            streamed = network(*streams)
    for ours, expected, again in zip(found, plain, streamed):
        assert 0 < relative_error(ours, expected) < 3e-2 and torch.equal(ours, again)
    # Both streams, and attention between them, have sizes of their own.
    assert [each.split(":")[0] for each in traced] == ["Norm and modulation", "Norm and rotation"]
    assert [each for each in caplog.messages if "compiled in" in each] == traced
    assert all(map(torch.equal, network(*streams), plain))  # outside of the context nothing has changed


def test_without_a_compiler_all_is_plain_and_one_line_says_so(caplog, monkeypatch):
    def no_compiler(*_):
        raise RuntimeError("No working C++ compiler found\nin a long list")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: no_compiler)
    network, streams = tiny_transformer()
    with torch.inference_mode():
        plain = network(*streams)
        with compiling(True):
            found = network(*streams)
    assert all(map(torch.equal, found, plain))
    (line,) = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert "torch.compile" in line.getMessage() and line.getMessage().endswith("No working C++ compiler found")


def test_a_cpu_in_float32_compiles_nothing_and_says_so_once(caplog, monkeypatch):
    monkeypatch.setattr(torch, "compile", None)
    with compiling(True):
        for operation in (NORM_MODULATE, NORM_ROTATE):
            assert operation.find(torch.zeros(1)) is None
    assert len(caplog.messages) == 1 and "float32 on cpu" in caplog.text


def test_only_the_transformer_is_compiled_and_only_if_asked_for(tiny_blueprint, monkeypatch):
    _, models = tiny_blueprint
    for asked in (True, False):
        engine = LocalEngine(models, Resources(device="cpu", torch_compile=asked))
        with engine.use(SAMPLES):
            assert compiled.is_compiled(CPU, torch.bfloat16) == asked
        with engine.use(ReadPrompts(1)):
            assert not compiled.is_compiled(CPU, torch.bfloat16)
    assert not kernels.compiling_pays(torch.device("mps"), torch.bfloat16)


def test_the_plan_says_that_there_is_a_warm_up(tiny_blueprint):
    blueprint, _ = tiny_blueprint

    def remarks(device, asked=True):
        load = RunLoad((), torch.device(device), blueprint, Resources(torch_compile=asked))
        return " ".join(load.remarks(SAMPLES, None, None))

    assert "before the first step" in remarks("cuda") and not remarks("cuda", False)
    assert "nothing to gain" in remarks("cpu")  # in float32
