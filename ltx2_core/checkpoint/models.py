"""The files a user has chosen, seen as one model: its version, its components, and what is missing."""

import logging
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from os.path import isdir  # which is no error for a path that cannot be
from pathlib import Path
from typing import Any, cast
from weakref import WeakKeyDictionary

from ..errors import CheckpointError, counted, first_line
from ..errors.files import as_path
from ..errors.foreign import Fields
from ..errors.kinds import check_kind
from ..quantization import check_library, is_file_marker
from ..transformer.config import layers_of
from .components import COMPONENTS, ComponentNetwork, Variant, is_claimed
from .contents import LORA_FILE, LTX_PART, describe_contents
from .diffusers import overlay, stated_sections
from .duration_head import DurationHeadFile, is_duration_head
from .files import TensorFile, called, check_there, named_errors
from .folders import FULL, GEMMA, TRANSFORMER, open_files, shards_of
from .keys.gemma import PROJECTION
from .loading import shorten_list
from .stored import StoredNetwork
from .text_encoder import find_kind
from .unfilled import outline_network, uncollected
from .versions import VERSIONS, known_config, possible_versions, stated_version

_EXAMPLE = "ltx-2-19b-dev.safetensors"
_NAMED_OTHERWISE = "is of the LTX family, under names or of a generation that are not known here: take an official file"

MINIATURE = Path(__file__).parent.parent / "mini"
BUILT_IN, BUILT_IN_GEMMA = MINIATURE / "ltx2-mini.safetensors", MINIATURE / "gemma-mini"

VIDEO_VAE = ("video_encoder", "video_decoder")
AUDIO_VAE = ("audio_encoder", "audio_decoder", "vocoder")
_WITH_TRANSFORMER = "text_projection"  # the input for what usually lies in the transformer's file

# Which component's file decides about a section of the config.
_SECTIONS = {
    "transformer": ("transformer",),
    "vae": ("video_decoder", "video_encoder"),
    "audio_vae": ("audio_decoder", "audio_encoder"),
    "vocoder": ("vocoder",),
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source(StoredNetwork):
    """Where the tensors of one component lie."""

    file: TensorFile
    names: dict[str, str]
    variant: Variant  # which architecture of the component they fill


class Models:
    """What a set of files holds; headers only, no weights are read."""

    described = "what open_models returns"  # in a sentence about what is none

    def __init__(
        self,
        files: Sequence[TensorFile],
        text_encoder: Path | None = None,
        chosen: Sequence[tuple[TensorFile, tuple[str, ...]]] = (),
        distilled: bool | None = None,
    ):
        """Find the components in ``files``.

        Args:
            files: Of a component that several of them hold, that of the first counts; the log says so.
            text_encoder: Gemma.
            chosen: Files for some components alone, which count before ``files`` do.
            distilled: Whether this is a distilled model; None for what the names of file and folder say.

        Raises:
            CheckpointError: The files are not of one version, hold nothing of LTX-2, or one of them is something else.
        """
        every = tuple(dict.fromkeys((*files, *(file for file, _ in chosen))))
        self.files, self.duration_head = _without_head(every)
        self.text_encoder, self._distilled = text_encoder, distilled
        self._unknown: dict[TensorFile, list[str]] = {}
        for file in self.files:
            self._refuse_foreign(file)
        self.version = _one_version(every)
        self.sources: dict[str, Source] = {}
        for file, wanted in chosen:
            own = {name: source for name, source in sources_in(file) if name in wanted}
            if not own:
                raise CheckpointError(_without(file, wanted))
            self.sources = own | self.sources
        left_out: dict[str, list[str]] = {}
        for file in self.files:
            for name, source in sources_in(file):
                if self.sources.setdefault(name, source).file is not file:
                    left_out.setdefault(_name(file), []).append(name)
        if not self.sources:
            raise CheckpointError(
                f"{self._file_names} holds nothing of LTX-2; choose an LTX-2 checkpoint such as {_EXAMPLE}."
            )
        self._log_choice(left_out)

    def __str__(self) -> str:
        """Return what the model is, and its files."""
        return f"{self.kind} ({self._file_names})"

    def _refuse_foreign(self, file: TensorFile) -> None:
        """CheckpointError for a file most of whose tensors belong to no component, and are not a text encoder's."""
        unknown = self.unknown(file)
        what = describe_contents(unknown)
        if 2 * len(unknown) <= len(file.entries) or not unknown:
            return
        if what in (None, LTX_PART, LORA_FILE) and _is_stored_otherwise(file, unknown):
            return
        possible_versions(file.official_shapes)  # which has a better sentence for other models
        if what is None and len(self.files) == 1 and len(unknown) == len(file.entries):
            return  # which ``_one_version`` tells
        raise CheckpointError(
            f"{_name(file)} {_NAMED_OTHERWISE if what == LTX_PART else what or 'holds nothing of LTX-2 that we know'}. "
            f"As a part of the model it has {len(unknown):,} of {counted(len(file.entries), 'tensor')} that belong "
            f"nowhere, such as {shorten_list(sorted(unknown)[:1])}; leave it out here."
        )

    def _log_choice(self, left_out: dict[str, list[str]]) -> None:
        """Log what the model is taken for, and which file every component is from, if there are several files."""
        if "transformer" in self.sources and not self.is_miniature:
            _log.info("Taken as %s, as %s.", self.kind, "its name says" if self._distilled is None else "was asked")
        if len(self.files) < 2:
            return
        by_file: dict[str, list[str]] = {}
        for name, source in self.sources.items():
            by_file.setdefault(_name(source.file), []).append(name.replace("_", " "))
        _log.info("From %s", "; from ".join(f"{file}: {', '.join(names)}" for file, names in by_file.items()))
        for file, names in left_out.items():
            rest = ", ".join(f"{name.replace('_', ' ')} ({_name(self.sources[name].file)} counts)" for name in names)
            _log.warning("%s also holds what is not used: %s.", file, rest)
        for each in self.files:
            if _name(each) not in by_file:
                _log.warning("Nothing of %s is used: leave it out, or give it first.", _name(each))

    @cached_property
    def config(self) -> dict[str, Any]:
        """The sections of the files' own configs; what is missing there is taken from the known releases."""
        transformer = self.sources.get("transformer")
        config = known_config(self.version, {} if transformer is None else transformer.file.official_shapes)
        for file in reversed(self.files):
            config |= {section: value for section, value in file.config.items() if value}
            for section in config.keys() & file.config.keys() & VERSIONS[self.version].config.keys():
                Fields.of(file.config[section], f"The config section {section} in {_name(file)}")
        for section, components in _SECTIONS.items():
            source = next((self.sources[name] for name in components if name in self.sources), None)
            if source is not None and (stated := source.file.config.get(section)):
                config[section] = stated
        return reduce(overlay, map(stated_sections, self._used_files), config)

    @property
    def _used_files(self) -> list[TensorFile]:
        """The files that components are taken from, each once."""
        return list(dict.fromkeys(source.file for source in self.sources.values()))

    def network(self, name: str) -> ComponentNetwork:
        """Make the network (nn.Module) of component ``name`` without weights, on the meta device.

        Raises CheckpointError if no file holds it, if its config describes nothing that can be made, or if the headers
        show that tensors are missing, unknown, stored otherwise, or of other shapes.
        """
        source = self.source(name)
        title = f"The {name.replace('_', ' ')} in {_name(source.file)}"
        if (stated := source.file.config) and stated.keys().isdisjoint(_SECTIONS):
            title += f", whose config has none of {', '.join(_SECTIONS)}, only {shorten_list(stated)},"
        self._refuse_unknown(source, title)
        file, config = _name(source.file) if source.file.config else self._file_names, self.config
        shapes = source.shapes

        def make() -> ComponentNetwork:
            with named_errors(file):
                return source.variant.build(config, shapes)

        try:
            return outline_network(make, source, title, source.variant.keys.official)
        except CheckpointError:
            raise
        except (ValueError, RuntimeError) as error:  # as torch refuses sizes that do not go together
            raise CheckpointError(
                f"{file}: its config describes no {name.replace('_', ' ')} that can be made ({first_line(error)}); "
                "take the original file, or restore its config."
            ) from error

    def _refuse_unknown(self, source: Source, title: str) -> None:
        """CheckpointError if the file has tensors under a component's prefix that no component knows."""
        names = source.file.official_names
        prefix = source.variant.prefix_in(names)
        is_bare = not all(name == key for name, key in names.items())  # then all of the file is one component's
        others = self.unknown(source.file)
        beside = {*source.variant.keys.possible(others, prefix or "")}  # where nothing stands before its names
        unknown = [key for key in others if is_bare or key in beside or (prefix and key.startswith(prefix))]
        if not unknown:
            return
        with named_errors(_name(source.file)):
            source.file.check_unknown(unknown)
        raise CheckpointError(
            f"{title} has unknown tensors: {shorten_list(sorted(unknown))}. Choose an official LTX-2 file."
        )

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
        """True if this is a distilled model, as asked, else as the names of the transformer's file and folders say."""
        source = self.sources.get("transformer")
        if self._distilled is not None or source is None:
            return bool(self._distilled)
        path = source.file.path
        names = (path.name, path.parent.name, path.parent.parent.name)
        return next((said for name in names if (said := says_distilled(name)) is not None), _has_full_beside(path))

    @property
    def layers(self) -> int:
        """How many blocks the transformer has."""
        return layers_of(self.config["transformer"])

    @property
    def width(self) -> int:
        """How many channels the transformer's video tokens have; 0 without a transformer."""
        source = self.sources.get("transformer")
        key = None if source is None else source.names.get("video.project_in.bias")
        return 0 if source is None or key is None else source.file.shape(key)[0]

    @property
    def is_miniature(self) -> bool:
        """True if these are the files that come with the package."""
        return any(file.path.parent == MINIATURE for file in self.files)

    @property
    def generation(self) -> str:
        """What its latents and prompts are of: its version, or "miniature", which has latents of its own."""
        return "miniature" if self.is_miniature else self.version

    @property
    def image_crf(self) -> int:
        """The H.264 quality (CRF) that given pictures have when they are encoded: that of the version which the file of
        the video encoder states, as officially; of a repacked one that states none, that of the model."""
        source = self.sources.get("video_encoder")
        stated = None if source is None else stated_version(source.file.metadata)
        return VERSIONS[stated or self.version].image_crf

    @property
    def kind(self) -> str:
        """The version and whether it is the miniature, a distilled or a dev model, such as "LTX-2.3 dev"."""
        word = "miniature" if self.is_miniature else "distilled" if self.distilled else "dev"
        return f"LTX-{self.version} {word}"

    def kind_of(self, hq: bool) -> str:
        """Return ``kind``, with "hq" behind it for the recipe of few, precise steps."""
        return f"{self.kind} hq" if hq else self.kind

    def source(self, name: str) -> Source:
        """Return where component ``name`` lies. Raises CheckpointError if none of the files holds it."""
        if name not in self.sources:
            with_transformer = _input_for(name) == _WITH_TRANSFORMER and "transformer" not in self.sources
            lacking = "transformer" if with_transformer else name
            have = "has" if len(self.files) == 1 else "have"
            raise CheckpointError(
                f"{self._file_names} {have} no {lacking.replace('_', ' ')}; choose the file that holds it as "
                f"{_input_for(lacking)} in LTX-2 Load Model, or give it as a further file of --checkpoint; or choose "
                f"the full LTX-{self.version} checkpoint."
            )
        return self.sources[name]

    @property
    def _file_names(self) -> str:
        return ", ".join(map(_name, self.files))

    def unknown(self, file: TensorFile) -> list[str]:
        """List the keys of ``file`` that no component knows; a text encoder that is packed with its projection is no
        component, and known all the same."""
        if file not in self._unknown:
            self._unknown[file] = _unknown_keys(file)
        return self._unknown[file]


@uncollected()
def open_models(
    checkpoint: str | Path | Sequence[str | Path],
    text_encoder: str | Path | None = None,
    video_vae: str | Path | None = None,
    audio_vae: str | Path | None = None,
    distilled: bool | None = None,
) -> Models:
    """Look at the files of a model; only headers are read.

    Args:
        checkpoint: An official single file, a GGUF file, one file of a model that is cut into several, a list of split
            files in any order, the text encoder among them, a folder as diffusers has it, or "miniature" for the one
            that comes with the package. Where two files hold one component, that of the first counts.
        text_encoder: A Gemma folder, safetensors or GGUF file; that of a folder of diffusers is found there. The text
            projection that is packed with it is taken where the checkpoint has none.
        video_vae: A file whose video VAE counts before that of the checkpoint.
        audio_vae: A file whose audio VAE and vocoder count before those of the checkpoint.
        distilled: Whether this is a distilled model; None for what the names of file and folder say.

    Raises:
        MissingFileError: A file is not there.
        CheckpointError: A file is not what it has to be.
        SettingError: Something is no path, or ``distilled`` is neither of its values.
    """
    check_kind("distilled", distilled, bool | None)
    if isinstance(checkpoint, str) and checkpoint == "miniature":
        checkpoint, text_encoder = BUILT_IN, BUILT_IN_GEMMA if text_encoder is None else text_encoder
    is_list = isinstance(checkpoint, list | tuple | set | frozenset) and len(checkpoint) > 0
    several = cast(Collection[object], checkpoint) if is_list else [checkpoint]
    paths = [as_path(each, "The checkpoint") for each in several]
    own = [("video_vae", video_vae, VIDEO_VAE), ("audio_vae", audio_vae, AUDIO_VAE)]
    given = [(as_path(path, name), names) for name, path, names in own if path is not None]
    chosen = [(file, names) for path, names in given for file in _open_all([path])]
    files = _open_all(paths)
    encoder = _encoder(paths, files, text_encoder)
    return Models(_parts(files, encoder), encoder, chosen, distilled)


def _input_for(name: str) -> str:
    """The input of LTX-2 Load Model at which the file with a component is chosen."""
    inputs = {"checkpoint": ("transformer",), "video_vae": VIDEO_VAE, "audio_vae": AUDIO_VAE}
    return next((widget for widget, held in inputs.items() if name in held), _WITH_TRANSFORMER)


def _parts(files: Sequence[TensorFile], encoder: Path | None) -> Sequence[TensorFile]:
    """The files without text encoders among them, but with one that is packed with the projection that they lack."""
    parts = [file for file in files if not is_encoder_alone(file)]
    if parts and encoder is not None and not any(map(_has_projection, parts)):
        parts += [file for file in open_files(encoder) if _has_projection(file)]
    return parts or files


def is_encoder_alone(file: TensorFile) -> bool:
    """Return whether a file is a text encoder, with its projection at most, and no part of a whole model."""
    return find_kind(file.entries) is not None and all(name == "text_features" for name, _ in sources_in(file))


def _without_head(files: tuple[TensorFile, ...]) -> tuple[tuple[TensorFile, ...], DurationHeadFile | None]:
    """The files of the networks, and the duration head among them, which is none of the model's own."""
    heads = [file for file in files if is_duration_head(file.official_names)]
    for other in heads[1:]:
        _log.warning("%s is not used: of several duration heads %s counts.", _name(other), _name(heads[0]))
    rest = tuple(file for file in files if file not in heads)
    return rest or files, DurationHeadFile(heads[0]) if heads else None


def _encoder(paths: Sequence[Path], files: Sequence[TensorFile], text_encoder: str | Path | None) -> Path | None:
    """Gemma as it was given, else the one among the files, else that of a folder of diffusers."""
    if text_encoder is not None:
        check_there(path := as_path(text_encoder, "text_encoder"))
        return path
    among = [file.path for file in files if find_kind(file.entries) is not None]
    return next(iter([*among, *(path for each in paths if (path := each / GEMMA).is_dir())]), None)


def _unknown_keys(file: TensorFile) -> list[str]:
    held = dict(sources_in(file))
    used = {key for source in held.values() for key in source.names.values()}
    others = ((name, key) for name, key in file.official_names.items() if key not in used)
    unclaimed = {key: name for name, key in others if not is_claimed(name) and not is_file_marker(key)}
    encoder = find_kind(file.entries) if held else None  # one that is alone is no part of a model
    if encoder is None:
        return [*unclaimed]

    def is_encoders(key: str) -> bool:
        kind, prefix = encoder
        return kind.claims(key, prefix) and not unclaimed[key].startswith(PROJECTION)  # which is beside it

    return [key for key in unclaimed if not is_encoders(key)]


def _has_projection(file: TensorFile) -> bool:
    return COMPONENTS["text_features"].find(file.official_names) is not None


def says_distilled(name: str) -> bool | None:
    """Whether a name is that of a distilled model; None if it says neither that nor that it is a dev model."""
    name = name.lower()
    if re.search(r"(?<![a-z])(?:not|non|no|un|pre)[-_. ]*distil", name):
        return False
    if re.search(r"distil|turbo|lightning", name):
        return True
    return False if re.search(r"(?<![a-z])dev(?![a-z])", name) else None


def _has_full_beside(path: Path) -> bool:
    """Whether a transformer lies in a folder of diffusers that has the dev model, too, by the name ``FULL``."""
    folder = path if path.is_dir() else path.parent
    return folder.name == TRANSFORMER and (folder.parent / FULL).is_dir()


def _open_all(paths: Sequence[Path]) -> list[TensorFile]:
    """The files of ``paths``, those of one model that is cut into several once, whichever of them are named."""
    once = dict.fromkeys(path if isdir(path) else shards_of(path)[0] for path in paths)
    return [file for path in once for file in open_files(path)]


# Of each open file, the components that it holds: its header does not change.
_HELD: WeakKeyDictionary[TensorFile, dict[str, tuple[Variant, dict[str, str]]]] = WeakKeyDictionary()


def sources_in(file: TensorFile) -> Iterator[tuple[str, Source]]:
    """Yield the components that ``file`` holds, by name."""
    if file not in _HELD:
        found = {name: component.find(file.official_names) for name, component in COMPONENTS.items()}
        _HELD[file] = {name: each for name, each in found.items() if each is not None}
    for name, (variant, names) in _HELD[file].items():
        yield name, Source(file, {ours: file.official_names[key] for ours, key in names.items()}, variant)


def _is_stored_otherwise(file: TensorFile, unknown: Sequence[str]) -> bool:
    """Whether tensors are unknown because of a format that we do not read, which has a sentence of its own."""
    try:
        file.check_unknown(unknown)
    except CheckpointError:
        return True
    return False


def _without(file: TensorFile, wanted: Sequence[str]) -> str:
    """The sentence for a file that holds none of the components that it was chosen for."""
    held = ", ".join(name.replace("_", " ") for name, _ in sources_in(file)) or "nothing of LTX-2"
    expected = " or ".join(name.replace("_", " ") for name in wanted)
    return f"{_name(file)} has no {expected}, which it was chosen for; it holds {held}: choose another file."


def _name(file: TensorFile) -> str:
    return called(file.path)


def _one_version(files: Sequence[TensorFile]) -> str:
    """The version that all files agree on; of several that they may be of, the first."""
    possible = {_name(file): versions for file in files if (versions := versions_of(file))}
    if not possible:
        for file in files:
            with named_errors(_name(file)):
                check_library(file.entries)
        names = ", ".join(map(_name, files))
        raise CheckpointError(
            f"{names} does not look like LTX-2: neither its header nor its tensors name a version; choose an LTX-2 "
            f"checkpoint such as {_EXAMPLE}."
        )
    common = _in_all(possible.values()) or _in_all(filter(None, map(_versions_with, files)))
    if not common:
        parts = ", ".join(f"{name} is LTX-{' or '.join(versions)}" for name, versions in possible.items())
        raise CheckpointError(f"These files do not belong together: {parts}; choose files of one version.")
    return common[0]


def _in_all(possible: Iterable[Collection[str]]) -> list[str]:
    each_in = [*possible]
    return [version for version in VERSIONS if all(version in versions for versions in each_in)]


def _versions_with(file: TensorFile) -> tuple[str, ...]:
    """The versions of the models that a file may be used in: for a video VAE alone all that have its latents."""
    versions, held = versions_of(file), {name for name, _ in sources_in(file)}
    if not held or not held <= {*VIDEO_VAE}:
        return versions
    latents = {VERSIONS[version].latents for version in versions}
    return tuple(name for name, version in VERSIONS.items() if version.latents in latents)


def versions_of(file: TensorFile) -> tuple[str, ...]:
    """Return the version that a file states, else those that its tensors may be of; () if nothing tells.

    Raises CheckpointError for a version that this pack does not run, or that the tensors are not of.
    """
    with named_errors(_name(file)):
        stated, possible = stated_version(file.metadata), possible_versions(file.official_shapes)
    if stated and possible and stated not in possible:
        raise CheckpointError(
            f"{_name(file)} says it is LTX-{stated}, but its tensors are those of LTX-{' or '.join(possible)}; "
            "download it again."
        )
    return (stated,) if stated else possible
