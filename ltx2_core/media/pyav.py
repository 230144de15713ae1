"""PyAV, which reads and writes media files, imported when the first file comes: all else works without it."""

from typing import Any, TypeAlias

from ..errors import MediaError

Part: TypeAlias = Any  # of PyAV: a class, a function or a module


def __getattr__(name: str) -> Part:
    """Return what PyAV calls ``name``. Raises MediaError if PyAV is not installed."""
    if name.startswith("__"):
        raise AttributeError(name)
    try:
        import av
    except ImportError as error:
        raise MediaError("Media files are read and written by PyAV, which is not installed: pip install av.") from error
    return getattr(av, name)
