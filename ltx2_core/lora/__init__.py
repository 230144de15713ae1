"""What does a LoRA do to which weight?"""

from .adapter import LoraAdapter
from .fold import fold_loras
from .parse import Lora, files_of_lora, open_lora, open_text_lora
from .report import Report, check_text_lora, compare
from .shrunk import Shrink, open_shrunk
from .stack import Stack
from .strengths import Strengths, StrengthSchedule

__all__ = [
    "Lora",
    "LoraAdapter",
    "Report",
    "Shrink",
    "Stack",
    "StrengthSchedule",
    "Strengths",
    "check_text_lora",
    "compare",
    "files_of_lora",
    "fold_loras",
    "open_lora",
    "open_shrunk",
    "open_text_lora",
]
