"""What comes out of an operation is derived as PyTorch derives it, without importing its compiler."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from ltx2_core.memory.outlines import derive, signature, tensors_in
from ltx2_core.memory.trace import cost
from ltx2_core.quantization import CASTS

aten = torch.ops.aten


def x(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


ROWS, COLUMN = x(2, 1, 4, 5), x(6, 1, 1)
SWAPPED, TURNED = x(2, 4, 6, 5).transpose(1, 2), x(5, 4, 6, 2).permute(3, 2, 1, 0)
CUT, REPEATED = x(2, 6, 4, 9)[..., :5], x(2, 1, 4, 5).expand(2, 6, 4, 5)
HALF, WHOLE, FLAGS = x(2, 6, 4, 5, dtype=torch.bfloat16), x(4, 5, dtype=torch.int64), x(4, 5, dtype=torch.bool)
THIN = x(1, 14, 3).transpose(1, 2)[:, :, None]
LAYOUTS = [x(2, 6, 4, 5), ROWS, COLUMN, SWAPPED, TURNED, CUT, REPEATED, HALF, x(())]
PAIRS = [(a, b) for a in LAYOUTS for b in [*LAYOUTS, 2, 0.5]]

CASES = [
    *((operation, pair) for operation in (aten.add.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.lt.Tensor)
      for pair in PAIRS if isinstance(pair[1], torch.Tensor)),
    *((operation, (each,)) for operation in (aten.square.default, aten.gelu.default, aten.rsqrt.default)
      for each in (*LAYOUTS, THIN)),
    *((aten.linalg_vector_norm.default, (each, 2, [-1], True)) for each in LAYOUTS[:4]),
    *((aten.mean.dim, (each, [1, -1])) for each in LAYOUTS[:2]),
    *((aten.sum.dim_IntList, (each, [0])) for each in (WHOLE, HALF)),
    (aten.mul.Tensor, (THIN, x(7, 1))), (aten.add.Tensor, (WHOLE, 2)), (aten.add.Tensor, (WHOLE, 1e-6)),
    (aten.__and__.Tensor, (FLAGS, x(3, 1, 5, dtype=torch.bool))), (aten.bitwise_not.default, (FLAGS,)),
    (aten.where.self, (x(4, 1, dtype=torch.bool), x(4, 5), x(5))), (aten.add_.Tensor, (x(4, 5), x(5))),
    (aten.addcmul.default, (x(4, 5), x(5), x(4, 1))), (aten.silu_.default, (SWAPPED,)),
    (aten.zeros_like.default, (CUT,)), (aten.pixel_shuffle.default, (x(2, 12, 3, 5), 2)),
    (aten.tanh_.default, (SWAPPED,)), (aten.index_copy_.default, (x(9, 4), 0, x(5, dtype=torch.int64), x(5, 4))),
    (aten.mm.default, (x(3, 4), x(4, 5))), (aten.matmul.default, (x(2, 3, 4), x(4, 5))),
    (aten.__rshift__.Scalar, (FLAGS.to(torch.uint8), 4)),
    (aten.linear.default, (x(2, 3, 4), x(5, 4), x(5))), (aten.linear.default, (SWAPPED, x(7, 5))),
    (aten.rms_norm.default, (SWAPPED, [5], None, 1e-6)), (aten.layer_norm.default, (x(4, 5), [5], x(5), x(5))),
    (aten.cat.default, ([x(2, 3), x(2, 4)], 1)), (aten.cat.default, ([x(2, 3), x(1, 3).expand(4, 3)],)),
    (aten.stack.default, ([x(2, 3), x(2, 3)], -1)), (aten.index.Tensor, (x(9, 4), [WHOLE])),
    (aten.conv1d.default, (x(2, 4, 9), x(6, 2, 3), x(6), [2], [1], [2], 2)),
    (aten.conv1d.padding, (x(2, 4, 9), x(6, 4, 3), None, [1], "same")),
    (aten.conv2d.default, (x(2, 4, 9, 8), x(6, 4, 3, 3), None, [1, 2])),
    (aten.conv3d.default, (x(2, 4, 9, 8, 7), x(6, 4, 3, 3, 1), x(6), [1, 1, 1], [1, 0, 2])),
    (aten.upsample_nearest2d.vec, (x(2, 3, 5, 4), None, [2.0, 2.0])),
    (aten.matmul.default, (x(5, 4), x(2, 4, 9))),
    (aten.conv_transpose1d.default, (x(2, 4, 9), x(1, 1, 5).expand(4, -1, -1), None, [2], [1], [0], 4)),
    (aten.matmul.default, (x(5, 4), x(2, 4, 9))),
    (aten.conv_transpose1d.default, (x(2, 4, 9), x(4, 6, 5), x(6), [3], [1], [2], 1, [2])),
    (aten.pad.default, (x(2, 3, 5), [1, 2], "replicate")), (aten.pad.default, (x(2, 3, 5), [0, 2, 1, 0])),
    (aten.empty_like.default, (TURNED,)), (aten.pow.Tensor_Scalar, (HALF, 2)), (aten.pow.Scalar, (10000.0, x(3))),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("operation", "args"), CASES)
def test_it_is_what_pytorch_derives(operation, args):
    ours = derive(operation, args, {})
    theirs = operation(*args)
    assert ours is not None and (ours is args[0]) == (theirs is args[0])
    assert (ours.shape, ours.stride(), ours.dtype) == (theirs.shape, theirs.stride(), theirs.dtype)


def test_a_product_of_float8_has_the_dtype_that_is_named():
    def eight(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.float8_e4m3fn, device="meta")

    args = (eight(32, 16), eight(48, 16).t(), x(32, 1), x(1, 48))
    for dtype in (torch.bfloat16, torch.float32):
        ours = derive(aten._scaled_mm.default, args, {"out_dtype": dtype})
        theirs = aten._scaled_mm.default(*args, out_dtype=dtype)
        assert (ours.shape, ours.stride(), ours.dtype) == (theirs.shape, theirs.stride(), theirs.dtype)
    assert derive(aten._scaled_mm.default, (eight(32, 16), eight(48, 32).t(), x(32, 1), x(1, 48)), {}) is None


@pytest.mark.parametrize("name", sorted(CASTS))
def test_the_outline_of_a_format_is_what_it_makes(name):
    for shape in ((32, 64), (48, 40)):
        outline, made = CASTS[name].outline(shape), CASTS[name].quantize(torch.randn(shape))
        assert outline.keys() == made.keys()
        for suffix, each in made.items():
            assert (outline[suffix].shape, outline[suffix].dtype) == (each.shape, each.dtype), suffix


def test_what_does_not_fit_is_left_to_pytorch_which_says_why():
    misfits = [
        (aten.add.Tensor, (x(2, 3), x(2, 4))), (aten.linear.default, (x(2, 3), x(5, 4))),
        (aten.cat.default, ([x(2, 3), x(3, 4)],)), (aten.add_.Tensor, (x(1, 3), x(2, 3))),
        (aten.conv1d.default, (x(1, 2, 2), x(2, 2, 3))), (aten.rms_norm.default, (x(2, 3), [4])),
    ]  # fmt: skip
    for operation, args in misfits:
        assert tensors_in(args) and derive(operation, args, {}) is None
        with pytest.raises(RuntimeError):
            operation(*args)


def test_attention_and_convolutions_are_laid_out_as_kernels_of_a_card_do_it():
    """PyTorch knows only its plain forms on the meta device, after which plans counted copies that no card makes."""
    heads = x(2, 7, 3, 8).transpose(1, 2)
    seen = derive(aten.scaled_dot_product_attention.default, (heads, heads, heads), {})
    assert seen.shape == heads.shape and seen.transpose(1, 2).is_contiguous()
    channels_last = x(1, 4, 5, 6, 7).to(memory_format=torch.channels_last_3d)
    made = derive(aten.conv3d.default, (channels_last, x(8, 4, 1, 1, 1)), {})
    assert made.is_contiguous(memory_format=torch.channels_last_3d) and made.shape == (1, 8, 5, 6, 7)


def test_a_result_is_remembered_by_all_that_it_depends_on():
    calls = [
        *((each, 2, {}) for each in (x(4, 5), x(5, 4), x(5, 4).t(), CUT, HALF)),
        *((x(4, 5), 2, {"dtype": dtype}) for dtype in (torch.float32, torch.float64)),
        *((x(4, 5), number, {}) for number in (1, 1.0, True)),
    ]
    keys = [signature(aten.sum.dim_IntList, (tensor, number), more)[0] for tensor, number, more in calls]
    assert len(set(keys)) == len(calls)
    assert signature(aten.sum.dim_IntList, (x(4, 5), 2), {})[0] == keys[0]


def test_what_is_only_written_is_not_read():
    a, b = x(100), x(100)
    assert cost(lambda: torch.add(a, b, out=a)).moved == cost(lambda: a + b).moved == 3 * a.nbytes
    assert cost(lambda: a.copy_(b)).moved == 2 * a.nbytes
    assert cost(lambda: F.rms_norm(a, (100,))).moved == 2 * a.nbytes


@pytest.mark.slow
def test_a_plan_does_not_import_the_compiler():
    script = (
        "import sys; sys.path.append('tests'); from planned import plan; from ltx2_core.geometry import ClipShape;"
        "from ltx2_core.memory.machine import CARDS; from ltx2_core.pipeline.needs.blueprint import Blueprint;"
        "shape, card = ClipShape(1280, 704, 121, 24), CARDS['RTX 5090'];"
        "kinds = (('2.0', 'bf16'), ('2.3', 'bf16'), ('2.3', 'fp8'), ('2.3', 'int8'), ('2.5', 'bf16'));"
        "[plan(Blueprint.of_version(*each), shape, card, ram=2**36) for each in kinds];"
        "sys.exit('torch._dynamo' in sys.modules or 'sympy' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2], check=True)
