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


def clips(frames: int, *, last: bool, gap: int = 0) -> torch.Tensor:
    """(2, 4, frames, 6, 7), with channels first or last in memory, all frames that there are or with a gap behind."""
    form = torch.channels_last_3d if last else torch.contiguous_format
    return x(2, 4, frames + gap, 6, 7).to(memory_format=form)[:, :, :frames]


CATS = [[clips(frames, last=last, gap=gap) for frames in (3, 3)] for last in (False, True) for gap in (0, 2)]
CATS += [
    [clips(3, last=True), clips(3, last=False, gap=2)],
    [SWAPPED, SWAPPED],
    [CUT, x(1, 6, 1, 5).expand(2, 6, 4, 5)],
]
CATS += [[x(2, 1, 3, 6, 7), x(2, 1, 3, 6, 7)], [x(2, 4, 3, 1, 1).to(memory_format=torch.channels_last_3d)] * 2]
CATS += [[x(1, 4, 5, 6, 7).to(memory_format=torch.channels_last_3d)[:, :, :1]] * 2]

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
    *((aten.cat.default, (pair, axis)) for axis in (1, 2) for pair in CATS),
    *((aten.clone.default, (each,)) for each in LAYOUTS), (aten.repeat.default, (SWAPPED, [3, 1, 1, 2, 1])),
    (aten.addcmul.default, (x(3, 1), HALF[..., :3, :4].reshape(2, 6, 3, 4), x(4))), (aten.abs.default, (WHOLE,)),
    (aten.lerp.Scalar, (SWAPPED, x(2, 6, 4, 5), 0.5)), (aten.rsub.Scalar, (x(4, 5), 1)),
    (aten.tanh_.default, (SWAPPED,)), (aten.relu_.default, (CUT,)), (aten.pixel_shuffle.default, (x(2, 12, 4, 5), 2)),
    (aten.index_copy_.default, (x(2, 6, 4), 1, x(3, dtype=torch.int64), x(2, 3, 4))),
    *((operation, (TURNED,)) for operation in (aten.zeros_like.default, aten.empty_like.default)),
    (aten.pow.Tensor_Scalar, (HALF, 2)), (aten.pow.Scalar, (10000.0, x(3))),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("operation", "args"), CASES)
def test_it_is_what_pytorch_derives(operation, args):
    ours = derive(operation, args, {})
    theirs = operation(*args)
    assert ours is not None and (ours is args[0]) == (theirs is args[0])
    assert (ours.shape, ours.stride(), ours.dtype) == (theirs.shape, theirs.stride(), theirs.dtype)


@pytest.mark.slow
@pytest.mark.parametrize("operation", [aten.var_mean.correction, aten.std_mean.correction])
@pytest.mark.parametrize("how", [{}, {"keepdim": True}])
def test_moments_are_what_pytorch_derives(operation, how):
    ours, theirs = derive(operation, (CUT, [1, 3]), how), operation(CUT, [1, 3], **how)
    assert [(each.shape, each.dtype) for each in ours] == [(each.shape, each.dtype) for each in theirs]


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
    """Of any version and format, and of what a clip may have besides: pictures, sounds, upscalers."""
    script = """
import sys
sys.path.append("tests")
from fractions import Fraction
from planned import plan
from ltx2_core.geometry import ClipShape
from ltx2_core.memory.machine import CARDS
from ltx2_core.pipeline.encode_conditions import EncodeAudio, EncodeVideo
from ltx2_core.pipeline.needs.blueprint import Blueprint
from ltx2_core.pipeline.stage import upscaler_key
from ltx2_core.pipeline.upscale import Upscale
from ltx2_core.upscaler import UpscalerConfig
shape, card = ClipShape(1280, 704, 121, 24), CARDS["RTX 5090"]
kinds = ("2.0", "bf16"), ("2.3", "bf16"), ("2.5", "bf16"), ("2.3", "fp8"), ("2.3", "int8")
drawn = [Blueprint.of_version(*each) for each in kinds]
for each in drawn:
    plan(each, shape, card, ram=2**36)
    EncodeVideo(shape.video_latent).need(each), EncodeAudio(shape.audio_latents).need(each)
half = UpscalerConfig(space=Fraction(3, 2), rational=True)
for config in (UpscalerConfig(), half, UpscalerConfig(space=Fraction(1), time=2)):
    Upscale(upscaler_key("x"), config, (4, 16, 24), tones=(1.0, 0.5)).need(drawn[0])
sys.exit("torch._dynamo" in sys.modules or "sympy" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[3], check=True)


@pytest.mark.slow
def test_the_first_measurement_is_like_all_later_ones():
    """What PyTorch works out by its compiler holds on to its inputs, the first time."""
    script = """
import gc
from ltx2_core.pipeline.stage import upscaler_key
from ltx2_core.pipeline.upscale import Upscale
from ltx2_core.upscaler import UpscalerConfig
gc.disable()  # as while a plan is made
stage = Upscale(upscaler_key("x"), UpscalerConfig(), (16, 17, 30))
assert stage.need(None).cost == stage.need(None).cost
"""
    subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[3], check=True)


@pytest.mark.slow
def test_a_planned_clip_of_all_that_can_be_given_does_not_import_the_compiler():
    script = """
import sys
import torch
import ltx2_core as ltx2
from ltx2_core.checkpoint.upscaler import BUILT_IN, open_upscaler
from ltx2_core.conditioning import AudioSource, Picture, ReferenceAudio, ReferenceVideo, VideoSource
from ltx2_core.settings import SecondStage
film, sound = VideoSource(torch.rand(9, 64, 64, 3)), AudioSource(torch.rand(2, 16000) - 0.5, 16000)
given = Picture(torch.rand(1, 64, 64, 3)), ReferenceAudio(sound), ReferenceVideo(film, attention=0.5)
second = SecondStage((open_upscaler(BUILT_IN),), keep_references=True)
size = {"width": 128, "height": 128, "frames": 9, "steps": 1}
sys.modules["comfy_kitchen"] = None  # imports it by itself
how = {"max_vram": 2.0, "device": "cpu", "cache": False, "audio": ltx2.Guidance(3, 2, identity_scale=2)}
clip = ltx2.generate(ltx2.open_models("miniature"), "a ball", conditions=given, second=second, **size, **how)
sys.exit(clip.frames.shape != (9, 128, 128, 3) or "torch._dynamo" in sys.modules or "sympy" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[3], check=True)
