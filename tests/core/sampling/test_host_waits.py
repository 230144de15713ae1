"""How often in a step the host has to wait for what the device has computed."""

from fractions import Fraction

import pytest
import torch
from direct import sample
from planned import running, small
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ltx2_core import latents
from ltx2_core.errors import NotANumberError
from ltx2_core.geometry import ClipShape
from ltx2_core.health import check_finite
from ltx2_core.latents import AVLatent
from ltx2_core.sampling import Guidance
from ltx2_core.text import Contexts

aten = torch.ops.aten
SIGMAS = [1.0, 0.8, 0.4, 0.0]
# Operations whose result the host must know to go on: a number, a choice, a shape. Inference mode would hide some.
READS = {
    aten._local_scalar_dense, aten.equal, aten.nonzero, aten._unique2, aten.unique_dim, aten.unique_consecutive,
    aten.masked_select, aten.repeat_interleave,
}  # fmt: skip
FETCHES = {torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.cpu}  # which no operation shows on a CPU


class Operations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.reads = 0

    def count(self, operation, types, args=(), kwargs=None):
        kind = operation.overloadpacket
        by_mask = kind is aten.index and any(each is not None and each.dtype == torch.bool for each in args[1])
        self.reads += kind in READS or by_mask
        return operation(*args, **kwargs or {})


# Set here and not in the class, where PyTorch would wrap it in its compiler, whose import takes seconds.
Operations.__torch_dispatch__ = Operations.count


class Functions(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.reads = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.reads += function in FETCHES
        return function(*args, **kwargs or {})


def reads_of_steps(masked: bool, **settings) -> list[int]:
    """Sample a clip, whose first frame is given or nearly so, and count for each step."""
    shape = ClipShape(64, 64, 9, Fraction(24))
    latent, found = latents.empty(shape), []
    mask = torch.ones(1, 1, *latent.video.shape[2:])
    mask[:, :, 0], mask[:, :, 1, :1] = 0.0, 0.25
    contexts = Contexts(torch.zeros(1, 16, 128), torch.zeros(1, 16, 64))
    with torch.no_grad(), Operations() as operations, Functions() as functions:

        def on_step(*_):
            found.append(operations.reads + functions.reads)

        sample(
            running(small("2.3")),
            latent,
            fps=shape.fps,
            sigmas=SIGMAS,
            contexts=contexts,
            negative=Contexts(contexts.video + 1, contexts.audio + 1),
            mask=AVLatent(mask, None) if masked else None,
            video=Guidance(3, 3, 1, (1,), rescale=0.7),
            audio=Guidance(7, 3, 1, (1,), rescale=0.7),
            on_step=on_step,
            **settings,
        )
    return [after - before for before, after in zip(found, found[1:])]


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_a_step_reads_from_the_device_once(masked, batched):
    """Whether its result is a number; the levels of an image are found in the first step."""
    assert reads_of_steps(masked, batched_passes=batched) == [1] * (len(SIGMAS) - 2)


def test_one_look_tells_which_stream_is_broken():
    whole = torch.ones(1, 4)
    with pytest.raises(NotANumberError, match="audio"):
        check_finite(AVLatent(whole, whole / 0), "a step")
    check_finite(AVLatent(whole, None), "a step")
