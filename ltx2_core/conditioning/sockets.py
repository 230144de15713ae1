"""Is what another node hands over what the socket says? Checked before any work, whoever made it.

Values are those of node graphs: pictures (F, H, W, C) and masks (F, H, W) in 0..1, sound as a mapping of ``waveform``
(B, C, N) and ``sample_rate``, latents as a mapping of ``samples``, prompts as pairs of a tensor and a mapping.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from math import inf
from pathlib import PureWindowsPath
from types import UnionType
from typing import Any, TypeGuard

import torch
from torch import Tensor

from ..errors import SettingError
from ..fields import check_number, check_together, did_you_mean
from .values import NOISE_WEIGHTS, check_values

Kinds = Mapping[str, tuple[type | UnionType, str]]

# What each type is in words, to end "it takes ...".
WORDS = {
    "IMAGE": "pictures (frames, height, width, 3)",
    "MASK": "a mask (frames, height, width)",
    "AUDIO": "sound, such as from Load Audio",
    "VIDEO": "a video, such as from Load Video",
    "LATENT": "a latent, such as from LTX-2 Empty AV Latent",
    "CONDITIONING": "an encoded prompt, such as from LTX-2 Gemma Text Encode",
    "SIGMAS": "noise levels, such as from LTX-2 Schedule",
    "STRING": "text",
    "BOOLEAN": "on or off",
    "INT": "a whole number",
    "FLOAT": "a number",
    "COMBO": "one of its choices",
}


EITHER = {"images", "video"}  # where both are optional, one of them is needed
NOT_ONE = "Connect either images or a video to this node."


def check_inputs(inputs: Iterable[Any], values: dict[str, Any], kinds: Kinds) -> None:
    """Hold ``values`` to what each of ``inputs`` takes, and bring them into its form in place.

    Nothing on an optional input counts as not connected.

    Args:
        inputs: descriptions of inputs with ``id``, ``optional`` and ``get_io_type()``; numbers with limits have ``min``
            and ``max``, choices ``options`` and, of models, ``folders``, texts with a form of their own ``reads``,
            which raises SettingError.
        values: by ``id``, as they are handed over.
        kinds: classes of the values of further types, and where such a value comes from.

    Raises:
        SettingError: the first value that is not what its input takes.
    """
    for each in inputs:
        name, kind = each.id, each.get_io_type()
        if name not in values:
            continue
        if values[name] is None and each.optional:
            del values[name]
        elif values[name] is None:
            raise SettingError(_nothing(name, kind, kinds))
        elif kind in kinds:
            _check_kind(name, values[name], *kinds[kind])
        elif kind in CHECKS:
            values[name] = CHECKS[kind](each, values[name])


def check_written(inputs: Iterable[Any], values: dict[str, Any], kinds: Kinds) -> None:
    """Hold what a graph says before it runs to what each input takes, and what is of one class to what can be together.

    Args:
        inputs: as for ``check_inputs``; those of a setting have it as ``setting``.
        values: likewise; None is what a link will bring, and what belongs together with it is not held together yet.
        kinds: likewise.

    Raises:
        SettingError: likewise, for what cannot be together, and where just one of two is needed.
    """
    inputs = list(inputs)
    _check_either(inputs, values)
    known = {name: value for name, value in values.items() if value is not None}
    check_inputs(inputs, known, kinds)
    values |= known
    for owner in dict.fromkeys(each.setting.owner for each in inputs if hasattr(each, "setting")):
        own = {each.name: values[each.name] for each in fields(owner) if each.init and each.name in values}
        if None not in own.values():
            check_together(owner, own)


def _check_either(inputs: Iterable[Any], values: Mapping[str, Any]) -> None:
    optional = {each.id for each in inputs if each.optional}
    if optional >= EITHER and len(EITHER & values.keys()) != 1:
        raise SettingError(NOT_ONE)


def check_pictures(name: str, value: object) -> Tensor:
    """Return pictures (F, H, W, 3 or more), grey ones with three channels; SettingError for anything else."""
    if not _has_numbers(value) or value.ndim != 4 or not value.is_floating_point():
        raise wrong(name, value, WORDS["IMAGE"])
    if not value.numel():
        raise SettingError(f"{name} holds no picture: its shape is {tuple(value.shape)}. Connect at least one picture.")
    if value.shape[-1] < 3:
        return value[..., :1].expand(*value.shape[:-1], 3)  # grey, with or without transparency
    return value


def _check_kind(name: str, value: object, kind: type | UnionType, source: str) -> None:
    parts = value if isinstance(value, tuple) else ()  # conditions are a tuple, and what is one can be encoded
    if not isinstance(value, kind) or not all(is_dataclass(part) and hasattr(part, "encode") for part in parts):
        raise wrong(name, value, f"what {source} gives")


def _pictures(each: Any, value: object) -> Tensor:
    return check_pictures(each.id, value)


def _mask(each: Any, value: object) -> Tensor:
    if not _has_numbers(value) or (value.ndim not in (2, 3) and not (value.ndim == 4 and value.shape[1] == 1)):
        raise wrong(each.id, value, WORDS["MASK"])
    if not value.numel():
        raise SettingError(f"{each.id} is an empty mask: its shape is {tuple(value.shape)}. Connect one of some size.")
    return value.reshape(-1, *value.shape[-2:]).float()


def _sound(each: Any, value: Any) -> object:
    parts: Any = value if isinstance(value, Mapping) else {}
    waveform, rate = parts.get("waveform"), parts.get("sample_rate")
    if not _has_numbers(waveform) or waveform.ndim != 3 or not waveform.is_floating_point():
        raise wrong(each.id, value if waveform is None else waveform, f"{WORDS['AUDIO']} (clips, channels, samples)")
    if not waveform.numel():
        raise SettingError(f"{each.id} is an empty sound: it lasts 0 s. Connect a sound that lasts.")
    check_number(f"The sample rate of {each.id}", rate, 1, 10_000_000)
    return value if isinstance(rate, int) else {**value, "sample_rate": round(rate)}


def _video(each: Any, value: object) -> object:
    if not callable(getattr(value, "get_components", None)):
        raise wrong(each.id, value, WORDS["VIDEO"])
    return value


def _latent(each: Any, value: Any) -> object:
    samples = value.get("samples") if isinstance(value, Mapping) else None
    if not _streams(samples) or not all(map(_has_numbers, _streams(samples))):
        raise wrong(each.id, value, WORDS["LATENT"])
    mask = value.get("noise_mask")
    if mask is not None and not (_streams(mask) and all(map(_is_noise_mask, _streams(mask)))):
        raise wrong(f"The noise mask of {each.id}", mask, WORDS["MASK"])
    for name, parts, meant in ((each.id, samples, None), (f"The noise mask of {each.id}", mask, NOISE_WEIGHTS)):
        for part in _streams(parts):
            check_values(name, part, meant)
    return value


def _streams(value: Any) -> Sequence[Any]:
    """The tensors of a latent or mask, which may be nested."""
    if not hasattr(value, "is_nested"):
        return ()
    return value.unbind() if value.is_nested else (value,)


def _is_noise_mask(part: object) -> bool:
    return _has_numbers(part) and part.ndim >= 2 and part.numel() > 0


def _conditioning(each: Any, value: object) -> object:
    pairs: Sequence[Any] = value if isinstance(value, Sequence) and value and not isinstance(value, str) else [None]
    for pair in pairs:
        fits = isinstance(pair, Sequence) and len(pair) == 2 and isinstance(pair[1], Mapping)
        if not fits or not _has_numbers(pair[0]) or pair[0].ndim != 3 or not pair[0].numel():
            raise wrong(each.id, value, WORDS["CONDITIONING"])
        check_values(each.id, pair[0])
    return value


def _sigmas(each: Any, value: object) -> Tensor:
    if not _has_numbers(value) or value.ndim != 1:
        raise wrong(each.id, value, WORDS["SIGMAS"])
    return value


def _number(each: Any, value: Any) -> int | float:
    check_number(each.id, value, -inf if each.min is None else each.min, inf if each.max is None else each.max)
    return value if isinstance(value, int) and not isinstance(value, bool) else float(value)


def _whole(each: Any, value: Any) -> int:
    if _number(each, value) != int(value):
        raise SettingError(f"{each.id} is {value:g}; it must be a whole number.")
    return int(value)


def _text(each: Any, value: object) -> str:
    if not isinstance(value, str | int | float):
        raise wrong(each.id, value, WORDS["STRING"])
    if (reads := getattr(each, "reads", None)) is not None:
        reads(str(value))
    return str(value)


def _switch(each: Any, value: object) -> bool:
    if not isinstance(value, bool | int | float):
        raise wrong(each.id, value, WORDS["BOOLEAN"])
    return bool(value)


def _choice(each: Any, value: Any) -> object:
    """Files may be named with the separators of another system; of models, ``folders`` says where they belong."""
    if value in each.options:
        return value
    same = {PureWindowsPath(option): option for option in each.options}
    if not isinstance(value, str) or PureWindowsPath(value) not in same:
        folders = " or ".join(f"models/{folder}" for folder in getattr(each, "folders", ()))
        put = f"put that file into {folders} and press R, or " if folders and "." in str(value) else ""
        hint, what = did_you_mean(str(value), each.options), f"{each.id} is {_short(value)}"
        raise SettingError(f"{what}, which is not in its list; {put}choose one of the list.{hint}")
    return same[PureWindowsPath(value)]


CHECKS: dict[str, Callable[[Any, Any], Any]] = {
    "IMAGE": _pictures, "MASK": _mask, "AUDIO": _sound, "VIDEO": _video, "LATENT": _latent, "SIGMAS": _sigmas,
    "CONDITIONING": _conditioning, "INT": _whole, "FLOAT": _number, "STRING": _text, "BOOLEAN": _switch,
    "COMBO": _choice,
}  # fmt: skip


def wrong(name: str, value: object, expected: str) -> SettingError:
    """Return the error for a ``value`` of the input ``name`` that should be ``expected``."""
    return SettingError(f"{name} is {_short(value)}; it takes {expected}.")


def _nothing(name: str, kind: str, kinds: Kinds) -> str:
    if kind == "AUDIO":
        return f"This video has no sound: nothing came to {name}. Connect a sound, or bypass this node."
    expected = f"what {kinds[kind][1]} gives" if kind in kinds else WORDS.get(kind, kind.lower())
    return f"Nothing came to {name}: what is connected there gave nothing. It takes {expected}."


def _short(value: object) -> str:
    """Say what a value is, in a few words."""
    if isinstance(value, Tensor):
        return f"a tensor of the shape {tuple(value.shape)} and the type {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, str | int | float):
        return repr(value)[:100]
    if isinstance(value, Mapping | Sequence) and not value:
        return "empty"
    return f"something of the type {type(value).__name__}"


def _has_numbers(value: object) -> TypeGuard[Tensor]:
    """Whether it is a tensor with real numbers of its own; one of a mere shape, or a sparse one, has none."""
    return isinstance(value, Tensor) and not (value.is_meta or value.is_complex() or value.layout != torch.strided)
