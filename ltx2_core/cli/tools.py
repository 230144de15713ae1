"""The flags of the commands that make no clip."""

from collections.abc import Callable

from ..checkpoint.convert import CONVERTED
from ..checkpoint.versions import VERSIONS
from ..conditioning.compare import Comparison
from ..errors import SettingError
from ..fields import check_number
from ..media.provenance import ANCHORS, CERTIFICATE, KEY, TIMESTAMP
from ..pipeline.needs.blueprint import PLANNED_FORMATS
from ..quantization import KEPT_WORDS
from ..sampling import ScheduleSettings
from ..settings import ClipSettings, Resources
from . import syntax
from .flags import Command, in_words, one_of

_FILE, _NEW = in_words(syntax.file_path), in_words(syntax.new_path)


def _plan(command: Command) -> None:
    group = command.group("what to plan for")
    group.add("--checkpoint", nargs="+", metavar="FILE", help="as for generate")
    group.add("--text-encoder", metavar="FILE", help="as for generate")
    group.add("--version", type=one_of(list(VERSIONS)), metavar=f"{{{','.join(VERSIONS)}}}",
              help="plan for this release instead of files")  # fmt: skip
    group.add("--format", type=one_of(list(PLANNED_FORMATS)), metavar=f"{{{','.join(PLANNED_FORMATS)}}}",
              help="of the release, or what files are cast to (default: bf16, as stored)")  # fmt: skip
    group.add("--distilled", action="store_true", help="plan for the distilled release")
    group.add_settings(ClipSettings, only=("width", "height", "frames"))
    group.add_settings(ClipSettings, only=("seconds",), default="as --frames")
    group.add_settings(ClipSettings, only=("size", "megapixels"))
    group.add("--fps", type=syntax.frame_rate, default="24", help="frames per second (default: 24)")
    group.add_settings(ScheduleSettings, only=("steps",))
    group.add("--passes", type=_passes, metavar="{1,2,3,4}",
              help="of a step (default: as the recipe)")  # fmt: skip
    group.add("--lora", action="append", default=[], metavar="FILE[:STRENGTH]", help="as for generate")
    group.add_settings(Resources, only=("fold_loras", "torch_compile", "cuda_graphs"))
    group = command.group("machine")
    group.add("--card", help='for example "RTX 4090" (default: this machine, which is measured for 0.3 s)')
    group.add("--devices", metavar="CARDS",
              help='cards that share the work, such as "RTX 5090,RTX 4090"; the first does all the rest')  # fmt: skip
    group.add("--gpus", type=int, metavar="N", help="so many of --card share the work")
    group.add("--vram", type=_gigabytes, metavar="GB", help="of the card (default: what it has)")
    group.add("--ram", type=_gigabytes, metavar="GB", help="of the machine (default: what this one has)")


def _convert(command: Command) -> None:
    command.parser.add_argument("source", type=_FILE, metavar="IN",
                                help="a checkpoint, a text encoder, or the folder of one")  # fmt: skip
    command.parser.add_argument("target", type=_NEW, metavar="OUT",
                                help=".gguf for q8_0 and q4_k, else .safetensors")  # fmt: skip
    group = command.group("options")
    group.add("--format", type=one_of(CONVERTED), required=True, metavar=f"{{{','.join(CONVERTED)}}}",
              help="what matrices are written in; bf16 undoes it, but for what was lost")  # fmt: skip
    group.add("--keep", type=syntax.some_of(KEPT_WORDS), default=KEPT_WORDS, metavar="WORDS",
              help=f"what stays as it is stored: some of {','.join(KEPT_WORDS)} joined by commas, or none (default: "
              "all of them): the ends of the network, its first and last block, the sound, the attention between sound "
              "and picture, the gates of attention")  # fmt: skip
    group.add("--overwrite", action="store_true", help="replace OUT if it is there already")


def _lora(command: Command) -> None:
    command.parser.add_argument("action", type=in_words(one_of(("shrink",))), metavar="shrink",
                                help="give each layer the lowest rank that keeps so much of its change")  # fmt: skip
    command.parser.add_argument("source", type=_FILE, metavar="IN", help="a LoRA of any trainer")
    command.parser.add_argument("target", type=_NEW, metavar="OUT", help="a .safetensors file")
    group = command.group("options")
    group.add("--energy", type=syntax.number, metavar="SHARE",
              help="of the Frobenius norm of each layer's change that is kept, up to 1 (default: 0.9, or 1 with "
              "--rank)")  # fmt: skip
    group.add("--rank", type=syntax.whole_number, metavar="N", help="the highest that a layer keeps")
    group.add("--overwrite", action="store_true", help="replace OUT if it is there already")


def _compare(command: Command) -> None:
    command.parser.add_argument("first", type=_FILE, metavar="FIRST", help="a video, whose size and frame rate count")
    command.parser.add_argument("second", type=_FILE, metavar="SECOND", help="another one")
    command.parser.add_argument("target", type=_NEW, metavar="OUT", help="an .mp4 file, or a folder for pictures")
    group = command.group("options")
    group.add_settings(Comparison)
    group.add("--overwrite", action="store_true", help="replace OUT if it is there already")


def _sign(command: Command) -> None:
    command.parser.add_argument("source", type=_FILE, metavar="IN",
                                help="an .mp4, .wav, .flac or .png file that was made here")  # fmt: skip
    command.parser.add_argument("target", type=_NEW, metavar="OUT", help="the same, signed; may be IN")
    group = command.group("options")
    group.add("--certificate", type=syntax.file_path, metavar="FILE",
              help=f"PEM of your certificate and those that lead to a root (default: {CERTIFICATE} of the "
              "environment)")  # fmt: skip
    group.add("--key", type=syntax.file_path, metavar="FILE",
              help=f"PEM of its private key (default: {KEY} of the environment)")  # fmt: skip
    group.add("--timestamp", metavar="URL",
              help=f"of a timestamp authority, which is asked over the network (default: {TIMESTAMP} of the "
              "environment, or none)")  # fmt: skip
    group.add("--overwrite", action="store_true", help="replace OUT if it is there already")


def _gigabytes(word: str) -> float:
    check_number("memory", found := syntax.number(word), 0, 100_000)
    return found


def _passes(word: str) -> int:
    if (count := syntax.whole_number(word)) not in range(1, 5):
        raise SettingError(f"{word!r} is not one of 1, 2, 3, 4.")
    return count


def _files(command: Command) -> None:
    command.parser.add_argument("files", nargs="+", type=_FILE, metavar="FILE")


def _check(command: Command) -> None:
    _files(command)
    command.group("options").add("--anchors", type=_FILE, metavar="FILE",
                                 help="PEM of authorities that are believed, such as the trust list of C2PA "
                                 f"(default: {ANCHORS} of the environment, or none)")  # fmt: skip


def _tiny(command: Command) -> None:
    command.parser.add_argument("folder", type=_NEW, metavar="DIR")
    command.group("options").add("--version", type=one_of(list(VERSIONS)), default="2.3", metavar="VERSION",
                                 help="of LTX-2 (default: 2.3)")  # fmt: skip


TOOLS: dict[str, Callable[[Command], None]] = {
    "inspect": _files, "plan": _plan, "convert": _convert, "lora": _lora, "compare": _compare, "sign": _sign,
    "check": _check, "tiny": _tiny,
}  # fmt: skip
