"""All formats in which weights may be stored, and what can be asked of any of them (see README.md, "Formats").

A further format is one file beside this one, with a class derived from ``stored.Format``, and one row of FORMATS.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..errors.foreign import OTHER_FILE
from .embedding import QuantizedEmbedding
from .fp8 import FP8
from .gguf import GGUF
from .int8 import INT8
from .mxfp8 import MXFP8
from .nf4 import NF4
from .nvfp4 import NVFP4
from .stored import MARKERS, Format, QuantizedLinear, Shape, StoredWeight
from .w4a4 import W4A4
from .w4a8 import W4A8

# The first row that a weight without a marker fits is its format.
FORMATS: dict[str, Format] = {format.name: format for format in (FP8, INT8, NVFP4, MXFP8, W4A8, W4A4, NF4, GGUF)}

# Those to which the weights of a transformer can be cast.
CASTS = {name: format for name, format in FORMATS.items() if format.is_cast_to}

# Those in which releases are planned without a file.
PLANNED = {**CASTS, NVFP4.name: NVFP4}

# Those in which files are written, by the words that choose them.
WRITTEN = {word: format for format in FORMATS.values() for word in format.writers}

# By the operation that is called, the rate of a machine that counts.
SCALED_PRODUCTS = {format.operation: format.rate for format in FORMATS.values() if format.operation is not None}

# How libraries spell the names of tensors that take the place of ``<module>.weight``, and how they are called here, so
# that everything that belongs to a weight stands beside it.
_RESPELLED = {
    ".weight._data": ".weight", ".weight._scale": ".quanto_scale",
    "._weight_qdata": ".weight", "._weight_scale": ".torchao_scale",
    "._weight_zero_point": ".torchao_zero_point",
    ".weight.SCB": ".SCB",
    ".weight.absmax": ".weight_absmax", ".weight.nested_absmax": ".weight_nested_absmax",
    ".weight.quant_map": ".weight_quant_map", ".weight.nested_quant_map": ".weight_nested_quant_map",
    ".weight.quant_state.bitsandbytes__nf4": ".weight_quant_state",
    ".weight.quant_state.bitsandbytes__fp4": ".weight_quant_state",
}  # fmt: skip

_FOREIGN_SUFFIXES = {"weight_zeros": "awq_w4a16", "input_global_scale": "nvfp4 whose scales are folded into alpha"}
# How tensors end that other libraries write instead of a weight, in formats that no row reads; the first counts. Quanto
# has a second ``_data`` where it packs two or four numbers into a byte.
_FOREIGN_ENDS = {".weight._data._data": "quanto int4 or int2", ".wscales": "SVDQuant (nunchaku)",
                 ".qweight": "GPTQ or AWQ", ".weight_packed": "compressed-tensors", ".W_q": "HQQ", ".svd_up": "SDNQ",
                 ".zero_point": "SDNQ",
                 **dict.fromkeys((".weight_qdata", "._weight_act_quant_scale", "._weight_act_pre_scale",
                                  "._weight_per_tensor_scale"), "torchao with more than rows and scales")}  # fmt: skip

# What may stand next to ``<module>.weight`` in a quantised file, in all spellings.
SCALE_SUFFIXES = frozenset(
    [
        *(
            suffix
            for format in FORMATS.values()
            for suffix in format.scale_suffixes + format.other_suffixes + format.input_suffixes
        ),
        *_FOREIGN_SUFFIXES,
        *MARKERS,
    ]
)

_MOST_CHECKED = 2**16  # numbers of a scale that are looked at before a network is filled
_DAMAGED = "the file is damaged, download it again"


def find_format(stored: StoredWeight) -> Format | None:
    """Return the format of a weight; None if it is stored plainly.

    Raises CheckpointError if it has a marker that names no row of FORMATS, or one that it does not fit.
    """
    if (named := stored.format_name) is None:
        if stored.weight.itemsize > 1:  # every format has bytes, and plain weights are looked at by the thousand
            return None
        return next((format for format in FORMATS.values() if format.stores(stored)), None)
    format = next((format for format in FORMATS.values() if named in format.markers), None)
    if format is None:
        raise _unreadable(stored.name, named)
    if not format.stores(stored):
        beside = f" beside {', '.join(sorted(stored.companions))}" if stored.companions else " with nothing beside it"
        raise CheckpointError(
            f"{stored.name} is marked as {named}, but is {_dtype_name(stored.weight)} of shape "
            f"{tuple(stored.weight.shape)}{beside}; {_DAMAGED}."
        )
    return format


def format_of(module: nn.Module) -> Format | None:
    """Return the format that the weight of a linear layer or a table is stored in; None if it is not quantised."""
    return module.format if isinstance(module, QuantizedLinear | QuantizedEmbedding) else None


def is_linear(module: nn.Module) -> bool:
    """Return whether ``module`` is a linear layer, quantised or not."""
    return isinstance(module, nn.Linear | QuantizedLinear)


def matrix_shapes(network: nn.Module) -> dict[str, Shape]:
    """Return the shape of every parameter of ``network`` by name; of quantised matrices that of the matrix, (out, in),
    whatever the stored tensor has."""
    shapes: dict[str, Shape] = {}
    for name, module in network.named_modules():  # once for all parameters: each such walk takes its time
        prefix = f"{name}." if name else ""
        shapes |= {prefix + leaf: tuple(each.shape) for leaf, each in module._parameters.items() if each is not None}
        if isinstance(module, QuantizedLinear | QuantizedEmbedding):
            shapes[f"{prefix}weight"] = module.shape
    return shapes


def expand_weight(linear: nn.Module, dtype: torch.dtype) -> Tensor:
    """Return a copy of a linear layer's weight (out, in) in ``dtype``, whatever its format."""
    if isinstance(linear, QuantizedLinear):
        return linear.expand_weight(dtype)
    return linear.get_parameter("weight").to(dtype, copy=True)


def expand_stored(stored: StoredWeight) -> Tensor:
    """Return the numbers that a stored weight stands for, in bfloat16; one that is plain as it is.

    Raises:
        CheckpointError: it is in a format that is no row of FORMATS, or something beside it is damaged.
    """
    if (format := _readable_format(stored)) is None:
        return stored.weight
    shape = format.matrix_shape(stored)
    _check_scales(stored, format, shape)
    return format.dequantize(stored, shape, torch.bfloat16)


def plain_dtype(network: nn.Module) -> torch.dtype:
    """Return the dtype of the parameters that are not quantised: what the network computes in; bfloat16 if all are."""
    plain = (
        parameter.dtype
        for module in network.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if (format_of(module) is None or name == "bias") and parameter.is_floating_point()
    )
    return next(plain, torch.bfloat16)


def split_companion(key: str) -> tuple[str, str]:
    """Return the name of the weight that a tensor belongs to, and the tensor's suffix; for any other its own name, and
    an empty suffix."""
    module, _, suffix = key.rpartition(".")
    return (f"{module}.weight", suffix) if suffix in SCALE_SUFFIXES else (key, "")


def join_companion(weight: str, suffix: str) -> str:
    """Return the name of the tensor with this suffix beside ``weight``; that of the weight for an empty suffix."""
    return f"{weight.removesuffix('weight')}{suffix}" if suffix else weight


def respell(key: str) -> str:
    """Return the name by which a tensor is known here that a library writes in place of a weight, or beside it."""
    end = next((end for end in _RESPELLED if key.endswith(end)), None)
    return key if end is None else key.removesuffix(end) + _RESPELLED[end]


def is_marker(key: str) -> bool:
    """Return whether ``key`` is that of a tensor that says how a weight is stored, and must be read for that."""
    return key.rpartition(".")[2] in MARKERS


def is_file_marker(key: str) -> bool:
    """Return whether ``key`` is that of a tensor that only says something about a file as a whole."""
    return any(format.file_marker and key.endswith(format.file_marker) for format in FORMATS.values())


def stored_weights(tensors: Mapping[str, Tensor], name_in_file: Callable[[str], str] = str) -> dict[str, StoredWeight]:
    """Return every tensor that is no companion of another, with its companions, by name.

    A companion without its weight is left out.

    Args:
        tensors: By name, as in a file; on the meta device those that are not looked at, which markers are.
        name_in_file: Returns what errors call a weight.
    """
    beside: dict[str, dict[str, Tensor]] = {}
    weights: dict[str, StoredWeight] = {}
    for name, tensor in tensors.items():
        weight, suffix = split_companion(name)
        if suffix:
            beside.setdefault(weight, {})[suffix] = tensor
        else:
            weights[name] = StoredWeight(name_in_file(name), tensor)
    for name in beside.keys() & weights.keys():
        marker = next((beside[name][suffix] for suffix in MARKERS if suffix in beside[name]), None)
        companions = {suffix: each for suffix, each in beside[name].items() if suffix not in MARKERS}
        weights[name] = replace(weights[name], companions=companions, marker=marker)
    return weights


def matrix_shape(stored: StoredWeight, expected: Shape | None = None) -> Shape:
    """Return the shape of the matrix that is stored; that of the tensor if its format cannot be read.

    Args:
        stored: The weight.
        expected: What a network has there; where only padding differs, it is what is returned.
    """
    try:
        format = find_format(stored)
        if format is None or format.find_problem(stored):
            return tuple(stored.weight.shape)
        found = format.matrix_shape(stored)
    except CheckpointError:  # which is told when the weight is to be used
        return tuple(stored.weight.shape)
    return expected if expected is not None and found == format.padded(expected) else found


def check_stored(tensors: Mapping[str, Tensor]) -> None:
    """Refuse, from a header alone, weights that no row of FORMATS reads.

    Args:
        tensors: By name, companions included, on the meta device but for markers.

    Raises:
        CheckpointError: Names the first of them and how it is stored.
    """
    for name in tensors:
        _refuse_foreign(name)
    check_library(tensors)
    for stored in stored_weights(tensors).values():
        _readable_format(stored)


def check_library(names: Collection[str]) -> None:
    """Refuse weights that a library has stored in its own way: no tensor has the name that it would have otherwise.

    Args:
        names: Those of tensors.

    Raises:
        CheckpointError: Names the first of them and how it is stored.
    """
    if (found := _of_library(names)) is not None:
        name, end = found
        weight = name.removesuffix(end) + (".weight" if end.startswith((".weight._", "._weight")) else end)
        raise _unreadable(weight, _FOREIGN_ENDS[end])


def is_of_library(names: Collection[str]) -> bool:
    """Return whether a library has stored weights in its own way, low-rank parts of them as those of a LoRA perhaps."""
    return _of_library(names) is not None


def _of_library(names: Collection[str]) -> tuple[str, str] | None:
    """The first tensor that only a library names so, and how it ends."""
    ends = tuple(_FOREIGN_ENDS)
    names = [name for name in names if name.endswith(ends)]  # a file has thousands of others
    return next(((name, end) for end in _FOREIGN_ENDS for name in names if name.endswith(end)), None)


def wants_exact_products(shapes: Mapping[str, Shape]) -> bool:
    """Return whether a file, given the shapes of its tensors, asks that inputs of layers are not rounded."""
    return any(
        format.file_marker and key.endswith(format.file_marker) and format.wants_exact_products(shape)
        for key, shape in shapes.items()
        for format in FORMATS.values()
    )


def use_scaled_products(
    network: nn.Module, devices: Collection[str] | None = None, formats: Collection[str] = FORMATS
) -> None:
    """Let quantised layers multiply in their format where they can, and where that is faster than expanding.

    The price is that inputs are rounded as weights are: a layer in fp8 errs by 3.7 % instead of 2.65 %, one in int8 by
    1.1 % instead of 0.8 %, one in nvfp4 by 13 % instead of 9.5 %. That suits a transformer, where what must be
    fine is not quantised anyway (``kept_names``). A network that runs once for a prompt, Gemma above all, gains no
    time worth it, so a new layer is exact until this is called.

    Args:
        network: with or without weights.
        devices: the types of device; () is never, None those of each format: cards, and for int8 CPUs as well.
        formats: the names of those that may; others are expanded.
    """
    for module in network.modules():
        if isinstance(module, QuantizedLinear) and not module.exact:
            asked = module.format.scaled_on if devices is None else devices
            module.scaled_on = asked if module.format.name in formats else ()


def products_of(network: nn.Module, device: torch.device | None) -> list[str]:
    """Return the names of those formats in ``network`` that a device multiplies in; None is a card that has float8, and
    no library."""
    layers = [module for module in network.modules() if isinstance(module, QuantizedLinear)]
    if device is None:
        return sorted({layer.format.name for layer in layers if layer.format.operation is not None})
    dtype = plain_dtype(network)
    formats = {layer.format for layer in layers if layer.format.is_large_enough(layer.shape, device)}
    asked = (format for format in formats if device.type in format.scaled_on)
    return sorted(format.name for format in asked if format.multiplies(device, dtype))


def scaled_product(matrix: Tensor) -> Callable[[], Tensor] | None:
    """Return the product of a square matrix with itself in the first format that its device multiplies in by default,
    to time it; None if there is none."""
    asked = (format for format in FORMATS.values() if matrix.device.type in format.scaled_on)
    products = (format.scaled_product(matrix) for format in asked)
    return next((product for product in products if product is not None), None)


def install_quantized_layers(
    network: nn.Module,
    state: dict[str, Tensor],
    dtype: torch.dtype | None = None,
    deferred: Collection[torch.dtype] = (),
    name_in_file: Callable[[str], str] = str,
) -> None:
    """Put a quantised layer wherever ``state`` holds a quantised weight for an nn.Linear; changes both arguments.

    Other quantised tensors are expanded, to bfloat16 by default. Afterwards ``state`` is what ``network`` loads.

    Args:
        network: Usually on the meta device, without weights yet.
        state: Tensors by our names; scales and markers stand next to their weights as they do in the file. A missing
            scale is 1 where the format allows it.
        dtype: What everything becomes that is not quantised; None leaves it as stored.
        deferred: What is stored so is left as it is, too, because somebody else converts it when it is used.
        name_in_file: Gives the name of a tensor in the file, for errors.

    Raises:
        CheckpointError: A weight is in a format that is no row of FORMATS, or something beside it is damaged.
    """
    quantized = _take_quantized(state, dtype, deferred, name_in_file)
    if not quantized:
        return
    modules, expected = dict(network.named_modules()), matrix_shapes(network)
    for name, stored, format in quantized:
        module, _, leaf = name.rpartition(".")
        shape = _checked_shape(stored, format, expected.get(name))
        _check_scales(stored, format, shape)
        if leaf == "weight" and (layer := _make_layer(modules.get(module), format, shape, stored)) is not None:
            network.set_submodule(module, layer)
            own = {key: tensor for key, tensor in layer.state_dict().items() if key != "bias"}
            state |= {f"{module}.{suffix}": tensor for suffix, tensor in own.items()}
        else:
            state[name] = format.dequantize(stored, shape, dtype or torch.bfloat16)


def _make_layer(plain: nn.Module | None, format: Format, shape: Shape, stored: StoredWeight) -> nn.Module | None:
    """The layer that takes the place of ``plain`` and keeps its weight as it is stored; None if there is none."""
    if isinstance(plain, nn.Linear):
        return format.make_linear(plain, stored)
    if isinstance(plain, nn.Embedding):
        return QuantizedEmbedding(format, shape, stored)
    return None


def _take_quantized(
    state: dict[str, Tensor],
    dtype: torch.dtype | None,
    deferred: Collection[torch.dtype],
    name_in_file: Callable[[str], str],
) -> list[tuple[str, StoredWeight, Format]]:
    """Return the quantised weights by our names, named as in the file, with their formats; the others become ``dtype``,
    and companions are no longer in ``state`` afterwards."""
    quantized: list[tuple[str, StoredWeight, Format]] = []
    for name, stored in _take_weights(state, name_in_file).items():
        if (format := _readable_format(stored)) is not None:
            quantized.append((name, stored, format))
        elif dtype is not None and stored.weight.dtype not in deferred:
            state[name] = stored.weight.to(dtype)
    return quantized


def _take_weights(state: dict[str, Tensor], name_in_file: Callable[[str], str]) -> dict[str, StoredWeight]:
    """Return what ``state`` holds, by our names; companions are no longer in it afterwards."""
    weights = stored_weights(state, name_in_file)
    for name in [name for name in state if split_companion(name)[1]]:
        _refuse_foreign(name)
        del state[name]
    return weights


def _readable_format(stored: StoredWeight) -> Format | None:
    """The format of a weight, None if it is plain; CheckpointError if it is neither."""
    format = find_format(stored)
    if format is None and (stored.companions or not stored.weight.is_floating_point()):
        scaled = any(suffix in format.scale_suffixes for suffix in stored.companions for format in FORMATS.values())
        if scaled or not stored.weight.is_floating_point():
            kind = _dtype_name(stored.weight)
            raise _unreadable(stored.name, f"{kind} with a scale" if scaled else kind)
    elif format is not None and (problem := format.find_problem(stored)):
        raise _unreadable(stored.name, problem)
    return format


def _checked_shape(stored: StoredWeight, format: Format, expected: Shape | None) -> Shape:
    """The shape of a matrix without padding; CheckpointError if it is not the one that the network has."""
    found = format.matrix_shape(stored)
    if expected is None or found == expected:
        return found
    if found != format.padded(expected):
        raise CheckpointError(f"{stored.name} is {found} and should be {expected}. {OTHER_FILE}")
    return expected


def _check_scales(stored: StoredWeight, format: Format, shape: Shape) -> None:
    """CheckpointError for scales that are no numbers, or that make a matrix zero; padding is not looked at."""
    for suffix in format.scale_suffixes:
        scale = stored.companions.get(suffix)
        if scale is None or scale.is_meta or scale.numel() > _MOST_CHECKED:
            continue
        if (used := format.used_scales(stored, suffix, shape)) is None:
            continue
        numbers = used.float()
        module = stored.name.rpartition(".")[0]
        if not bool(numbers.isfinite().all()):
            raise CheckpointError(f"{module}.{suffix} holds NaN or infinite numbers; {_DAMAGED}.")
        if not bool(numbers.any()):
            raise CheckpointError(f"{module}.{suffix} is zero, so {stored.name} would be; {_DAMAGED}.")


def _refuse_foreign(name: str) -> None:
    """CheckpointError if a tensor is the companion of a weight in a format that is no row of FORMATS."""
    weight, suffix = split_companion(name)
    if suffix in _FOREIGN_SUFFIXES:
        raise _unreadable(weight, _FOREIGN_SUFFIXES[suffix])


def _dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _unreadable(name: str, stored: str) -> CheckpointError:
    *reads, last = (format.reads for format in FORMATS.values())
    return CheckpointError(
        f"{name} is stored as {stored}; this version of the pack reads bf16, fp16, fp32, {', '.join(reads)} and {last}"
        ". Choose a file in one of these formats."
    )
