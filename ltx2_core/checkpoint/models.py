"""The files a user has chosen, seen as one model: its version, its components, and what is missing."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PureWindowsPath
from typing import Any

import torch

from ..errors import CheckpointError, SettingError
from ..errors.foreign import Fields
from ..quantization import check_stored, is_file_marker
from ..transformer.config import layers_of
from .components import COMPONENTS, ComponentNetwork, Variant
from .files import TensorFile
from .loading import check_shapes
from .versions import VERSIONS, known_config, version_of, version_of_tensors

_EXAMPLE = "ltx-2-19b-dev.safetensors"

MINIATURE = Path(__file__).parent.parent / "mini"


@dataclass(frozen=True)
class Source:
    """Where the tensors of one component lie."""

    file: TensorFile
    names: dict[str, str]  # our name: the file's key
    variant: Variant  # which architecture of the component they fill

    @property
    def nbytes(self) -> int:
        """Bytes of the component's tensors in the file."""
        return sum(self.file.entries[key].nbytes for key in self.names.values())

    @property
    def parameters(self) -> int:
        """How many numbers the component's tensors hold."""
        return sum(self.file.entries[key].parameters for key in self.names.values())


class Models:
    """What a set of files holds; headers only, no weights are read."""

    def __init__(self, files: Sequence[TensorFile], text_encoder: Path | None = None):
        """Find the components in ``files``; of those that several files hold, the first counts.

        Raises CheckpointError if the files are not of one version, or hold nothing of LTX-2.
        """
        self.files = tuple(files)
        self.text_encoder = text_encoder
        self.version = _one_version(self.files)
        self.sources: dict[str, Source] = {}
        for file in self.files:
            for name, component in COMPONENTS.items():
                if found := component.find(file.entries):
                    variant, names = found
                    self.sources.setdefault(name, Source(file, names, variant))
        if not self.sources:
            raise CheckpointError(
                f"{self._file_names} holds nothing of LTX-2; choose an LTX-2 checkpoint such as {_EXAMPLE}."
            )

    @cached_property
    def config(self) -> dict[str, Any]:
        """The sections of the files' own configs; what is missing there is taken from the known releases."""
        config = known_config(self.version, {key: e.shape for file in self.files for key, e in file.entries.items()})
        for file in reversed(self.files):
            config |= {section: value for section, value in file.config.items() if value}
            for section in config.keys() & file.config.keys() & VERSIONS[self.version].config.keys():
                Fields.of(file.config[section], f"The config section {section} in {file.path.name}")
        return config

    def network(self, name: str) -> ComponentNetwork:
        """Make the network (nn.Module) of component ``name`` without weights, on the meta device.

        Raises CheckpointError if no file holds it, if its config describes nothing that can be made, or if the headers
        show that its tensors are stored otherwise, or have other shapes.
        """
        source = self.source(name)
        dtypes = {key: source.file.dtype(key) for key in source.names.values()}
        title = f"The {name.replace('_', ' ')} in {source.file.path.name}"
        file = source.file.path.name if source.file.config else self._file_names
        shapes = {ours: source.file.shape(key) for ours, key in source.names.items()}
        try:
            check_stored(dtypes)
            with torch.device("meta"):
                network = source.variant.build(self.config, shapes)
        except CheckpointError as error:
            raise CheckpointError(f"{file}: {error}") from None
        except (ValueError, RuntimeError) as error:  # as torch refuses sizes that do not go together
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CheckpointError(
                f"{file}: its config describes no {name.replace('_', ' ')} that can be made ({reason}); take the "
                "original file, or restore its config."
            ) from error
        check_shapes(network, shapes, title, source.variant.official)
        return network

    @property
    def components(self) -> dict[str, bool]:
        """Every component by name, and whether the files hold it; ``text_encoder`` is Gemma."""
        return {name: name in self.sources for name in COMPONENTS} | {"text_encoder": self.text_encoder is not None}

    @property
    def missing(self) -> list[str]:
        """The components that the files do not hold."""
        return [name for name, present in self.components.items() if not present]

    @property
    def distilled(self) -> bool:
        """True if this is a distilled model; only the name of the transformer's file tells."""
        source = self.sources.get("transformer")
        return source is not None and "distilled" in source.file.path.name.lower()

    @property
    def layers(self) -> int:
        """How many blocks the transformer has."""
        return layers_of(self.config["transformer"])

    @property
    def is_miniature(self) -> bool:
        """True if these are the files that come with the package."""
        return any(file.path.parent == MINIATURE for file in self.files)

    @property
    def kind(self) -> str:
        """The version and whether it is the miniature, a distilled or a dev model, such as "LTX-2.3 dev"."""
        word = "miniature" if self.is_miniature else "distilled" if self.distilled else "dev"
        return f"LTX-{self.version} {word}"

    def source(self, name: str) -> Source:
        """Return where component ``name`` lies. Raises CheckpointError if none of the files holds it."""
        if name not in self.sources:
            raise CheckpointError(
                f"{self._file_names} has no {name.replace('_', ' ')}; add the file that holds it, or choose the full "
                f"LTX-{self.version} checkpoint."
            )
        return self.sources[name]

    @property
    def _file_names(self) -> str:
        return ", ".join(file.path.name for file in self.files)

    def unknown(self, file: TensorFile) -> list[str]:
        """List the keys of ``file`` that no component knows."""
        unclaimed = [key for key in file.entries if not any(c.claims(key) for c in COMPONENTS.values())]
        return [key for key in unclaimed if not is_file_marker(key)]


def open_models(checkpoint: str | Path | Sequence[str | Path], text_encoder: str | Path | None = None) -> Models:
    """Look at the files of a model; only headers are read.

    ``checkpoint`` is an official single file, a list of split files, or "miniature" for the one that comes with the
    package; ``text_encoder`` is a Gemma 3 folder or safetensors file. Raises MissingFileError or CheckpointError.
    """
    if checkpoint == "miniature":
        checkpoint, text_encoder = MINIATURE / "ltx2-mini.safetensors", text_encoder or MINIATURE / "gemma-mini"
    paths = [checkpoint] if isinstance(checkpoint, (str, Path)) else checkpoint
    return Models([TensorFile(path) for path in paths], None if text_encoder is None else Path(text_encoder))


def _one_version(files: Sequence[TensorFile]) -> str:
    """The version that all files agree on."""
    versions: dict[str, str] = {}  # by file name
    for file in files:
        shapes = {key: entry.shape for key, entry in file.entries.items()}
        try:
            version = version_of(shapes, file.metadata)
            shown = version_of_tensors(shapes)
        except CheckpointError as error:
            raise CheckpointError(f"{file.path.name}: {error}") from None
        if shown and version != shown:
            raise CheckpointError(
                f"{file.path.name} says it is LTX-{version}, but its tensors are those of LTX-{shown}; download it "
                "again."
            )
        if version:
            versions[file.path.name] = version
    if len(set(versions.values())) > 1:
        parts = ", ".join(f"{name} is LTX-{version}" for name, version in versions.items())
        raise CheckpointError(f"These files do not belong together: {parts}; choose files of one version.")
    if not versions:
        names = ", ".join(file.path.name for file in files)
        raise CheckpointError(
            f"{names} does not look like LTX-2: neither its header nor its tensors name a version; choose an LTX-2 "
            f"checkpoint such as {_EXAMPLE}."
        )
    return next(iter(versions.values()))


def check_inside(name: str, *folders: str) -> None:
    """Refuse the name of a model file or folder that lies outside the model folders, wherever a workflow has it from.

    Args:
        name: as the workflow says it, below one of the folders.
        folders: their names, for the sentence.

    Raises:
        SettingError: the name leads out of the folders, or is none.
    """
    path = PureWindowsPath(name) if isinstance(name, str) else None  # knows both kinds of slashes, and drives
    if path is None or path.anchor or path.drive or ".." in path.parts or not name.isprintable():
        raise SettingError(
            f"{name} is no name of a file in {' or '.join(folders)}; only files in these model folders are opened: put "
            "it there under a plain name, and choose it from the list."
        )
