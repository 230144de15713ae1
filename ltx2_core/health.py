"""Is what came out of a stage sound?"""

from torch import Tensor

from .latents import AVLatent


def check_finite(what: AVLatent | Tensor, stage: str) -> None:
    """Raise FloatingPointError, naming ``stage``, if there is a NaN or an infinity."""
    tensors = what.streams() if isinstance(what, AVLatent) else {"result": what}
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise FloatingPointError(
                f"The {name} is not a number after {stage}: a file is damaged, or the numbers do not fit the chosen "
                "precision. Download the checkpoint again, or choose a higher precision (bf16 or fp32)."
            )
