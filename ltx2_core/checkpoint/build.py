"""Fill a network with the tensors of a file; nothing missing, nothing unknown."""

from typing import Any

import torch

from ..errors import CheckpointError, SettingError
from ..quantization import cast, install_quantized_layers, use_scaled_products, wants_exact_products
from .loading import load_strict, shorten_list
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
        raise SettingError(f"Only the transformer can be cast to {format}; build the {name} without a format.")
    source = models.source(name)
    file, variant, title = source.file, source.variant, f"The {name.replace('_', ' ')} in {source.file.path.name}"
    prefix = variant.prefix_in(file.entries)
    if prefix and (unknown := [key for key in models.unknown(file) if key.startswith(prefix)]):
        raise CheckpointError(
            f"{title} has unknown tensors: {shorten_list(sorted(unknown))}. Choose an official LTX-2 file."
        )
    with torch.device("meta"):
        network = variant.build(models.config, {ours: file.shape(key) for ours, key in source.names.items()})
    state = {ours: file.get(key) for ours, key in source.names.items()}
    if format is not None:
        cast(state, format)
    try:
        install_quantized_layers(network, state, getattr(network, "compute_dtype", dtype))
    except CheckpointError as error:
        raise CheckpointError(f"{file.path.name}: {error}") from None
    load_strict(network, state, title, variant.official)
    if name == "transformer" and not wants_exact_products((key, e.shape) for key, e in file.entries.items()):
        use_scaled_products(network)
    return network.to(device).requires_grad_(False).eval()
