"""What does a LoRA do to which weight?"""

from .apply import Adapted, Strengths, keyframes
from .parse import Lora, open_lora
from .report import Report, compare
from .stack import Stack

__all__ = ["Adapted", "Lora", "Report", "Stack", "Strengths", "compare", "keyframes", "open_lora"]
