"""Make the miniature's weights: python -m ltx2_core.mini.recipe STAGE --work FOLDER --minutes M

One stage after another, in this order (adopt comes instead of all others, to go on from a finished checkpoint):

    text-encoder   a tokenizer and a random Gemma, in FOLDER/gemma-mini
    text           projection and connectors learn to spell out captions in every row of a context
    captions       contexts of many captions
    video-encoder  fitted to true pictures           audio-encoder  written down
    video-decoder  from latents to pictures          audio-decoder  from latents to mels
    vocoder        written down                      scenes         both latents of many scenes
    transformer    from noise to both latents        export         all of it in one checkpoint

The LoRAs golden-ball, light-room and ic-motion are stages, too; they learn beside the checkpoint that is built in.

Stages that learn end when their minutes are over, keep their state in FOLDER and go on from it when they are called
again. On a CPU, glibc's allocator should keep its pages (MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=34359738368 in the
environment): without that, more than half of the time is spent on page faults.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from . import audio, export, flow, loras, text, video, vocoder

STAGES: dict[str, Callable[[Path, float, str, int], None]] = {
    "text": text.train_text,
    "captions": text.encode_captions,
    "video-encoder": video.fit_encoder,
    "audio-encoder": audio.write_encoder,
    "video-decoder": video.train_decoder,
    "audio-decoder": audio.train_decoder,
    "vocoder": vocoder.write_vocoder,
    "scenes": flow.encode_scenes,
    "transformer": flow.train_transformer,
    **{name: partial(loras.train, name=name) for name in loras.LESSONS},
}


def main() -> None:
    """Run one stage of the recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["adopt", "text-encoder", *STAGES, "export"])
    parser.add_argument("--work", type=Path, required=True, help="folder with the states of all stages")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long to learn, or to encode")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="of the CPU; default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--file", type=Path, help="what to export to; default: ltx2-mini.safetensors in the folder")
    parser.add_argument("--checkpoint", default="miniature", help="what to adopt; default: the built-in one")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    if options.stage == "export":
        export.export(options.work, options.file or options.work / "ltx2-mini.safetensors")
    elif options.stage == "adopt":
        export.adopt(options.work, options.checkpoint)
    elif options.stage == "text-encoder":
        text.write_text_encoder(options.work / "gemma-mini")
    else:
        STAGES[options.stage](options.work, options.minutes, options.device, options.seed)


if __name__ == "__main__":
    main()
