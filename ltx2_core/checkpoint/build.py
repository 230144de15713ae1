"""Fill a network with the tensors of a file; nothing missing, nothing unknown."""

from typing import Any

import torch

from ..quantization import adopt_fp8, cast, use_scaled_products
from .components import COMPONENTS
from .files import CheckpointError, TensorFile
from .fill import few, fill
from .models import Models


def build(
    models: Models,
    name: str,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    format: str | None = None,
) -> Any:
    """The network (nn.Module) of component ``name`` with its weights, ready for inference.

    ``dtype`` is what it computes in (default: as stored); tensors that need no conversion stay memory-mapped.
    ``format`` "fp8" halves the bytes of those matrices of the transformer that may be coarse; they are in memory
    then. Raises CheckpointError if tensors are missing, unknown or of the wrong shape.
    """
    if format is not None and name != "transformer":
        raise ValueError(f"Only the transformer can be cast to {format}; build the {name} without a format.")
    component, source = COMPONENTS[name], models.source(name)
    file, title = source.file, f"The {name.replace('_', ' ')} in {source.file.path.name}"
    prefix = component.prefix_in(file.entries)
    if prefix and (unknown := [key for key in models.unknown(file) if key.startswith(prefix)]):
        raise CheckpointError(f"{title} has unknown tensors: {few(sorted(unknown))}. Choose an official LTX-2 file.")
    with torch.device("meta"):
        network = component.make(models.config, {ours: file.shape(key) for ours, key in source.names.items()})
    state = {ours: file.get(key) for ours, key in source.names.items()}
    if format is not None:
        cast(state, format)
    try:
        adopt_fp8(network, state, getattr(network, "compute_dtype", dtype))
    except ValueError as error:
        raise CheckpointError(f"{file.path.name}: {error}") from None
    fill(network, state, title, component.official)
    if name == "transformer" and not _wants_exact_products(file):
        use_scaled_products(network)
    return network.to(device).requires_grad_(False).eval()


def _wants_exact_products(file: TensorFile) -> bool:
    """Whether an old ComfyUI file asks that its inputs are not rounded: by two elements in its marker."""
    return any(key.endswith("scaled_fp8") and entry.shape == (2,) for key, entry in file.entries.items())
