"""Latents on disk, with all that the next stage needs to know: a decode that failed costs no more than a decode."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from glob import escape
from pathlib import Path
from uuid import uuid4

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from ..disk_cache import cache_folder, fingerprint
from ..errors import CheckpointError, MissingFileError, UnreadableFileError
from ..errors.atomic import Naming, check_free, write_atomically
from ..errors.files import as_path, named_beside, not_read, plain_path
from ..errors.foreign import Fields, foreign_call, parse_json
from ..geometry import Keyframes, exact_fps
from ..latents import MOST_BYTES, STREAMS, AVLatent, from_parts
from ..sampling import Step

SUFFIX = "av_latent.safetensors"  # ends the names of our files
KIND, VERSION = "ltx2av_latent", "1"  # in the header: what the file is, and how it is laid out
GRAPH = "workflow"  # the tag that ComfyUI looks for in the header of a file that is dropped onto its canvas

Size = tuple[int, int, int]
SeamLines = tuple[Size, tuple[list[int], list[int], list[int]]]  # a size in latents; lines in frames, rows and columns

_STEP = ("latent", "x0", "start")
_LINES = ("frames", "rows", "columns")
_MOST_ITEMS = 4096  # of a list
_LAST = [f"last.{each}.{name}" for each in _STEP for name in STREAMS]
_TENSORS = {*STREAMS, "video_mask", "audio_mask", "keyframes", *_LAST}


@dataclass(frozen=True)
class Take:
    """A latent between two stages, and what is known of it.

    Attributes:
        content: video (B, C, F, H, W), audio (B, C, T, M), either of which may be absent, and generated keyframes.
        fps: frames per second; None if it is not known.
        masks: the noise masks of both streams as they were given, 1 = generate; None for none.
        last: the last step of a sampler that stopped before its end.
        drawn: sizes of the draws of random numbers in the stages before.
        times: how many times the frame rate of the first stage it has.
        seams: its size, and where its tiles meet, if it was refined in tiles.
        tags: texts for people and programs: prompt, settings, versions.
        made_by: the generation of the model that made it (``Models.generation``); None if it is not known.
        shown: width and height in pixels of what is kept of its frames; None for all of them.
    """

    content: AVLatent
    fps: Fraction | None = None
    masks: tuple[Tensor | None, Tensor | None] = (None, None)
    last: Step | None = None
    drawn: tuple[int, ...] = ()
    times: int = 1
    seams: SeamLines | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    made_by: str | None = None
    shown: tuple[int, int] | None = None

    def describe(self) -> str:
        """Return what it is, in one line."""
        streams = self.content.streams()
        what = f"{' and '.join(streams)} latent"
        size = "" if self.content.video is None else f", {self.content.shape(self.fps or Fraction(24)).describe()}"
        cut = "" if self.shown is None else ", of which {} x {} are shown".format(*self.shown)
        stopped = "" if self.last is None else f", stopped at noise level {self.last.sigma:.3g}"
        return f"{what}{size}{cut}{stopped}"


def save_take(path: str | Path, take: Take, *, overwrite: bool = False) -> Path:
    """Write ``take`` as a safetensors file, all of it or nothing; load_take gives it back bit for bit.

    Returns:
        Where it is: where another program has written meanwhile, that stays, and this gets a number behind its name.

    Raises:
        TargetExistsError: There is a file of this name, and nothing says that it may go.
        UnreadableFileError: The disk refuses.
    """
    path = plain_path(path, "The latent")
    if not overwrite:
        check_free(path)
    tensors = {name: x.detach().cpu().contiguous().clone() for name, x in _tensors(take).items()}
    about, tags = json.dumps(_about(take)), json.dumps(dict(take.tags))
    header = {KIND: VERSION, "about": about, "tags": tags, "digest": _digest(about, tags, tensors)}
    if GRAPH in take.tags:
        header[GRAPH] = take.tags[GRAPH]
    naming = Naming(path, overwrite)
    write_atomically(path, save(tensors, header), naming)
    return naming.path


def rescue_take(take: Take, beside: Path) -> Path:
    """Write ``take`` beside the clip that was to be made of it, or where that is refused in the user's cache.

    Returns:
        Where it is, under a new name made from that of the clip.

    Raises:
        UnreadableFileError: The disk refuses both.
    """
    name, cache = f"{_begin_of(beside)}_{uuid4().hex[:6]}_{SUFFIX}", cache_folder("latents")
    try:
        return save_take(beside.with_name(name), take)
    except UnreadableFileError:
        if cache is None:
            raise
        return save_take(cache / name, take)


def rescued_takes(beside: Path) -> Iterator[Path]:
    """Yield the files that ``rescue_take`` may have written for a clip."""
    for folder in filter(None, (beside.parent, cache_folder("latents"))):
        yield from folder.glob(f"{escape(_begin_of(beside))}_??????_{SUFFIX}")


def _begin_of(clip: Path) -> str:
    """The name of a clip without its ending, as much of it as leaves room for that of its latent."""
    end = f"_000000_{SUFFIX}"
    return named_beside(clip, clip.stem, end).name.removesuffix(end)


def load_take(path: str | Path) -> Take:
    """Read what save_take wrote, on the CPU.

    Raises:
        MissingFileError: There is no such file.
        CheckpointError: It is damaged, of another kind, or of another version.
    """
    path = as_path(path, "The latent")
    header, tensors = _read(path)
    about = Fields(parse_json(header["about"], f"What {path.name} says of its latent"), path.name)
    tags = parse_json(header["tags"], f"The settings in {path.name}")
    return Take(
        content=_content(path, tensors, about),
        fps=exact_fps(about.word("fps")) if "fps" in about else None,
        masks=(tensors.get("video_mask"), tensors.get("audio_mask")),
        last=_last(tensors, about.section("last")) if "last" in about else None,
        drawn=about.wholes("drawn", (), most=MOST_BYTES // 4, longest=_MOST_ITEMS),
        times=about.whole("times", 1, most=240),
        seams=_seams(about.section("seams")) if "seams" in about else None,
        tags={name: str(text) for name, text in tags.items()},
        made_by=about.word("made_by") if "made_by" in about else None,
        shown=_shown(about) if "shown" in about else None,
    )


def _tensors(take: Take) -> dict[str, Tensor]:
    """The tensors of a file by name."""
    found: dict[str, Tensor] = dict(take.content.streams())
    found |= {f"{name}_mask": mask for name, mask in zip(STREAMS, take.masks) if mask is not None}
    if take.content.keyframes is not None:
        found["keyframes"] = take.content.keyframes.latent
    for each in _STEP if take.last is not None else ():
        found |= {f"last.{each}.{name}": x for name, x in getattr(take.last, each).streams().items()}
    return found


def _about(take: Take) -> dict[str, object]:
    """All that is no tensor, as JSON can hold it."""
    keyframes, last, seams = take.content.keyframes, take.last, take.seams
    about = {
        "drawn": [*take.drawn] or None,
        "times": None if take.times == 1 else take.times,
        "made_by": take.made_by,
        "fps": None if take.fps is None else str(take.fps),
        "keyframes": None if keyframes is None else [*keyframes.frames],
        "last": None if last is None else {"sigma": float(last.sigma), "start_sigma": float(last.start_sigma)},
        "seams": seams and {"size": seams[0]} | {name: each for name, each in zip(_LINES, seams[1]) if each},
        "shown": take.shown,
    }
    return {name: value for name, value in about.items() if value is not None}


def _digest(about: str, tags: str, tensors: Mapping[str, Tensor]) -> str:
    return fingerprint(KIND, VERSION, about, tags, dict(sorted(tensors.items())))


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The header and the tensors of a file, whole and of our kind; see load_take."""
    if not path.is_file():
        if path.exists():
            raise UnreadableFileError(f"{path} is a folder, a pipe or a device: choose the file of a latent.")
        raise MissingFileError(f"{path} is not there: choose another latent.")
    damaged = f"{path.name} is damaged or was changed: save the latent again, or copy the file anew."

    def read() -> tuple[dict[str, str], dict[str, Tensor]]:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            header = file.metadata() or {}
            ours = KIND in header
            return header, {name: file.get_tensor(name).clone() for name in file.keys() if ours}  # noqa: SIM118

    try:
        header, tensors = foreign_call(read, path.name)
    except CheckpointError as error:
        try:
            with path.open("rb") as file:
                brace = file.read(9)[8:]  # with which the header of all safetensors files begins, behind its length
        except OSError as refused:
            raise not_read(path, refused) from refused
        if brace not in (b"{", b""):
            raise CheckpointError(
                f"{path.name} is no latent: those are the .safetensors files of LTX-2 Save AV Latent and --save-latent."
            ) from error
        raise CheckpointError(damaged) from error
    if KIND not in header:
        raise CheckpointError(
            f"{path.name} is no latent of LTX-2 Save AV Latent; those of ComfyUI's Save Latent are for its Load Latent."
        )
    if header[KIND] != VERSION:
        raise CheckpointError(
            f"{path.name} is a latent file of version {header[KIND]!r}, version {VERSION} was expected: open it with "
            "the version of this pack that saved it."
        )
    about, tags, digest = (header.get(name, "") for name in ("about", "tags", "digest"))
    if digest != _digest(about, tags, tensors) or not tensors.keys() <= _TENSORS:
        raise CheckpointError(damaged)
    return header, tensors


def _content(path: Path, tensors: Mapping[str, Tensor], about: Fields) -> AVLatent:
    """Both streams and the keyframes, of the shapes that they have to be."""
    parts = {name: tensors[name] for name in STREAMS if name in tensors}
    content = from_parts([*parts.values()]) if parts else AVLatent(None, None)
    if not parts or content.streams().keys() != parts.keys():
        raise CheckpointError(f"{path.name} lacks its latent: save it again.")
    return content if "keyframes" not in tensors else _with_keyframes(content, tensors["keyframes"], about)


def _with_keyframes(content: AVLatent, latent: Tensor, about: Fields) -> AVLatent:
    frames = about.wholes("keyframes", least=0, longest=_MOST_ITEMS)
    own = Keyframes(latent, frames)
    fits = latent.ndim == 5 and latent.shape[2] == len(frames) and sorted({*frames}) == [*frames]
    if not fits or content.video is None or not own.belongs_to(content.video):
        raise about.refusal("keyframes", "one frame for each keyframe of the video, rising")
    return replace(content, keyframes=own)


def _last(tensors: Mapping[str, Tensor], about: Fields) -> Step:
    """The last step, whose three latents have one shape."""
    latent, x0, start = (
        AVLatent(tensors.get(f"last.{each}.video"), tensors.get(f"last.{each}.audio")) for each in _STEP
    )
    shapes = [{name: x.shape for name, x in each.streams().items()} for each in (latent, x0, start)]
    if not shapes[0] or shapes[0] != shapes[1] or shapes[0] != shapes[2]:
        raise CheckpointError(f"{about.where} has latents of different shapes: save the latent again.")
    return Step(about.number("sigma"), latent, x0, about.number("start_sigma"), start)


def _shown(about: Fields) -> tuple[int, int]:
    size = about.wholes("shown", longest=2)
    if len(size) != 2:
        raise about.refusal("shown", "a list of 2 whole numbers")
    return size[0], size[1]


def _seams(about: Fields) -> SeamLines:
    frames, rows, columns = (list(about.wholes(name, (), longest=_MOST_ITEMS)) for name in _LINES)
    size = about.wholes("size", longest=3)
    if len(size) != 3:
        raise about.refusal("size", "a list of 3 whole numbers")
    return (size[0], size[1], size[2]), (frames, rows, columns)
