"""What does a LoRA do to which weight?"""

from .adapter import LoraAdapter
from .parse import Lora, open_lora, open_text_lora
from .report import Report, check_text_lora, compare
from .stack import Stack
from .strengths import Strengths, StrengthSchedule

__all__ = [
    "Lora",
    "LoraAdapter",
    "Report",
    "Stack",
    "StrengthSchedule",
    "Strengths",
    "check_text_lora",
    "compare",
    "open_lora",
    "open_text_lora",
]
