"""LTX-2 in PyTorch: a prompt becomes a clip with sound.

import ltx2_core as ltx2

models = ltx2.open_models("miniature")
clip = ltx2.generate(models, prompt="a red ball bounces twice on the left", seed=7)
"""

import gc

import torch  # noqa: F401  # by itself, since it leaves garbage behind

# All that is made here stays: to search it for garbage meanwhile would take a quarter of the time.
_SEARCHES = gc.isenabled()
gc.disable()
try:
    from .checkpoint import Models, build, open_models
    from .errors import CheckpointError, LTX2Error
    from .pipeline.generate import Clip, generate, run, run_batch
    from .pipeline.stage import Events
    from .sampling import Guidance
    from .settings import Request
finally:
    if _SEARCHES:
        gc.enable()

__all__ = [
    "CheckpointError",
    "Clip",
    "Events",
    "Guidance",
    "LTX2Error",
    "Models",
    "Request",
    "build",
    "generate",
    "open_models",
    "run",
    "run_batch",
]
