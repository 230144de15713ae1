"""Fast kernels beside the plain way: which one is taken, and that a block gives the same with any of them."""

import logging
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from agreement import relative_error
from official import inputs, tiny_section
from torch import Tensor

import ltx2_core as ltx2
from benchmarks.traffic import count_difference, hidden_bytes, of_ours, of_quantised
from benchmarks.weights import component, released
from ltx2_core.errors import SettingError
from ltx2_core.layers import rms_norm
from ltx2_core.layers.kernels import (
    GATE_ROUND,
    GELU_ROUND,
    NORM_MODULATE,
    NORM_ROTATE,
    NORM_ROUND,
    Kernel,
    Operation,
    attend,
    attending_with,
    attention,
    blocked,
    count_with,
    is_sparse,
    note_step,
)
from ltx2_core.layers.kernels.light import KITCHEN, TRITON
from ltx2_core.layers.kernels.linear import CUBLAS
from ltx2_core.pipeline.engines.local import LocalEngine
from ltx2_core.pipeline.sample import Sample, Sampling
from ltx2_core.pipeline.stage import LatentSize
from ltx2_core.sampling import Guidance
from ltx2_core.settings import Resources
from ltx2_core.settings.request import check_limits

IN_TRITON = "kernels_in_triton.py"
QKV = [torch.randn(2, 3, tokens, 8, generator=torch.Generator().manual_seed(tokens)) for tokens in (7, 5, 5)]
PLAIN = attention.attend_plainly(*QKV)


def operation(*functions) -> Operation:
    """Doubling, with kernels that are called "0", "1" and so on; a kernel may also be an error of its library."""

    def load(function):
        if isinstance(function, Exception):
            raise function
        return function

    kernels = [Kernel(str(n), lambda each=each: load(each), ("cpu",)) for n, each in enumerate(functions)]
    return Operation("Doubling", lambda x: x + x, kernels, lambda device, dtype: (torch.ones(3, dtype=dtype),))


def fails(error: Exception, but_not: int = 0):
    def kernel(x: Tensor) -> Tensor:
        if len(x) == but_not:
            return x + x
        raise error

    return kernel


def test_the_first_kernel_that_is_right_is_taken(caplog):
    caplog.set_level(logging.INFO)
    taken = []
    doubling = operation(
        ImportError("no such library"), fails(RuntimeError("no such card")), lambda x: x * 2.1, lambda x: x * torch.nan,
        lambda x: taken.append(x) or 2 * x,
    )  # fmt: skip
    x = torch.randn(5)
    found = doubling.find(x)
    assert torch.equal(found(x), 2 * x) and taken[-1] is x
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 5 and "no such library" in told[0] and "no such card" in told[1] and "done by 4" in told[4]
    assert doubling.find(x) is not None and len(caplog.records) == 5  # tried once


def test_where_no_kernel_is_right_or_for_the_device_the_plain_way_is_taken():
    assert operation().find(torch.ones(1)) is None
    assert operation(lambda x: x * 2.1).find(torch.ones(1)) is None
    doubling = operation(lambda x: x * 2)
    assert doubling.find(torch.ones(1)) and doubling.find(torch.ones(1, device="meta")) is None
    doubling.kernels = (replace(doubling.kernels[0], is_fast=lambda: False),)
    assert doubling.find(torch.ones(1, dtype=torch.float64)) is None


@pytest.mark.parametrize("error, told", [(RuntimeError("no such size"), "no such size"), (TypeError(), "TypeError")])
def test_a_kernel_that_fails_later_is_left_for_the_plain_way(caplog, error, told):
    doubling = operation(fails(error, but_not=3))
    x = torch.randn(7)
    assert torch.equal(doubling.find(x)(x), 2 * x)
    assert told in caplog.text and doubling.find(x) is None


def test_lack_of_memory_says_nothing_of_a_kernel():
    doubling = operation(fails(torch.OutOfMemoryError("out of memory"), but_not=3))
    with pytest.raises(torch.OutOfMemoryError):
        doubling.find(torch.ones(7))(torch.ones(7))
    assert doubling.find(torch.ones(7)) is not None
    with pytest.raises(torch.OutOfMemoryError):
        operation(fails(torch.OutOfMemoryError("out of memory"))).find(torch.ones(7))


@pytest.mark.oracle
@pytest.mark.slow
@pytest.mark.parametrize("operation", [NORM_MODULATE, NORM_ROTATE], ids=lambda each: each.name)
def test_operations_of_comfy_kitchen(operation):
    """Its own plain way, which is what it has on a CPU; that alone would not be taken."""
    pytest.importorskip("comfy_kitchen")
    (kernel,), device = [each for each in operation.kernels if each.name == KITCHEN], torch.device("cpu")
    for dtype, most in (torch.float32, 1e-6), (torch.bfloat16, 1e-2):
        found = kernel.load()(*operation.sample(device, dtype))
        assert relative_error(found.float(), operation.plain(*operation.sample(device, dtype)).float()) < most
    if not torch.cuda.is_available():
        assert not kernel.is_fast()


# --------------------------------------------------------------------------------------------------------- on a CPU


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keys_of_a_head_that_lie_behind_each_other_change_no_bit(monkeypatch, dtype):
    q, k, v = (each.to(dtype) for each in QKV)
    plain = attention.attend_plainly(q, k, v)
    monkeypatch.setattr(attention, "LEAST_KEYS", 1)
    assert torch.equal(attend(q, k, v), plain)


def norm_error(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


def draw_scores(kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v (2, 3, N, 64) whose scores are of one kind, lying in memory as a block has them."""
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, tokens, 3, 64, generator=draw).transpose(1, 2) for tokens in (150, 170, 170))
    if kind == "equal":
        k = k[:, :, :1].expand_as(k)
    elif kind == "shifted":  # by as much for all keys, which softmax does not see
        k = k + 30
    elif kind == "one key":  # whose scores are far above or below all others
        k[:, :, 101] = 0.5 * q[:, :, 17]
    elif kind != "plain":
        q, k = q * float(kind), k * float(kind)
    return q.bfloat16(), k.bfloat16(), v.bfloat16()


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="oneDNN has no bfloat16 here")
@pytest.mark.parametrize("kind", ["plain", "equal", "shifted", "one key", "0.01", "1.5", "2", "6", "40"])
def test_attention_in_blocks_is_as_exact_as_bfloat16(monkeypatch, kind):
    """Beside float64: 3e-3, and what a query in bfloat16 changes if it is scaled before it is rounded."""
    monkeypatch.setattr(blocked, "LEAST_TOKENS", 1)
    monkeypatch.setattr(blocked, "PAIRS", 1)
    monkeypatch.setattr(blocked, "WEIGHTS", 64 * 170)
    q, k, v = draw_scores(kind)
    asked = []

    def other(*qkv):
        asked.append(qkv)
        return attention.attend_plainly(*qkv)

    attend_in_blocks = blocked.load(other)
    for scale in (None, 0.11):
        expected = attention.attend_plainly(q.double(), k.double(), v.double(), scale)
        rounded = (q * (scale or 0.125)).double() / (scale or 0.125)
        lost = norm_error(attention.attend_plainly(rounded, k.double(), v.double(), scale), expected)
        found = attend_in_blocks(q, k, v, scale)
        assert norm_error(found.double(), expected) < 3e-3 + lost
        assert torch.equal(found[1:], attend_in_blocks(q[1:], k[1:], v[1:], scale)), "alone and in a batch"
    assert bool(asked) == (kind in ("2", "6", "40")), "scores out of reach are left to the other"
    k[:, 1, 3, 5] = torch.nan
    assert attend_in_blocks(q, k, v)[:, 1].isnan().all() and not attend_in_blocks(q, k, v)[:, ::2].isnan().any()


def test_attention_in_blocks_is_asked_for_many_tokens_in_bfloat16():
    def never(*qkv):
        raise AssertionError

    many = torch.zeros(1, 1, blocked.LEAST_TOKENS, 8, dtype=torch.bfloat16)
    with torch.inference_mode():
        for q, k in ((many.float(), many.float()), (many[:, :, 1:], many), (many, many[:, :, 1:])):
            with pytest.raises(AssertionError):
                blocked.load(never)(q, k, k)


def test_a_norm_in_one_go_changes_no_bit():
    """That of bfloat16 on a CPU, beside the product with a factor in float32."""
    for x in (torch.randn(2, 9, 33), torch.randn(1, 8, 16)[:, ::2] * 1e-3, torch.zeros(1, 1, 5), torch.zeros(1, 0, 5)):
        x = x.bfloat16()
        mean_square = torch.linalg.vector_norm(x.float(), dim=-1, keepdim=True).square() / x.shape[-1]
        assert torch.equal(rms_norm(x, 1e-6), (x * (mean_square + 1e-6).rsqrt()).bfloat16())


def test_a_norm_by_kept_numbers_changes_no_bit():
    """That of float32 on a CPU, whose divisor and eps are tensors, beside plain numbers."""
    with torch.inference_mode():  # in which they are made
        rms_norm(torch.randn(1, 2, 96), 3e-6)
    for width, eps in ((7, 1e-6), (96, 3e-6), (96, 1e-5), (3840, 1e-6)):
        x, weight = torch.randn(2, 9, width), torch.randn(width)
        square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square() / width
        assert torch.equal(rms_norm(x, eps, weight), x * (square + eps).rsqrt() * weight)


@pytest.mark.oracle
@pytest.mark.slow
def test_kernels_in_triton():
    """Its interpreter runs them on a CPU; it must be asked for before Triton is imported, so in another process."""
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path(__file__).with_name(IN_TRITON))]
    child = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert child.returncode == 0, child.stdout + child.stderr


@pytest.mark.oracle
@pytest.mark.parametrize("operation", [NORM_ROUND, GELU_ROUND, GATE_ROUND], ids=lambda each: each.name)
def test_a_library_rounds_by_scales_of_files(operation):
    """Its plain way multiplies by the reciprocal; each token by itself is left to the layers."""
    pytest.importorskip("comfy_kitchen")
    _, row = operation.kernels
    *given, rounding = operation.sample(torch.device("cpu"), torch.float32)
    expected = operation.plain(*(each.clone() if isinstance(each, torch.Tensor) else each for each in given), rounding)
    found = row.load()(*given, rounding)
    assert norm_error(found, expected) < 1e-6
    ((numbers, scale),) = found.rounded.values()
    assert scale == 0.05 and 0 < norm_error(numbers.float() * scale, expected.flatten(0, -2)) < 0.03


SIZES = {"half": 64, "pairs": 2048, "block": 2048, "head": 128, "width": 4096, "channels": 512, "at_once": 8}
NONE, HALF, FLOAT8, SCALES = "constexpr", "*bf16", "*fp8e4nv", "*fp32"
KINDS = {"eps": "fp32", "places": (NONE, FLOAT8, SCALES)}
KINDS |= dict.fromkeys(("size", "x_steps", "out_steps"), ("i32",) * 3)
OF_NORMS = {  # what a norm reads beside tokens, and writes
    "alone, rounded": {"change": NONE, "rows": (NONE, NONE, NONE), "places": (NONE, FLOAT8, SCALES)},
    "modulated, rounded": {"change": NONE, "rows": (NONE, HALF, HALF), "places": (HALF, FLOAT8, SCALES)},
    "of a sum": {"rows": (HALF, NONE, NONE), "places": (HALF,)},
    "of a sum, all": {"rows": (HALF, HALF, HALF), "places": (HALF, FLOAT8, SCALES, FLOAT8, SCALES)},
}


@pytest.mark.oracle
@pytest.mark.slow
@pytest.mark.parametrize("fixed", [0, 1])
@pytest.mark.parametrize(
    "name, kinds",
    [*((name, {}) for name in ("norm_rotate", "norm_silu", "gelu_round", "gate_round")),
     *(("norm_round", kinds) for kinds in OF_NORMS.values())],
)  # fmt: skip
def test_kernels_in_triton_compile_for_a_card(monkeypatch, tmp_path, name, kinds, fixed):
    """For Ada, which is the first to have float8; the interpreter takes what the compiler refuses."""
    pytest.importorskip("triton")
    from triton import compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from ltx2_core.layers.kernels import fused

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = getattr(fused, f"_{name}_token")
    sizes = SIZES | {"ways": len(kinds.get("places", KINDS["places"])) // 2, "fixed": fixed}
    signature = {each: NONE if each in sizes else (KINDS | kinds).get(each, HALF) for each in kernel.arg_names}
    constants = {}
    for place, (each, kind) in enumerate(signature.items()):
        if kind == NONE:
            constants[place,] = sizes.get(each)
        elif isinstance(kind, tuple):
            constants |= {(place, n): None for n, one in enumerate(kind) if one == NONE}
    assert compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", 89, 32)).asm["cubin"]


@pytest.mark.slow
@pytest.mark.parametrize("version, plain, most, least", [("2.0", 71, (48, 90), 30.5), ("2.3", 79, (48.1, 120), 36.1)])
def test_bytes_and_operations_of_a_block(version, plain, most, least):
    """In hidden states of the video; ComfyUI 0.33 moves 48.5 in 97 operations, and 56.1 in 133. In fp8 all matrices but
    gates are, and with the same kernels it moves at most a quarter more than bf16, by scales of files that all
    differ 30 %; without Triton, where comfy-kitchen rounds by scales of files, less than bf16 without kernels."""
    section = released(version)["transformer"]
    pytest.importorskip("comfy_kitchen")
    pytest.importorskip("triton")
    with count_with():
        assert count_difference(of_ours, section).moved < plain * hidden_bytes(section)
    with count_with(CUBLAS, KITCHEN):
        found = count_difference(of_ours, section)
        narrow = count_difference(partial(of_quantised, "fp8", torch.tensor(0.02)), section)
    assert found.moved < most[0] * hidden_bytes(section) and found.launches < most[1]
    assert narrow.moved < plain * hidden_bytes(section)
    with count_with(CUBLAS, KITCHEN, TRITON):
        plain = count_difference(of_ours, section)
        assert plain.moved < least * hidden_bytes(section) and plain.launches < most[1]
        assert plain.peak < 6.7 * hidden_bytes(section)
        for scale, share in (None, 1.25), (torch.tensor(0.02), 1.25), (torch.empty((), device="meta"), 1.3):
            narrow = count_difference(partial(of_quantised, "fp8", scale), section)
            assert narrow.moved < share * plain.moved and narrow.products8 > 100 * narrow.products


def attention_of(function, **how) -> Operation:
    return Operation(
        "Attention", attention.attend_plainly, [Kernel("fake", lambda: function, ("cpu",))], attention._sample, **how
    )


def scaled_by(factor: float):
    return lambda *qkv: attention.attend_plainly(*qkv) * factor


def test_exact_attention_is_taken_by_itself_and_wrong_attention_never(monkeypatch):
    seen = []

    def right(*qkv):
        seen.append(qkv)
        return attention.attend_plainly(*qkv)

    monkeypatch.setattr(attention, "EXACT", attention_of(right))
    assert torch.equal(attend(*QKV), PLAIN) and len(seen) == 2  # the trial and this
    with attending_with("pytorch"):
        assert torch.equal(attend(*QKV), PLAIN) and len(seen) == 2
    assert attend(*(each.to("meta") for each in QKV)).is_meta and len(seen) == 2
    q = QKV[0].clone().requires_grad_()
    attend(q, *QKV[1:]).sum().backward()
    assert q.grad is not None and len(seen) == 2
    for wrong in (scaled_by(1.01), scaled_by(torch.nan), fails(RuntimeError("no such card"))):
        monkeypatch.setattr(attention, "EXACT", attention_of(wrong))
        assert torch.equal(attend(*QKV), PLAIN)


def test_inexact_attention_is_taken_where_it_is_asked_for_and_pays(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setitem(attention.INEXACT, "sage", attention_of(scaled_by(1.01), tolerance=0.1))
    monkeypatch.setitem(attention.INEXACT, "int8", attention_of(scaled_by(1.2), tolerance=0.1))
    monkeypatch.setattr(attention, "LEAST_TOKENS", 5)
    assert torch.equal(attend(*QKV), PLAIN)
    with attending_with("sage"):
        torch.testing.assert_close(attend(*QKV), PLAIN * 1.01)
        assert torch.equal(attend(QKV[0][:, :, :4], *QKV[1:]), PLAIN[:, :, :4])  # too few
        with attending_with("int8"):
            assert torch.equal(attend(*QKV), PLAIN)
        torch.testing.assert_close(attend(*QKV), PLAIN * 1.01)
    assert torch.equal(attend(*QKV), PLAIN)
    assert "within 1.0e-02" in caplog.text and "off by 2.0e-01" in caplog.text


def test_attention_that_is_asked_for_and_missing_is_told(caplog):
    names = [kernel.name for each in attention.INEXACT.values() for kernel in each.kernels]
    for each in attention.INEXACT.values():
        each = Operation(each.name, each.plain, [replace(each.kernels[0], devices=("cpu",))], each.sample, 0.1)
        assert each.find(QKV[0]) is None and "cannot be used here: " in each.obstacle(QKV[0].device, QKV[0].dtype)
    assert [name in line for name, line in zip(names, caplog.messages)] == [True, True, True]
    caplog.clear()
    for each in attention.INEXACT.values():
        assert Operation(each.name, each.plain, each.kernels, each.sample, each.tolerance).find(QKV[0]) is None
    assert [f"{name} is not for cpu" in line for name, line in zip(names, caplog.messages)] == [True, True, True]


def test_libraries_of_attention_are_called_in_their_own_layout(monkeypatch):
    def flash(q, k, v, softmax_scale=None):
        heads = [each.transpose(1, 2) for each in (q, k, v)]
        return attention.attend_plainly(*heads, softmax_scale).transpose(1, 2), None

    def sage(q, k, v, tensor_layout, is_causal, sm_scale):
        assert tensor_layout == "HND" and not is_causal
        return attention.attend_plainly(q, k, v, sm_scale)

    class Library:
        flash_attn_func, sageattn = staticmethod(flash), staticmethod(sage)
        int8_attention = staticmethod(lambda q, k, v, scale: attention.attend_plainly(q, k, v, scale))
        int8_attention_is_available = sol_attn_is_available = staticmethod(lambda: True)
        sol_attn = staticmethod(lambda q, k, v, tau, scale: flash(q, k, v, scale)[0])

    def cudnn(q, k, v, bias, sums, scale=None):
        assert bias is None and not sums
        assert torch._C._get_sdp_priority_order() == before, "it was set for all threads"
        return attention.attend_plainly(q, k, v, scale), None

    before, suits = torch._C._get_sdp_priority_order(), iter([True, False])
    monkeypatch.setattr(torch.ops.aten, "_scaled_dot_product_cudnn_attention", cudnn)
    monkeypatch.setattr(attention, "can_use_cudnn_attention", lambda params: next(suits))
    for name in ("flash_attn_interface", "flash_attn", "flash_attn.cute", "sageattention", "comfy_kitchen"):
        monkeypatch.setitem(sys.modules, name, Library)
    rows = [*attention.EXACT.kernels, *(kernel for each in attention.INEXACT.values() for kernel in each.kernels)]
    for kernel in rows:
        for scale in (None, 0.3):
            torch.testing.assert_close(kernel.load()(*QKV, scale), attention.attend_plainly(*QKV, scale))
    assert not [*suits], "cuDNN was not asked"


@pytest.mark.parametrize("hip, fast", [(None, ["FlashAttention 4", "FlashAttention 3", "cuDNN"]), ("7.2", [])])
def test_attention_of_hopper_is_not_asked_of_a_card_with_the_same_number(monkeypatch, hip, fast):
    """An MI300 of AMD calls itself 9.4: the log said that cuDNN attends, which it has not."""
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 4))
    of_cards = [kernel for kernel in attention.EXACT.kernels if "cuda" in kernel.devices]
    assert [kernel.name for kernel in of_cards if kernel.is_fast()] == fast


def test_sparse_attention_is_that_of_large_clips_in_late_steps(monkeypatch):
    monkeypatch.setitem(attention.INEXACT, "sparse", attention_of(scaled_by(1.01), tolerance=0.1))
    monkeypatch.setattr(attention, "LEAST_SPARSE", QKV[0].shape[-2])
    few = [each[:, :, :-1] for each in QKV]

    def is_exact(*qkv, may_be_sparse=True):
        return torch.equal(attend(*qkv, may_be_sparse=may_be_sparse), attention.attend_plainly(*qkv))

    with attending_with("sparse"):
        assert is_exact(*QKV)  # whoever does not say which step this is
        for sigma, step, expected in (0.5, 1, False), (0.5, 0, True), (0.95, 7, True), (0.9, 7, True), (0.89, 7, False):
            note_step(sigma, step)
            assert is_exact(*QKV) == expected and is_sparse() != expected
        assert is_exact(*few) and is_exact(*QKV, may_be_sparse=False)
        with attending_with("auto"):
            note_step(0.5, 1)
            assert is_exact(*QKV) and not is_sparse()
        assert not is_exact(*QKV)  # as it was before
    note_step(0.5, 1)
    assert is_exact(*QKV)


@pytest.mark.oracle
def test_a_library_leaves_out_blocks_that_matter_little():
    """Nothing of what the trial is made with; else keys of which most look away from all queries."""
    library = pytest.importorskip("comfy_kitchen")
    if not hasattr(library, "sol_attn"):
        pytest.skip("this comfy-kitchen is older than sparse attention")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "sol_attn_is_available", lambda: True)
        kernel = attention._attend_sparsely()
    *qkv, scale, tau = attention._sample_of_all_blocks(torch.device("cpu"), torch.float32)
    plain = attention.attend_plainly(*qkv, scale)
    assert relative_error(kernel(*qkv, scale, tau), plain) < 1e-5 < 0.1 < relative_error(kernel(*qkv, scale), plain)
    towards = torch.randn(1, 2, 1, 128, generator=torch.Generator().manual_seed(1))
    near = torch.arange(qkv[1].shape[-2])[:, None] < 128
    k = torch.where(near, towards, -towards) + 0.1 * qkv[1]
    plain = attention.attend_plainly(towards + 0.1 * qkv[0], k, qkv[2])
    assert relative_error(kernel(towards + 0.1 * qkv[0], k, qkv[2]), plain) < 1e-2


def test_the_picture_alone_is_sparse_but_in_the_first_layer(monkeypatch):
    section, seen = tiny_section("2.3"), []
    network, _ = component("transformer", {"transformer": section})
    video, audio = inputs(section)

    def kernel(q, *others):
        seen.append(q.shape)
        return attention.attend_plainly(q, *others)

    monkeypatch.setitem(attention.INEXACT, "sparse", attention_of(kernel, tolerance=0.1))
    monkeypatch.setattr(attention, "LEAST_SPARSE", 1)
    with torch.inference_mode(), attending_with("sparse"):
        attend(*QKV, may_be_sparse=True)
        note_step(0.5, 1)
        attend(*QKV, may_be_sparse=True)  # tried
        seen.clear()
        network(video, audio)
        heads, width = section["num_attention_heads"], section["attention_head_dim"]
        assert seen == [(1, heads, video.tokens.shape[1], width)] * (section["num_layers"] - 1)


@pytest.mark.slow
@pytest.mark.parametrize("asked", ["auto", "sparse"])
def test_steps_of_a_clip_are_sparse_from_some_noise_on(monkeypatch, asked):
    """The steps of the miniature begin at 1 and end at 0; several samplers ask twice in a step."""
    seen, levels = [], []

    def kernel(*qkv):
        seen.append(levels[-1] if levels else None)
        return attention.attend_plainly(*qkv)

    set_moment = LocalEngine.set_moment
    monkeypatch.setattr(LocalEngine, "set_moment", lambda *args: levels.append(args[1:]) or set_moment(*args))
    monkeypatch.setitem(attention.INEXACT, "sparse", attention_of(kernel, tolerance=0.1))
    monkeypatch.setattr(attention, "LEAST_SPARSE", 1)
    settings = {"width": 64, "height": 64, "frames": 9, "steps": 6, "cache": False, "device": "cpu"}
    neutral = {"video": Guidance(), "audio": Guidance()}
    ltx2.generate(ltx2.open_models("miniature"), "a red ball", attention=asked, **settings, **neutral)
    expected = {(sigma, step) for sigma, step in levels if step and sigma < 0.9} if asked == "sparse" else set()
    assert {*seen} - {None} == expected and len(levels) == 6


@pytest.mark.slow
def test_an_engine_attends_as_it_is_asked(monkeypatch):
    models = ltx2.open_models("miniature")
    size = LatentSize((1, 2, 2), 3)
    stage, seen = Sample(Sampling((1.0, 0.0)), size), []
    monkeypatch.setattr(attention, "EXACT", attention_of(lambda *qkv: seen.append("exact") or scaled_by(1)(*qkv)))
    monkeypatch.setitem(attention.INEXACT, "int8", attention_of(lambda *qkv: seen.append("int8") or scaled_by(1)(*qkv)))
    monkeypatch.setattr(attention, "LEAST_TOKENS", 5)
    for asked, expected in ("auto", "exact"), ("int8", "int8"):
        seen.clear()
        engine, told = LocalEngine(models, Resources(device="cpu", attention=asked)), []
        engine.events = replace(engine.events, on_remark=told.append)
        with engine.use(stage):
            attend(*QKV)
        assert seen[-1] == expected and told == []
    attend(*QKV)
    assert seen[-1] == "exact"
    engine = LocalEngine(models, Resources(device="cpu", attention="sage"))
    engine.events = replace(engine.events, on_remark=told.append)
    with engine.use(stage):
        assert told == ["attention is sage, and an exact kernel attends in its place: SageAttention is not for cpu."]
    with pytest.raises(SettingError, match="fast"):
        check_limits(Resources(attention="fast"))
