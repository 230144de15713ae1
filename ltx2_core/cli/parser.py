"""The parser: flags made from settings, in groups, with limits, units and defaults."""

import argparse
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache

from ..conditioning.blend import Blending
from ..conditioning.conditions import InpaintMask, KeepAudio
from ..conditioning.pictures import Picture
from ..errors import SettingError
from ..fields import check_together, did_you_mean, settings_of
from ..media.notes import VERSION
from ..pipeline.takes import load_take
from ..sampling import Guidance, ScheduleSettings, TileSettings
from ..sampling.windows import Windowing
from ..settings import ClipSettings, Enhancing, Request, Resources, SamplingSettings, SecondStage, read_seeds
from ..video_vae import Denoising, Tiling
from . import syntax
from .flags import Command, Group, Parser, described, given, in_words, one_of
from .tools import TOOLS
from .values import merged, repeated_in, settings_of_tags, values_in, values_of, words_of

_log = logging.getLogger(__name__)

EXAMPLES = """\
examples:
  a clip of the built-in miniature, which needs no download
    %(prog)s --prompt "a red ball bounces twice on the left" --output ball.mp4
  a picture as first frame, a given sound, five seconds
    %(prog)s --checkpoint ltx-2.3-22b-dev.safetensors --text-encoder gemma-3-12b --prompt "she sings" \\
        --image singer.png --audio song.wav:start=30 --seconds 5 --output song.mp4
  full size in two stages, strong guidance first and mild guidance at low noise
    %(prog)s ... --upscale 2 --refine --width 1920 --height 1088 --guidance-up-to 0.8:text_scale=2
  the same again with another seed, from the settings in the file
    %(prog)s --like clip.mp4 --seed 8 --output again.mp4
  the latent kept before it is decoded; decoded again, in smaller tiles
    %(prog)s ... --save-latent kept.safetensors --output clip.mp4
    %(prog)s --latent kept.safetensors --decode-tile-size 512 --output clip.mp4
  a part of a video anew, with a LoRA that leaves the sound alone
    %(prog)s ... --source clip.mp4 --retake 1.5:3 --lora style.safetensors:0.8:audio=0 --output changed.mp4
"""

BATCH_EXAMPLES = """\
a line of clips.jsonl has any of these flags as a setting, and counts before what is said here for all clips:
  {"prompt": "a red ball bounces once", "seconds": 5, "seed": 7, "image": ["cat.png", "-1:dog.png:0.8"]}
  {"prompt": "a red ball bounces twice", "output": "twice.mp4", "lora": "style.safetensors:0.8", "upscale": 2}
a table clips.csv has their names in its first line, one twice where a flag is repeated; an empty cell says nothing.
Tables may have ; or tabs between their cells; lines that begin with # are left out.
A line without an output is written as line_0001.mp4. In a .txt file each line is a prompt, after whose first words its
clip is called. report.json says what became of each.
A clip that is there is made again, with --overwrite, if its settings have changed, or what is in a file that they name:
for files of more than 16 MB, and those in folders, size and date stand for that. Files found by name do not count.

examples:
  each prompt of a list with four seeds: a_red_ball_bounces_once_seed7.mp4 and so on; then one prompt with many
    %(prog)s prompts.txt --seeds 7-10 --output takes
    %(prog)s --prompt "a red ball bounces once" --seeds 7,8,20-23 --output takes
  all clips of a file, one after the other; the same again after an interruption goes on from where it was
    %(prog)s clips.jsonl --output clips --checkpoint ltx-2.3-22b-dev.safetensors --text-encoder gemma-3-12b
  by Ray (pip install "ltx2-av[cluster]"): with every card of this machine, or of a cluster that shares the folder
    %(prog)s clips.jsonl --output clips --workers 0
    %(prog)s clips.jsonl --output /shared/clips --cluster auto
"""

PAGES = {
    "generate": ("%(prog)s --output FILE [flags]", EXAMPLES),
    "batch": ("%(prog)s [CLIPS] --output FOLDER [flags]", BATCH_EXAMPLES),
}


@cache  # every line of a batch is parsed like a command line of its own
def build_parser(only: str | None = None) -> tuple[Parser, dict[str, Command]]:
    """Build the parser, once, and return it with its commands by name; only ``only`` gets its flags, else all."""
    parser = Parser(prog="python -m ltx2_core", description="LTX-2: a prompt becomes a clip with sound.")
    parser.add_argument("--version", action="version", version=f"ltx2-av {VERSION}", help="say which one this is")
    adding = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    helps = {
        "generate": "make a clip from a prompt",
        "batch": "make many clips, one for each line of a file and each seed; what is there already is not made again",
        "inspect": "say what files are and what they still need, and with which settings a clip was made",
        "plan": "say where the weights will be and how long a clip takes; loads nothing",
        "convert": "write a transformer or a text encoder in another format, and say how far its weights are off",
        "lora": "write a LoRA with lower ranks, and say what is lost",
        "compare": "show two clips in one video, to choose between them",
        "sign": "sign a clip as its maker, with content credentials (C2PA)",
        "check": "say who signed clips, whether they are whole, and what they say of themselves",
        "tiny": "write a complete miniature model with random weights",
    }
    commands = {}
    for name, text in helps.items():
        usage, epilog = PAGES.get(name, (None, None))
        made = adding.add_parser(name, help=text, description=text[0].upper() + text[1:], usage=usage, epilog=epilog)
        commands[name] = Command(made)
    for name in commands if only is None else [only]:
        for add in _FLAGS[name]:
            add(commands[name])
    return parser, commands


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Parse a command line.

    Raises:
        SettingError: what cannot be parsed; for unknown commands and flags it says which may have been meant.
    """
    words = join_image_flags(words)
    parser, commands = build_parser(words[0] if words and words[0] in _FLAGS else None)
    if words and not words[0].startswith("-"):
        if words[0] not in commands:
            hint = did_you_mean(words[0], commands)
            raise SettingError(f"There is no command {words[0]}; possible are {', '.join(commands)}.{hint}")
        _refuse_unknown_flags(words[0], words[1:], commands[words[0]])
    options = _parsed(parser, words, commands)
    for sentence in repeated_in(words[1:], commands[options.command]):
        _log.warning(sentence)
    if options.command in PAGES:
        options.values = values_of(words[1:], commands[options.command])
    if options.command == "generate" and (options.like is not None or options.latent is not None):
        return _like(options, parser, commands["generate"])
    return options


def _parsed(parser: Parser, words: Sequence[str], commands: Mapping[str, Command]) -> argparse.Namespace:
    """The flags of a command line, whose settings can be together."""
    options = parser.parse_args(words)
    said = {name.partition(".")[0] for name, value in vars(options).items() if value is not None}
    for owner in commands[options.command].settings:
        if owner.__name__ in said:
            check_together(owner, given(options, owner))
    return options


def _like(options: argparse.Namespace, parser: Parser, command: Command) -> argparse.Namespace:
    """The same with the settings in a file, before which those of the command line count; a latent comes with them."""
    take, asked = None, options.values
    if options.latent is None:
        values = merged(values_in(options.like, command), asked)
    elif options.like is not None:
        raise SettingError(f"{options.latent.name} has settings of its own: leave --like out.")
    else:
        take = load_take(options.latent)
        values = merged(settings_of_tags(take.tags, options.latent.name, command), asked)
    found = _parsed(parser, ["generate", *words_of(values, command)], {"generate": command})
    found.values, found.take, found.asked = values, take, asked
    return found


def _refuse_unknown_flags(name: str, words: Sequence[str], command: Command) -> None:
    alone = " ".join(str(action.metavar) for action in command.parser._actions if not action.option_strings)
    usage = f"; files are given as {name} {alone}" if alone else ""
    for word in words:
        if word == "--":
            return
        flag = word.partition("=")[0]
        if re.fullmatch(r"--[\w-]+", flag) and flag not in command.flags:
            raise SettingError(f"{name} has no flag {flag}{usage}.{_meant(flag, command)}")


# What flags of other programs that run LTX-2 are here: of the official packages, of diffusers, and of image models.
ELSEWHERE = {
    "--model": ("--checkpoint",), "--transformer": ("--checkpoint",), "--vae": ("--checkpoint",),
    "--gemma-root": ("--text-encoder",), "--gemma": ("--text-encoder",), "--resolution": ("--width", "--height"),
    "--num-frames": ("--frames",), "--length": ("--frames", "--seconds"), "--duration": ("--seconds",),
    "--frame-rate": ("--fps",), "--num-inference-steps": ("--steps",), "--cfg": ("--text-scale",),
    "--cfg-scale": ("--text-scale",), "--guidance-scale": ("--text-scale",), "--first-frame": ("--image",),
    "--last-frame": ("--image",), "--spatial-upsampler-path": ("--upscaler",), "--spatial-upscaler": ("--upscaler",),
    "--quantization": ("--format",), "--fp8": ("--format",), "--dtype": ("--precision",), "--gpu": ("--device",),
    "--num-videos": ("--batch-size",), "--offload": ("--vram",),
}  # fmt: skip


def _meant(flag: str, command: Command) -> str:
    """Which flag may be meant by one that there is not: by what other programs call it, else by its letters."""
    meant = [each for each in ELSEWHERE.get(flag, ()) if each in command.flags]
    return f" Did you mean {' and '.join(meant)}?" if meant else did_you_mean(flag, command.flags)


def join_image_flags(words: Sequence[str]) -> list[str]:
    """Make ``--image -1:PATH`` one word, because argparse takes -1:PATH for a flag."""
    text = re.sub(r"(^|\0)--image\0(?=-\d+:)", r"\1--image=", "\0".join(words))
    return text.split("\0") if text else []


def _target(command: Command) -> None:
    group = command.group("file")
    group.add("--output", type=syntax.new_path, required=True, metavar="FILE",
              help="clip.mp4, sound.wav, sound.flac or a folder for pictures: PNG, or EXR with --hdr; a number is "
              "added where there is such a file already")  # fmt: skip
    group.add("--overwrite", action="store_true", help="replace a file that is there already")
    group.add("--like", type=syntax.file_path, metavar="FILE",
              help="take all settings that are not given here from this clip, sound, folder of pictures or "
              "latent")  # fmt: skip
    group.add("--save-latent", type=syntax.new_path, metavar="FILE",
              help="keep the latent in this .safetensors file before it is decoded, so that a decode that fails costs "
              "a decode; LTX-2 Load AV Latent lists those whose names end in av_latent.safetensors")  # fmt: skip
    group.add("--latent", type=syntax.file_path, metavar="FILE",
              help="decode a latent that was kept, with the settings in it where none are given here; nothing is "
              "sampled, and only flags of decoding, --audio, --video and --hdr count")  # fmt: skip
    _metadata(group)


def _metadata(group: Group) -> None:
    group.add("--metadata", action=argparse.BooleanOptionalAction, default=None,
              help="write prompt, settings and versions into the file; that a model made it is always written "
              "(default: on)")  # fmt: skip


def _batch(command: Command) -> None:
    command.parser.add_argument("clips", nargs="?", type=in_words(syntax.file_path), metavar="CLIPS",
                                help="a .jsonl, .csv, .tsv or .txt file, one clip, or one prompt, in each line "
                                "(default: that of --prompt)")  # fmt: skip
    group = command.group("batch")
    group.add("--output", type=syntax.new_path, required=True, metavar="FOLDER",
              help="where clips are written, and report.json")  # fmt: skip
    group.add("--seeds", type=read_seeds, metavar="SEEDS",
              help="numbers and ranges, such as 7,8,20-23: make each clip once with each of them; names tell which "
              "(default: as each line says)")  # fmt: skip
    group.add("--overwrite", action="store_true", help="replace files that are there with other settings")
    group.add("--workers", type=syntax.whole_number, metavar="N",
              help="make so many clips at a time, each on a card of its own, or on its share of the CPUs where there "
              "is no card; by Ray; 0 takes as many as there are cards (default: one after the other, without "
              "Ray)")  # fmt: skip
    group.add("--cluster", metavar="ADDRESS",
              help="of a Ray cluster that is running, or auto for that of this machine; all of its machines see the "
              "same folders, and have this package (default: this machine alone)")  # fmt: skip
    _metadata(group)


def _what(command: Command) -> None:
    group = command.group("what")
    group.add("--prompt", help="what is to be seen and heard; needed, unless there are --segments or a --timeline")
    group.add("--encoded-prompt", type=syntax.file_path, metavar="FILE",
              help="the prompt as the official code encoded it, as it comes with the HDR IC-LoRA")  # fmt: skip
    group.add("--enhance", action="store_true",
              help="let Gemma make the prompt longer before it is read, and look at the --image that the clip begins "
              "with; what it writes is shown, and not used if it leaves out what the prompt says")  # fmt: skip
    group.add_settings(Enhancing, prefix="enhance_")
    group.add("--enhancer", type=syntax.file_path, metavar="FILE",
              help="an instruct Gemma that does this, a folder or a file (default: the text encoder; that of LTX-2.5 "
              "cannot)")  # fmt: skip
    group.add("--negative", help="what to avoid (default: as the recipe)", metavar="PROMPT")
    group.add("--checkpoint", nargs="+", metavar="FILE",
              help="the LTX-2 checkpoint, also GGUF, or its split files in any order, the text encoder among them "
                   "(default: the built-in miniature)")  # fmt: skip
    group.add("--text-encoder", metavar="FILE",
              help="Gemma 3 12B, or for LTX-2.5 its own Gemma 4: a folder, or a safetensors or GGUF file")  # fmt: skip
    group.add(
        "--distilled",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="take the checkpoint as a distilled model, or as a dev model (default: as its name says)",
    )
    group.add_settings(Request, only=("hdr", "high_quality"))
    group.add("--hq", action="store_true", help="few, precise steps; for the dev models of LTX-2.3 and 2.5")


def _size(command: Command) -> None:
    group, texts = command.group("size and length"), settings_of(ClipSettings)
    group.add_settings(ClipSettings, only=("width", "height", "frames"))
    group.add_settings(ClipSettings, only=("seconds",), default="as --frames")
    group.add("--as-prompt-needs", action="store_true",
              help="as long as the prompt needs, by LTX-2.5's duration head in --checkpoint")  # fmt: skip
    group.add_settings(ClipSettings, only=("least_seconds", "most_seconds"))
    group.add_settings(ClipSettings, only=("size", "megapixels"))
    group.add_settings(ClipSettings, only=("batch_size",))
    group.add("--fps", type=syntax.frame_rate, help=described(texts["fps"], "as what is given, or 24"))
    group.add("--sound-only", action="store_true", help="make no picture; for .wav and .flac")
    group.add("--picture-only", action="store_true", help="make no sound")


def _conditions(command: Command) -> None:
    group = command.group("conditions", "What is given; all of it counts. FILE may be followed by :name=value,...")
    group.add("--image", action="append", default=[], metavar="[FRAME:]FILE[:STRENGTH[:CRF]]",
              help="a picture at a frame, repeatable: 0 is the first frame, as without FRAME, -1 the last one; "
              "strength 0 to 1 (default: 1); CRF as --compression; also with :append=yes, which shows the picture of "
              "frame 0 beside the clip; transparency is ignored: the colours under it count, as with ComfyUI's Load "
              "Image")  # fmt: skip
    group.add("--compression", type=syntax.within(settings_of(Picture)["compression"]), metavar="CRF",
              help="how strongly pictures are compressed before they are encoded, 0 to 51; 0 is off (default: as "
              "trained)")  # fmt: skip
    group.add("--audio", metavar="FILE",
              help="a sound, for which a picture is made, as long as it unless --frames or --seconds say otherwise; "
              "surround becomes stereo; :start=..,seconds=.. take a part of it")  # fmt: skip
    group.add("--audio-noise", type=syntax.within(settings_of(KeepAudio)["noise"]), default=0.0, metavar="N",
              help="how noisy the model sees that sound, 0 to 1 (default: 0)")  # fmt: skip
    group.add("--video", metavar="FILE", help="a video, for which sound is made; :start=..,seconds=..")
    _references(group)
    _changes(group)


def _references(group: Group) -> None:
    group.add("--reference-video", action="append", default=[], metavar="FILE",
              help="a video that an IC-LoRA follows, repeatable; :strength=..,attention=..,downscale=..,"
              "temporal_scale=..,grow=..,grow_frames=..,start=..,seconds=.. (default: 1, and scales as the LoRAs "
              "say); with :outpaint=around, left, right, top or bottom it is seen whole, and the in- and outpainting "
              "IC-LoRA paints what is free of the clip, at least margin=.. of it; with :edges=mirrored, or --hdr, it "
              "is not cut to the shape of the clip, which may have any size, such as 1920 x 1080")  # fmt: skip
    group.add("--reference-mask", action="append", default=[], type=syntax.file_path, metavar="FILE",
              help="where a reference counts, white fully; the first is for the first --reference-video, and so "
              "on")  # fmt: skip
    group.add("--reference-fill", action="append", default=[], type=syntax.file_path, metavar="FILE",
              help="what the in- and outpainting IC-LoRA makes anew, white: it is painted green in the reference, and "
              "larger by grow pixels and grow_frames frames; the first is for the first --reference-video, and so "
              "on")  # fmt: skip
    group.add("--tracks", action="append", default=[], metavar="FILE",
              help="motion tracks that an IC-LoRA follows, repeatable: JSON as of LTX-2 Motion Tracks; :strength=..,"
              "attention=..,downscale=..,temporal_scale=..,width=..,height=..,frames=.. (default: size and length of "
              "the clip, and scales as the LoRAs say)")  # fmt: skip
    group.add("--blend", action="store_true",
              help="show and play what --source gives, or show the reference with --reference-fill and outpaint, as "
              "it is wherever no part of it was made anew, and let both pass over into each other softly")  # fmt: skip
    group.add_settings(Blending, prefix="blend_")
    group.add("--reference-audio", action="append", default=[], metavar="FILE",
              help="a voice that a LoRA takes over, repeatable; :strength=..,start=..,seconds=..")  # fmt: skip
    group.add("--character", action="append", default=[], metavar="PICTURE[:VOICE]",
              help="who is seen and heard in every window of the clip, by a picture, a sound or both, repeatable; "
              "way=auto, keyframe, ingredients or voice only (default: auto, as the LoRAs allow, which is said), "
              "strength=..; start=..,seconds=.. take a part of the sound")  # fmt: skip
    group.add("--dub", metavar="FILE",
              help="speak this video anew, with a distilled model and the Dub-It LoRA: it is followed, and its voice "
              "taken over, in two stages. Stands for --reference-video, --reference-audio, --upscale 2, --refine, "
              "--keep-references and --refine-sound 'hold and refer', at its length, rate and size; :strength=.. of "
              "the video, start=..,seconds=..")  # fmt: skip
    group.add("--generated-keyframes", metavar="N|FRAMES", type=syntax.parse_keyframes,
              help="generate so many frames one by one beside the clip, or those at FRAMES such as 24,48,-1; 0 takes "
              "one every 24 or 32 frames; for models that mark keyframes, such as LTX-2.5")  # fmt: skip


def _changes(group: Group) -> None:
    group.add("--source", metavar="FILE",
              help="a video to change, or to continue in a longer clip; :start=..,seconds=..")  # fmt: skip
    group.add("--timeline", type=syntax.file_path, metavar="FILE",
              help="prompts, pictures, sound, references, characters and retakes with their seconds, as JSON of "
              "LTX-2 Timeline; files lie beside it, and it takes the place of --prompt and --segments")  # fmt: skip
    group.add("--retake", type=syntax.parse_range, metavar="START:END",
              help="make these seconds of --source anew")  # fmt: skip
    group.add("--only", type=one_of(("picture", "sound")), metavar="{picture,sound}",
              help="retake one stream, and keep the other one")  # fmt: skip
    group.add(
        "--mask",
        type=syntax.file_path,
        metavar="FILE",
        help="make anew what is white; a picture, whose transparency is ignored, or a video",
    )
    group.add("--feather", type=syntax.within(settings_of(InpaintMask)["feather"]), default=1, metavar="N",
              help="cells of 32 pixels over which a mask fades, 0 to 16 (default: 1)")  # fmt: skip
    group.add("--mask-sound", action="store_true", help="with --mask, make the sound anew, too")


def _sampling(command: Command) -> None:
    group = command.group("sampling")
    group.add_settings(SamplingSettings, only=("seed", "sampler"))
    group.add_settings(ScheduleSettings, named={"custom_sigmas": "sigmas"})
    group.add_settings(SamplingSettings, only=set(settings_of(SamplingSettings)) - {"seed", "sampler"})


def _guidance(command: Command) -> None:
    group = command.group(
        "guidance",
        "For picture and sound together; each flag also exists for one of them, such as --audio-text-scale and\n"
        "--video-stg-blocks.",
    )
    group.add_settings(Guidance, default="as the recipe")
    for stream in ("video", "audio"):
        group.add_settings(Guidance, prefix=f"{stream}_", scope=f"{stream}.", hidden=True)
    group.add("--guidance-up-to", action="append", default=[], type=syntax.parse_guidance,
              metavar="[STREAM:]SIGMA:NAME=VALUE,...",
              help="change this at noise levels up to SIGMA, repeatable; the stream is video or audio, blocks are "
              "joined by +, such as stg_blocks=14+28")  # fmt: skip


def _loras(command: Command) -> None:
    group = command.group("LoRAs")
    group.add("--lora", action="append", default=[], metavar="FILE[:STRENGTH][:NAME=VALUE,...]",
              help="a LoRA, repeatable; with strengths for video, audio, audio_to_video, video_to_audio and text, for "
              "some blocks (blocks=0-23+40), and over the run (schedule=1.0@1+0.5@0.3 are points sigma@strength, or "
              "step@strength with schedule_over=steps); energy=0.9 shrinks it, once, to ranks that keep this share of "
              "each change")  # fmt: skip
    group.add("--text-encoder-lora", action="append", default=[], metavar="FILE[:STRENGTH]",
              help="a LoRA for Gemma, or the part for Gemma of a LoRA that has both; repeatable")  # fmt: skip
    group.add("--distilled-lora", type=syntax.file_name, metavar="FILE[:energy=0.9]",
              help="for --refine and --hq with a dev model (default: found by name beside the checkpoint)")  # fmt: skip
    group.add("--detailing-lora", type=syntax.file_path, metavar="FILE",
              help="the detailing IC-LoRA of LTX-2.5 (DFR): --refine then follows the small picture of the first "
              "stage")  # fmt: skip
    strengths = "distilled_lora_strength", "distilled_lora_refine_strength", "detailing_lora_strength"
    group.add_settings(SecondStage, only=strengths)


def _long(command: Command) -> None:
    group = command.group("long clips")
    group.add("--segments", type=syntax.file_path, metavar="FILE",
              help="prompts of a long clip: in each line seconds or minutes:seconds, then the prompt")  # fmt: skip
    group.add_settings(Windowing, named={"drift_control": "drift"})
    group.add("--resume", type=syntax.new_path, metavar="FOLDER", help="keep finished windows, and go on from them")


def _second_stage(command: Command) -> None:
    group = command.group("second stage")
    group.add("--upscale", type=_upscale, metavar="{1.5,2}",
              help="make the clip so many times smaller and enlarge its latent; width and height are those of the "
              "result")  # fmt: skip
    group.add("--upscaler", type=syntax.file_path, metavar="FILE",
              help="what enlarges it (default: found by name beside the checkpoint)")  # fmt: skip
    group.add("--temporal-upscaler", type=syntax.file_path, metavar="FILE",
              help="twice as many frames per second, as fast")  # fmt: skip
    group.add("--refine", action="store_true",
              help="a second stage, which puts detail into what was enlarged")  # fmt: skip
    group.add_settings(SecondStage, prefix="refine_", only=("sound", "noise_scale", "sigmas"))
    group.add_settings(SecondStage, only=("keep_references", "keep_keyframes", "rounds"))
    group.add_settings(SecondStage, prefix="upscale_", only=("adain_factor", "tone_map_compression"))
    group.add("--refine-guidance", action="append", default=[], type=syntax.parse_guidance,
              metavar="[STREAM:][SIGMA:]NAME=VALUE,...",
              help="guidance of the second stage, as --guidance-up-to (default: as the recipe)")  # fmt: skip
    group.add("--tiles", type=syntax.parse_tiles, metavar="FxHxW",
              help="refine in so many tiles in time, down and across (default: auto)")  # fmt: skip
    group.add_settings(TileSettings, prefix="tile_", only=("overlap", "frame_overlap", "mode", "positions"))


def _upscale(word: str) -> float:
    if (scale := syntax.number(word)) not in (1.5, 2):
        raise SettingError(f"{word!r} is not one of 1.5, 2.")
    return scale


def _decoding(command: Command) -> None:
    group = command.group("decoding")
    names = {"tile_size": "decode_tile_size", "tile_overlap": "decode_tile_overlap",
             "tile_frames": "decode_tile_frames", "frame_overlap": "decode_frame_overlap"}  # fmt: skip
    group.add_settings(Tiling, named=names, default="as the memory allows")
    group.add_settings(Denoising)


def _machine(command: Command) -> None:
    group, limits = command.group("machine"), ("max_vram", "max_ram")
    group.add_settings(Resources, only=("device",))
    group.add_settings(Resources, only=limits, named={"max_vram": "vram", "max_ram": "ram"}, default="what is free")
    group.add_settings(Resources, only=set(settings_of(Resources)) - {"device", *limits})


_CLIP = (_what, _size, _conditions, _sampling, _guidance, _loras, _long, _second_stage, _decoding, _machine)
_FLAGS: dict[str, tuple[Callable[[Command], None], ...]] = {
    "generate": (_target, *_CLIP), "batch": (_batch, *_CLIP)
} | {name: (add,) for name, add in TOOLS.items()}  # fmt: skip
