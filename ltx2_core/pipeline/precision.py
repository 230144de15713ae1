"""How precisely a stage computes, whatever the process has set: float32 is float32, not TF32.

What is no number in a narrow format is made once more in float32.
"""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from ..errors import Finding, NotANumberError
from .engine import EngineT
from .stage import Stage

Setting = tuple[Any, str, Any]  # owner, name and value of an attribute


class clean_inference(torch.inference_mode):
    """Inference mode in which PyTorch computes as in a fresh process, as a context or a decorator.

    Others may have left autocast on, or another default dtype or device: nothing of it counts inside. Behind it the
    card is current again that was before. What decorates a generator counts only while it makes a value.
    """

    def __enter__(self) -> None:
        super().__enter__()
        self._before = ExitStack()
        for kind in filter(torch.is_autocast_enabled, ("cpu", "cuda", "mps", "xpu")):
            self._before.enter_context(torch.autocast(kind, enabled=False))
        if not torch.empty(0).is_cpu:  # before 2.9 PyTorch names as default what was set for the process alone
            self._before.enter_context(torch.device("cpu"))
        if (dtype := torch.get_default_dtype()) != torch.float32:
            torch.set_default_dtype(torch.float32)
            self._before.callback(torch.set_default_dtype, dtype)
        self._before.callback(_make_current, torch.cuda.current_device() if torch.cuda.is_initialized() else 0)

    def __exit__(self, *raised: Any) -> None:
        self._before.close()
        super().__exit__(*raised)


def _make_current(card: int) -> None:
    if torch.cuda.is_initialized() and torch.cuda.current_device() != card:
        torch.cuda.set_device(card)


class _ExactFloat32:
    """Switches TF32 off for all users together: the first one turns it off, the last one restores what was set."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._before: list[Setting] = []

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if not self._users:
                self._before = [(owner, name, getattr(owner, name)) for owner, name, _ in _without_tf32()]
                _set_all(_without_tf32())
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    _set_all(self._before)


# A context in which convolutions and products of float32 are computed in float32, whatever the process has set.
# Cards may let convolutions round their inputs to TF32, which has the ten bits of float16: far too few for a vocoder.
exact_float32 = _ExactFloat32()


def _without_tf32() -> list[Setting]:
    cpu: Any = torch.backends.mkldnn  # whose types do not say what it has
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    if hasattr(cudnn, "conv"):  # since torch 2.9, which refuses to tell the older flags if both kinds are used
        return [(owner, "fp32_precision", "ieee") for owner in (cudnn.conv, matmul, cpu.conv, cpu.matmul)]
    return [(cudnn, "allow_tf32", False), (matmul, "allow_tf32", False)]


def _set_all(settings: list[Setting]) -> None:
    for owner, name, value in settings:
        setattr(owner, name, value)


def widen(engine: EngineT, stage: Stage, error: NotANumberError) -> EngineT:
    """Return ``engine`` with the networks of ``stage`` in float32, and tell its events why.

    Args:
        engine: what ``stage`` ran on.
        stage: made something that is not a number.
        error: as it was raised.

    Raises:
        NotANumberError: ``error``, if no wider format helps: the stage ran in float32, or a file is damaged.
    """
    dtype = engine.dtype(stage.networks[0])
    if dtype == torch.float32 or error.in_file:
        raise error
    narrow = str(dtype).removeprefix("torch.")
    again = (
        "it is made once more in float32, which takes longer, and nothing else is made again. Choose bf16 or fp32 as "
        "precision to save the first try."
    )
    engine.events.on_finding(Finding(f"the stage {stage.name}", f"what came out in {narrow} was not a number", again))
    return engine.in_float32(stage.networks)
