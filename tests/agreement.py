"""Holding our numbers against the official implementation, and remembering how near they came."""

from torch import Tensor

FIGURES: dict[str, tuple[float, float]] = {}  # seam: (relative error, allowed)


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference as a share of the largest expected value."""
    assert ours.shape == theirs.shape, f"shapes differ: ours {tuple(ours.shape)}, theirs {tuple(theirs.shape)}"
    scale = theirs.double().abs().max().clamp(min=1e-12)
    return ((ours.double() - theirs.double()).abs().max() / scale).item()


def compare(seam: str, ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    """Assert that ``ours`` equals ``theirs`` within ``tolerance`` (relative) and record the figure under ``seam``."""
    error = relative_error(ours, theirs)
    worst = max(error, FIGURES.get(seam, (0.0, 0.0))[0])
    FIGURES[seam] = (worst, tolerance)
    assert error <= tolerance, f"{seam}: relative error {error:.2e}, allowed {tolerance:.0e}"
