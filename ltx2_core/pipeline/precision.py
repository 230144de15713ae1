"""What is no number in a narrow format is made once more in float32; nothing else has to be made again."""

import torch

from ..errors import Finding, NotANumberError
from .stage import Engine, Stage


def widen(engine: Engine, stage: Stage, error: NotANumberError) -> Engine:
    """Return ``engine`` with the networks of ``stage`` in float32, and tell its events why.

    Args:
        engine: what ``stage`` ran on.
        stage: made something that is not a number.
        error: as it was raised.

    Raises:
        NotANumberError: ``error``, if no wider format helps: the stage ran in float32, or a file is damaged.
    """
    dtype = engine.dtype(stage.networks[0])
    if dtype == torch.float32 or error.in_file:
        raise error
    narrow = str(dtype).removeprefix("torch.")
    engine.events.report_findings(
        [
            Finding(
                f"the stage {stage.name}",
                f"what came out in {narrow} was not a number",
                "it is made once more in float32, which takes longer, and nothing else is made again. Choose bf16 or "
                "fp32 as precision to save the first try.",
            )
        ]
    )
    return engine.in_float32(stage)
