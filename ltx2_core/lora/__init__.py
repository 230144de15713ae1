"""What does a LoRA do to which weight?"""

from .adapter import LoraAdapter
from .parse import Lora, open_lora
from .report import Report, compare
from .stack import Stack
from .strengths import Strengths, StrengthSchedule

__all__ = ["Lora", "LoraAdapter", "Report", "Stack", "StrengthSchedule", "Strengths", "compare", "open_lora"]
