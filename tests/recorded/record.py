"""Results that were recorded once, and what they are compared with.

A tensor is recorded as a hash of its bytes, its shape, and 48 values that lie evenly in it. On a machine that computes
the same bits (``platform.fingerprint``) the hash must be equal, elsewhere the shape and the values.

``LTX2_RECORD=1 python -m pytest tests/recorded`` writes the recorded file anew.
"""

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

RECORDING = os.environ.get("LTX2_RECORD") == "1"
SAMPLES = 48
TOLERANCE = 2e-3

Facts = dict[str, Any]  # of one tensor, as JSON holds them


def facts_of(tensor: Tensor) -> Facts:
    """Return hash, shape and evenly spaced values of a tensor."""
    exact = tensor.detach().to("cpu", torch.float32).contiguous()
    flat = exact.flatten()
    places = [number * (len(flat) - 1) // (SAMPLES - 1) for number in range(SAMPLES)]
    return {
        "shape": [*exact.shape],
        "sha256": hashlib.sha256(exact.numpy().tobytes()).hexdigest(),
        "samples": [float(f"{value:.6g}") for value in flat[places].tolist()],
    }


def differences(
    made: dict[str, Facts], recorded: dict[str, Facts], same_platform: bool, tolerance: float = TOLERANCE
) -> list[str]:
    """Return one sentence for each tensor that is not what was recorded; values of other platforms may differ a little.

    Args:
        made: Facts of the tensors that were made now, by name.
        recorded: Facts of those that were recorded.
        same_platform: Whether both come from machines that compute the same bits.
        tolerance: How far values may be apart where they do not.
    """
    if made.keys() != recorded.keys():
        return [f"recorded were {sorted(recorded)}, made were {sorted(made)}"]
    sentences = []
    for name, now in made.items():
        then = recorded[name]
        if now["shape"] != then["shape"]:
            sentences.append(f"{name}: the shape was {then['shape']}, and is {now['shape']}")
            continue
        furthest = max(map(_distance, now["samples"], then["samples"]))
        if same_platform and now["sha256"] != then["sha256"]:
            sentences.append(f"{name}: other bits; the samples differ by at most {furthest:.2g}")
        elif not same_platform and not furthest <= tolerance:
            sentences.append(f"{name}: the samples differ by {furthest:.2g}, more than {tolerance:g}")
    return sentences


def _distance(a: float, b: float) -> float:
    return 0.0 if a == b or (math.isnan(a) and math.isnan(b)) else abs(a - b)


class Recording:
    """A JSON file of entries by name; each says on which platform it was recorded."""

    def __init__(self, path: Path):
        self.path = path

    def read(self) -> dict[str, Any]:
        """Return all entries by name; none where nothing was recorded yet."""
        return json.loads(self.path.read_text()) if self.path.is_file() else {}

    def entry(self, name: str) -> dict[str, Any]:
        """Return one entry; KeyError where it was never recorded."""
        try:
            return self.read()[name]
        except KeyError:
            raise KeyError(f"{name} was never recorded: run LTX2_RECORD=1 python -m pytest {name}") from None

    def write(self, name: str, entry: dict[str, Any]) -> None:
        """Put one entry in the place of the old one."""
        entries = self.read() | {name: entry}
        self.path.write_text(json.dumps(dict(sorted(entries.items())), indent=1) + "\n")
