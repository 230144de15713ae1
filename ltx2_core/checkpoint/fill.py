"""Nothing missing, nothing unknown."""

from collections.abc import Callable, Collection

from torch import Tensor, nn

from .files import CheckpointError


def fill(network: nn.Module, state: dict[str, Tensor], what: str, official: Callable[[str], str]) -> None:
    """Assign ``state`` to ``network`` if it has exactly the tensors that are wanted, else raise CheckpointError.

    ``what`` begins the sentence ("The transformer in x.safetensors"), ``official`` gives a tensor's name in the file.
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
                f"{what} {verb} tensors: {few(sorted(names))}. The file does not fit its own config, or is of another "
                "version; download the official file."
            )
    network.load_state_dict(state, assign=True)


def few(names: Collection[str]) -> str:
    """The first three names, and how many more there are."""
    shown = ", ".join(list(names)[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
