"""Do these files go together? And which of many is the one that goes with the model?"""

import logging
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Generic, NoReturn, TypeVar

from ..errors import LTX2Error, MissingFileError, SettingError
from ..errors.files import named_path, visible_files
from ..errors.foreign import Fields, parse_json
from ..text import TextEncoder
from .models import BUILT_IN_GEMMA, MINIATURE, Models
from .text_encoder import TextEncoderFiles, open_text_encoder
from .versions import VERSIONS, version_numbers

Opened = TypeVar("Opened")

_SOURCE = "gemma_source_checkpoint"  # in the header of a transformer: which text encoder it was trained with
_NAMES_ENCODER = (2, 4)  # the version from which on headers do

_log = logging.getLogger(__name__)


class ForOurNodes:
    """What only LTX-2 nodes read, though others have sockets that take it; these are told so."""

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            "Only LTX-2 nodes can read what a loader of LTX-2 has opened: for a node of ComfyUI, open the file with "
            "ComfyUI's own loader, such as Load Latent Upscale Model."
        )


class FollowsModel(ForOurNodes, Generic[Opened]):
    """What goes with a model, of several files: opened as soon as the model is known, and kept for it."""

    def __init__(self, open_for: Callable[[Models], Opened]):
        """Remember how to open it."""
        self._open_for = open_for
        self._known: tuple[Models, Opened] | None = None

    def __str__(self) -> str:
        """Return that it is not chosen yet."""
        return "the one that goes with the model"

    def of(self, models: Models) -> Opened:
        """Return it, opened; MissingFileError if there is none that goes with ``models``."""
        if self._known is None or self._known[0] is not models:
            self._known = models, self._open_for(models)
        return self._known[1]


def check_own_part(path: Path, what: str, models: Models) -> None:
    """Refuse a part of the built-in miniature beside a model of one's own.

    Args:
        path: Where the part lies.
        what: What it is, such as "upscaler".
        models: The model that it is used with.

    Raises:
        SettingError: If it is a part of the miniature and the model is not.
    """
    if MINIATURE in path.parents and not models.is_miniature:
        raise SettingError(
            f"The {what} is still that of the built-in miniature ({path.stem}), but the model is {models.kind}: choose "
            f"the {what} that was made for it."
        )


def check_text_encoder(files: TextEncoderFiles, models: Models) -> TextEncoder:
    """Refuse, from headers alone, a text encoder that does not give the hidden states that a model reads.

    Returns:
        The encoder without weights.

    Raises:
        SettingError: It belongs to another model.
        CheckpointError: Its weights are not what they have to be, or in a format that cannot be read.
    """
    check_training(files, models)
    outline, given = files.outline(), files.config
    if "text_features" not in models.sources:
        return outline
    wanted = models.network("text_features").config
    if (given.width, given.layers + 1) == (wanted.width, wanted.states):
        return outline
    if models.is_miniature:
        raise SettingError(
            f"The model is the built-in miniature, but the text encoder is {files.path.name}: choose the miniature for "
            "both, or files of your own for both."
        )
    check_own_part(files.path, f"text encoder ({files.kind.title})", models)
    raise SettingError(
        f"{files.path.name} gives {given.layers + 1} hidden states of width {given.width}, and {models.kind} reads "
        f"{wanted.states} of width {wanted.width}: it belongs to another model. {files.kind.needed}."
    )


def check_training(files: TextEncoderFiles, models: Models) -> None:
    """Refuse a text encoder that was not trained with the model: since 2.4 a transformer names the one that was.

    Args:
        files: The text encoder.
        models: The model; without a transformer nothing is checked.

    Raises:
        SettingError: They name different trainings, only one of them names any, or an older model gets a newer kind.
    """
    if "transformer" not in models.sources:
        return
    metadata = models.source("transformer").file.metadata
    given, needed = files.gemma_version, f"{VERSIONS[models.version].text_encoder} is what it reads"
    if (stated := metadata.get(_SOURCE)) is not None:
        wanted = Fields(parse_json(stated, _SOURCE), _SOURCE).word("gemma_version", "") or None
        if wanted != given:
            raise SettingError(
                f"{models.kind} was trained with the text encoder {wanted or 'of no name'}, and {files.path.name} is "
                f"{given or f'{files.kind.title} as it was published, without that training'}: {needed}."
            )
    elif _is_named_since(metadata, models.version):
        if given is not None:
            raise SettingError(
                f"{files.path.name} is the text encoder {given}, and this {models.kind} file does not say which one it "
                f"was trained with ({_SOURCE} is missing in its header): download the transformer again."
            )
        _log.warning("Neither %s nor the model says whether they were trained together; %s.", files.path.name, needed)
    elif files.kind.title != VERSIONS[models.version].encoder:
        raise SettingError(f"{files.path.name} is {files.kind.title}, which {models.kind} does not read: {needed}.")


def check_latent(generation: str | None, models: Models) -> None:
    """Refuse a latent that models of another generation made, unless both have the same latents.

    Args:
        generation: Of the models that made it (``Models.generation``); None where nothing is known.
        models: The model that is to read it.

    Raises:
        SettingError: Its numbers mean something else to this model.
    """
    if generation is not None and _latents_of(generation) != _latents_of(models.generation):
        raise SettingError(
            f"This latent was made by {_named(generation)}, and the numbers of {_named(models.generation)} mean "
            "something else: choose the model that made it, or decode it with that and encode the frames anew."
        )


def check_prompt(generation: str | None, models: Models) -> None:
    """Raise SettingError for a prompt that was encoded for another generation; arguments as for ``check_latent``."""
    if generation is not None and generation != models.generation:
        raise SettingError(
            f"This prompt was encoded for {_named(generation)}, and the model is {_named(models.generation)}: encode "
            "it for this one, with its text encoder."
        )


def _latents_of(generation: str) -> str:
    return VERSIONS[generation].latents if generation in VERSIONS else generation


def _named(generation: str) -> str:
    return "the built-in miniature" if generation == "miniature" else f"LTX-{generation}"


def _is_named_since(metadata: Mapping[str, str], version: str) -> bool:
    """Whether a transformer is so new that its header should name its text encoder."""
    numbers = version_numbers(metadata) or version_numbers({"model_version": version})
    return numbers is not None and numbers >= _NAMES_ENCODER


def find_text_encoder(models: Models, paths: Sequence[Path]) -> Path:
    """Find the text encoder of a model; that of the miniature is built in, and a folder of diffusers brings its own.

    Args:
        models: The model.
        paths: Files and folders in which it may be, best first.

    Raises:
        MissingFileError: If none of them gives what the model reads; it says what is wrong with the first.
    """
    if models.is_miniature:
        return BUILT_IN_GEMMA
    reasons = []
    for path in [*([] if models.text_encoder is None else [models.text_encoder]), *paths]:
        try:
            check_text_encoder(open_text_encoder(path), models)
        except LTX2Error as error:
            reasons.append(str(error))
        else:
            return path
    found = f"there is none among {len(reasons)} files ({reasons[0]})" if reasons else "there is no file"
    raise MissingFileError(
        f"{models.kind} needs its text encoder, and {found}. Put {VERSIONS[models.version].text_encoder} into "
        "models/text_encoders."
    )


def find_by_name(
    pattern: str, models: Models, folders: Sequence[str], paths: Sequence[Path] | None, missing: str
) -> Path:
    """Find a file that goes with a model by its official name; the newest of several.

    Args:
        pattern: The name in small letters, with * for what differs; those who write it anew put "_" for "-".
        models: The model.
        folders: Where it may lie, seen from the folder of the transformer.
        paths: Files among which it is looked for instead; None for the ones in these folders.
        missing: What to do if there is none, as the end of a sentence.

    Raises:
        MissingFileError: If there is none.
    """
    beside = models.source("transformer").file.path.parent
    place = "the model folders" if paths is not None else str(named_path(beside))
    if paths is None:
        paths = [path for folder in (".", *folders) for path in visible_files(beside / folder, ".safetensors")]
    found = {name: path for path in paths if fnmatch(name := path.name.lower().replace("_", "-"), pattern)}
    if not found:
        raise MissingFileError(f"There is no {pattern} in {place}; {missing}.")
    return found[max(found)]
