"""LTX-2 in PyTorch: a prompt becomes a clip with sound.

import ltx2_core as ltx2

models = ltx2.open_models("miniature")
clip = ltx2.generate(models, prompt="a red ball bounces twice on the left", seed=7)
"""

from .checkpoint import Models, build, open_models
from .errors import CheckpointError, LTX2Error
from .pipeline.generate import Clip, generate, run, run_batch
from .pipeline.stage import Events
from .sampling import Guidance
from .settings import Request

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
