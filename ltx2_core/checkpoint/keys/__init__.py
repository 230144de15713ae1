"""How a tensor is called in a file and in our modules: one table per network."""

from .table import Keys, same

__all__ = ["Keys", "same"]
