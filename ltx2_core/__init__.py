"""LTX-2 in PyTorch: a prompt becomes a clip with sound.

import ltx2_core as ltx2

models = ltx2.open_models("miniature")
clip = ltx2.generate(models, prompt="a red ball bounces twice on the left", seed=7)
"""

from .checkpoint import CheckpointError, Models, build, open_models
from .generate import Clip, generate
from .sampling import Guidance

__all__ = ["CheckpointError", "Clip", "Guidance", "Models", "build", "generate", "open_models"]
