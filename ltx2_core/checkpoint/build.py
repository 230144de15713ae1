"""Fill a network with the tensors of a file; nothing missing, nothing unknown."""

from collections.abc import Collection

import torch

from ..errors import SettingError
from ..errors.kinds import arguments_checked
from ..quantization import cast, install_quantized_layers, use_scaled_products, wants_exact_products
from .components import ComponentNetwork
from .files import called, named_errors
from .loading import load_strict
from .models import Models


@arguments_checked
def build(
    models: Models,
    name: str,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    format: str | None = None,
    deferred: Collection[torch.dtype] = (),
    cast_on: torch.device | None = None,
    made: ComponentNetwork | None = None,
) -> ComponentNetwork:
    """Build the network (nn.Module) of a component with its weights, ready for inference.

    Args:
        models: The files.
        name: Which component, a row of ``components.COMPONENTS``.
        dtype: What it computes in, by default as stored; tensors that need no conversion stay memory-mapped.
        device: Where its weights go.
        format: A row of ``quantization.CASTS``, for the transformer alone: those of its matrices that may be coarse
            become smaller, and are in memory then.
        deferred: Tensors that are stored so stay as they are, and memory-mapped: a ``Store`` converts them.
        cast_on: Where numbers are rounded to ``format``, by default where they lie.
        made: What ``models.network`` made of this component, to be filled; nobody else may use it. By default it is
            made now.

    Raises:
        CheckpointError: Tensors are missing, unknown or of the wrong shape, or in a format that cannot be read.
        SettingError: There is no such device or format, or it is not for this component.
    """
    try:
        device = torch.device(device)
    except RuntimeError:
        raise SettingError(
            f"device is {str(device)[:50]!r}; it must be one of PyTorch's, such as cuda or cpu."
        ) from None
    if format is not None and name != "transformer":
        raise SettingError(f"Only the transformer can be cast to {format}; build the {name} without a format.")
    source = models.source(name)
    file, title = source.file, f"The {name.replace('_', ' ')} in {called(source.file.path)}"
    network = models.network(name) if made is None else made
    state = source.tensors()
    if format is not None:
        cast(state, format, cast_on)
    with named_errors(called(file.path)):
        computes = getattr(network, "compute_dtype", dtype)
        install_quantized_layers(network, state, computes, deferred, lambda ours: source.names.get(ours, ours))
    load_strict(network, state, title, source.variant.keys.official)
    if name == "transformer" and not wants_exact_products({key: entry.shape for key, entry in file.entries.items()}):
        use_scaled_products(network)
    if any(tensor.device != device for tensor in state.values()):  # a walk through all modules
        network.to(device)
    return network.eval()
