"""What is in this file, and which network does it fill?"""

from ..errors import CheckpointError
from .build import build
from .files import TensorFile
from .models import Models, open_models

__all__ = ["CheckpointError", "Models", "TensorFile", "build", "open_models"]
