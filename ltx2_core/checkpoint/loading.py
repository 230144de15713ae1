"""Loading with nothing missing and nothing unknown."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..disk_cache.mapped import file_part, mapped_files, read_parts
from ..errors import UNSEEN, CheckpointError, holds_numbers
from ..errors.foreign import OTHER_FILE
from ..quantization import expand_weight, format_of

# Weights are looked at when a network is filled: all of them up to this many bytes, else only the small ones, such as
# norms, tables, biases and scales. The large ones of a transformer or of Gemma lie mapped in their file and are read
# once, on their way to where they are used; looking at every number would read forty gigabytes twice. Of each of these
# only some pieces are looked at, 64 kB from its beginning to its end: that finds what a broken download or conversion
# leaves. A single NaN shows in what the network makes, and ``find_broken`` then names it.
_ALL_BYTES, _SMALL_NUMBERS = 2**30, 2**16
_SAMPLES, _SAMPLE = 8, 2**12  # pieces, and numbers in each
_PIECE = 2**24  # numbers that are looked at together
_LONGEST_NAME = 160  # in a sentence

_ORIGINS: WeakKeyDictionary[nn.Module, tuple[str, Callable[[str], str]]] = WeakKeyDictionary()


def load_strict(network: nn.Module, state: dict[str, Tensor], title: str, official: Callable[[str], str]) -> None:
    """Assign ``state`` to ``network`` if it has exactly the tensors that are wanted.

    Args:
        network: Usually on the meta device; its tensors become those of ``state``, which are not copied.
        state: Tensors by our names.
        title: Begins the sentence of an error, such as "The transformer in x.safetensors".
        official: Gives the name of a tensor in the file.

    Raises:
        CheckpointError: Tensors are missing, unknown or of the wrong shape, or numbers in them are NaN or infinite.
    """
    official = partial(_official_or_ours, official)
    owners = _owners(network)
    wanted = {name: table[leaf] for name, (table, leaf) in owners.items()}
    _check_shapes(wanted, {name: tuple(tensor.shape) for name, tensor in state.items()}, title, official)
    numbers = {name: tensor for name, tensor in state.items() if wanted[name].is_floating_point()}
    _check_weights(numbers, title, official)
    _assign(owners, state)
    _ORIGINS[network] = title, official


def assign_tensors(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Let the tensors of ``network`` be those of ``state``, which are not copied; names that it lacks are left out.

    That is ``network.load_state_dict(state, strict=False, assign=True)`` in a tenth of the time, without gradients.
    """
    _assign(_owners(network), state)


_Table = dict[str, Tensor]  # the parameters, or the buffers, of one module


def _owners(network: nn.Module) -> dict[str, tuple[_Table, str]]:
    """Return where each tensor of ``network.state_dict()`` stands: in which table of its module, and its name there."""
    owners: dict[str, tuple[_Table, str]] = {}
    for name, module in network.named_modules(remove_duplicate=False):
        passing = module._non_persistent_buffers_set
        for table in (module._parameters, module._buffers):
            for leaf, tensor in table.items():
                if tensor is not None and leaf not in passing:
                    owners[f"{name}.{leaf}" if name else leaf] = table, leaf
    return owners


def _assign(owners: Mapping[str, tuple[_Table, str]], state: Mapping[str, Tensor]) -> None:
    for name, tensor in state.items():
        if name in owners:
            table, leaf = owners[name]
            is_parameter = isinstance(table[leaf], nn.Parameter)
            table[leaf] = nn.Parameter(tensor, requires_grad=False) if is_parameter else tensor


def check_shapes(
    network: nn.Module, shapes: Mapping[str, tuple[int, ...]], title: str, official: Callable[[str], str]
) -> None:
    """Raise CheckpointError if ``shapes``, by our names, are not those of the tensors of ``network``."""
    wanted = {name: table[leaf] for name, (table, leaf) in _owners(network).items()}
    _check_shapes(wanted, shapes, title, partial(_official_or_ours, official))


def _check_shapes(
    wanted: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], title: str, official: Callable[[str], str]
) -> None:
    _refuse(title, "lacks", [official(name) for name in wanted.keys() - shapes.keys()])
    _refuse(title, "has unknown", [official(name) for name in shapes.keys() - wanted.keys()])
    wrong = [
        f"{official(name)} is {shapes[name]} and should be {tuple(value.shape)}"
        for name, value in wanted.items()
        if shapes[name] != tuple(value.shape)
    ]
    _refuse(title, "has wrongly shaped", wrong)


def _refuse(title: str, verb: str, names: list[str]) -> None:
    if names:
        raise CheckpointError(f"{title} {verb} tensors: {shorten_list(sorted(names))}. {OTHER_FILE}")


def _official_or_ours(official: Callable[[str], str], name: str) -> str:
    """What a file calls our ``name``; a wrong config can ask for tensors that no file of this kind has."""
    try:
        return official(name)
    except KeyError:
        return name


def _check_weights(state: dict[str, Tensor], title: str, official: Callable[[str], str]) -> None:
    if sum(tensor.nbytes for tensor in state.values()) <= _ALL_BYTES:
        looked_at: Iterable[tuple[str, Tensor]] = state.items()
    else:
        looked_at = _samples(state)
    try:
        for name, tensor in looked_at:

            def subject(name: str = name) -> str:
                return f"{title} has {official(name)}, which"

            check_numbers(tensor, subject)
    except OSError as error:
        raise CheckpointError(f"{title} cannot be read: {error}") from error


def _samples(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield small tensors as they are, and of others pieces that are spread from beginning to end.

    Those of a mapped file are read without the mapping: whoever touches that makes the system read far around it.
    Raises OSError where a file cannot be read.
    """
    files = mapped_files()
    with read_parts() as read:
        for name, tensor in state.items():
            count = 1 if tensor.numel() <= _SMALL_NUMBERS else _SAMPLES
            size = tensor.numel() if count == 1 else _SAMPLE
            step = (tensor.numel() - size) // max(1, count - 1)
            first = tensor.numel() - size - step * (count - 1)
            there = tensor.reshape(-1)[first:].as_strided((count, size), (step, 1))
            if (part := file_part(tensor, files)) is not None:
                read_pieces = torch.empty(count, size * tensor.itemsize, dtype=torch.uint8, device="cpu")
                starts = ((first + number * step) * tensor.itemsize for number in range(count))
                if all(read(part.behind(start), piece) for start, piece in zip(starts, read_pieces)):
                    there = read_pieces.view(tensor.dtype)
            yield name, there


def check_numbers(tensor: Tensor, subject: Callable[[], str]) -> None:
    """Raise CheckpointError, which ``subject()`` begins, if ``tensor`` holds anything but finite decimal numbers."""
    check_decimal(tensor, subject)
    if not _is_finite(tensor):
        raise CheckpointError(f"{subject()} {_BROKEN}")


def check_decimal(tensor: Tensor, subject: Callable[[], str]) -> None:
    """Raise CheckpointError, which ``subject()`` begins, if ``tensor`` is not of decimal numbers; none is read."""
    if not tensor.is_floating_point():
        stored = str(tensor.dtype).removeprefix("torch.")
        raise CheckpointError(
            f"{subject()} is stored as {stored}; decimal numbers were expected. Download the file again."
        )


def find_broken(networks: Iterable[nn.Module]) -> str:
    """Look at every weight of ``networks``; return a sentence about the first that is no number, empty if all are."""
    for network in networks:
        title, official = _ORIGINS.get(network, ("A network", str))
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point() and not _is_finite(tensor):
                return f"{title} has {official(name)}, which {_BROKEN}"
        for name, module in network.named_modules():
            packed = format_of(module) is not None and not module.get_parameter("weight").is_floating_point()
            if packed and not _is_finite(expand_weight(module, torch.float32)):
                return f"{title} has {official(f'{name}.weight')}, which {_BROKEN}"
    return ""


_BROKEN = "holds NaN or infinite numbers; the file is damaged, download it again."


def _is_finite(tensor: Tensor) -> bool:
    if tensor.is_meta:
        return True
    pieces = tensor.reshape(-1).split(_PIECE) if tensor.numel() > _PIECE else (tensor,)
    # torch cannot tell of one byte; every float8 is a bfloat16.
    return all(holds_numbers(each.bfloat16() if each.itemsize == 1 else each) for each in pieces)


def shorten_list(names: Collection[str]) -> str:
    """Return the first three names, and how many more there are, in one line of bearable length.

    Names of a file may be as long as it likes, and hold ends of lines, behind which they would look like our words.
    """
    first = [name.replace("\n", UNSEEN) for name in list(names)[:3]]
    shown = ", ".join(name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}..." for name in first)
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
