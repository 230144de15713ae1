"""LTX-2 in PyTorch: a prompt becomes a clip with sound.

import ltx2_core as ltx2

models = ltx2.open_models("miniature")
clip = ltx2.generate(models, prompt="a red ball bounces twice on the left", seed=7)

Each name is imported when it is asked for first, because PyTorch takes seconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .checkpoint import Models, build, open_models
    from .errors import CheckpointError, LTX2Error
    from .pipeline.generate import Clip, generate, run, run_batch
    from .pipeline.stage import Events
    from .sampling import Guidance, StreamGuidance
    from .settings import Request

_PLACES = {
    "CheckpointError": ".errors",
    "Clip": ".pipeline.generate",
    "Events": ".pipeline.stage",
    "Guidance": ".sampling",
    "LTX2Error": ".errors",
    "Models": ".checkpoint",
    "Request": ".settings",
    "StreamGuidance": ".sampling",
    "build": ".checkpoint",
    "generate": ".pipeline.generate",
    "open_models": ".checkpoint",
    "run": ".pipeline.generate",
    "run_batch": ".pipeline.generate",
}

__all__ = [
    "CheckpointError",
    "Clip",
    "Events",
    "Guidance",
    "LTX2Error",
    "Models",
    "Request",
    "StreamGuidance",
    "build",
    "generate",
    "open_models",
    "run",
    "run_batch",
]


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name], __name__), name)
