"""Loading with nothing missing and nothing unknown."""

from collections.abc import Callable, Collection

from torch import Tensor, nn

from ..errors import CheckpointError


def load_strict(network: nn.Module, state: dict[str, Tensor], title: str, official: Callable[[str], str]) -> None:
    """Assign ``state`` to ``network`` if it has exactly the tensors that are wanted.

    Args:
        network: Usually on the meta device; its tensors become those of ``state``, which are not copied.
        state: Tensors by our names.
        title: Begins the sentence of an error, such as "The transformer in x.safetensors".
        official: Gives the name of a tensor in the file.

    Raises:
        CheckpointError: Tensors are missing, unknown or of the wrong shape.
    """
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    wrong = [name for name in wanted.keys() & state.keys() if tuple(state[name].shape) != wanted[name]]
    problems = {
        "lacks": [official(name) for name in wanted.keys() - state.keys()],
        "has unknown": [official(name) for name in state.keys() - wanted.keys()],
        "has wrongly shaped": [f"{official(n)} is {tuple(state[n].shape)} and should be {wanted[n]}" for n in wrong],
    }
    for verb, names in problems.items():
        if names:
            raise CheckpointError(
                f"{title} {verb} tensors: {shorten_list(sorted(names))}. The file does not fit its own config, or is "
                "of another version; download the official file."
            )
    network.load_state_dict(state, assign=True)


def shorten_list(names: Collection[str]) -> str:
    """Return the first three names, and how many more there are."""
    shown = ", ".join(list(names)[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
