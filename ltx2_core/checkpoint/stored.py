"""A network as it lies in a file: its tensors by our names."""

from typing import TYPE_CHECKING

from torch import Tensor

from .files import TensorFile


class StoredNetwork:
    """Some of the tensors of a file: those of one network."""

    if TYPE_CHECKING:  # fields in one class, found when they are asked for in another

        @property
        def file(self) -> TensorFile:
            """Where the tensors lie."""

        @property
        def names(self) -> dict[str, str]:
            """Our name of every tensor, and the file's."""

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor by our names, as ``TensorFile.get`` does."""
        return {ours: self.file.get(key) for ours, key in self.names.items()}

    @property
    def outlines(self) -> dict[str, Tensor]:
        """Every tensor by our names, as ``TensorFile.outline`` returns it."""
        return {ours: self.file.outline(key) for ours, key in self.names.items()}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor by our names, as ``TensorFile.shape`` returns it."""
        return {ours: self.file.shape(key) for ours, key in self.names.items()}

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors in the file."""
        return sum(self.file.entries[key].nbytes for key in self.names.values())

    @property
    def formats(self) -> list[str]:
        """How the tensors are stored, with most bytes first."""
        return self.file.formats(self.names.values())

    @property
    def parameters(self) -> int:
        """How many numbers the tensors stand for."""
        return self.file.parameters(self.names.values())
