"""Is a value what the hint of its field or argument says? If not, one sentence says what was found and expected."""

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import cache, wraps
from inspect import Parameter, signature
from numbers import Integral, Real
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from . import SettingError

Function = TypeVar("Function", bound=Callable[..., Any])


def check_kinds(value: object, *, unset: bool = True) -> None:
    """Raise SettingError if a field of the dataclass ``value`` is not what its type says; None is if ``unset``."""
    owner: type = type(value)
    for name, hint in _hints(owner).items():
        content = getattr(value, name)
        if not (unset and content is None):
            check_kind(name, content, hint)


def check_kind(name: str, value: object, hint: object) -> None:
    """Raise SettingError if ``value``, which people know by its ``name``, is not of the type ``hint``."""
    if not fits(value, hint):
        raise other_kind(name, value, hint)


def arguments_checked(function: Function) -> Function:
    """Let ``function`` raise SettingError for an argument that is not what its hint says, before it fails within.

    Of keywords of any name, and of protocols, which only say what is asked of a value, nothing is known.
    """
    parameters = signature(function)

    @wraps(function)
    def call(*args: Any, **named: Any) -> Any:
        hints = _hints(function)
        for name, value in parameters.bind(*args, **named).arguments.items():
            if parameters.parameters[name].kind != Parameter.VAR_KEYWORD:
                check_kind(name, value, hints[name])
        return function(*args, **named)

    return cast(Function, call)


@cache
def _hints(owner: Any) -> Mapping[str, Any]:
    return get_type_hints(owner)


_KINDS: dict[Any, str] = {
    bool: "True or False", int: "a whole number", float: "a number", str: "a text", Path: "a path"
}  # fmt: skip


_WIDER: dict[Any, Any] = {int: Integral, float: Real, Path: (str, Path)}


def other_kind(name: str, value: object, hint: object) -> SettingError:
    """Return the error that says what is found in place of a value of the type ``hint``."""
    return SettingError(f"{name} is {str(value)[:50]!r}; it must be {_describe(hint)}.")


def _describe(hint: Any) -> str:
    if get_origin(hint) is tuple and Ellipsis not in get_args(hint):
        return f"a pair of {' and '.join(map(_describe, get_args(hint)))}"
    if get_origin(hint) in (tuple, Collection):
        return f"a list, of which each is {_describe(get_args(hint)[0])}"
    if get_origin(hint) is Callable:
        return "a function"
    if kinds := get_args(hint):
        return " or ".join(_describe(each) for each in kinds if each is not NoneType)
    if described := getattr(hint, "described", ""):
        return str(described)
    article = "an" if hint.__name__[0] in "AEIOU" else "a"
    return _KINDS.get(hint, f"{article} {hint.__name__}")


def fits(value: object, hint: object) -> bool:
    """Return whether ``value`` is of the type ``hint``, as functions and fields are annotated; a path may be a text."""
    if get_origin(hint) in (tuple, Collection):
        return _holds(value, hint)
    if get_origin(hint) is Callable:
        return callable(value)
    if parts := get_args(hint):
        return any(fits(value, each) for each in parts)
    if hint is Any or (getattr(hint, "_is_protocol", False) and not getattr(hint, "_is_runtime_protocol", False)):
        return True
    if isinstance(value, bool):  # which is a number to Python
        return hint is bool
    if isinstance(value, str):  # which encodes, too, as a condition does
        return hint in (str, Path)
    return isinstance(value, cast(type, _WIDER.get(hint, hint)))


def _holds(value: Any, hint: Any) -> bool:
    """Return whether ``value`` is a collection of the type ``hint``, each part of a pair of its own."""
    kind, parts = get_origin(hint), get_args(hint)
    if not isinstance(value, kind) or isinstance(value, str | bytes):
        return False
    if kind is tuple and Ellipsis not in parts:
        return len(value) == len(parts) and all(map(fits, value, parts))
    with suppress(TypeError):  # of a tensor that is one number
        return all(fits(each, parts[0]) for each in value)
    return False
