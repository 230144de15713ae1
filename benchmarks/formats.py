"""How much a picture changes when files are converted: a table of ltx2_core/quantization/README.md, "How much is lost".

python -m benchmarks.formats

One clip of the miniature for each format, whose transformer and Gemma ``python -m ltx2_core convert`` has written,
against the clip of the plain files; with what a conversion keeps by default, and with nothing kept but gates. On a CPU
a clip takes some seconds.
"""

import argparse
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path

from torch import Tensor

from ltx2_core import generate, open_models
from ltx2_core.checkpoint.convert import Conversion, convert
from ltx2_core.quantization import KEPT_WORDS, WRITTEN

CLIP = {"width": 96, "height": 96, "frames": 33, "seed": 3, "device": "cpu"}
PROMPT = "a green ball bounces twice on the right"
KEPT = {"by default": KEPT_WORDS, "gates alone": ("gates",)}


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    print(
        "| format | kept | bytes | weights, median | picture, 255ths | picture, dB (PSNR) |\n|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        plain = clip(*plain_files(Path(folder) / "plain"))
        for format in WRITTEN:
            for kept, words in KEPT.items():
                print(row(format, kept, words, plain, Path(folder) / f"{format} {kept}"), flush=True)


def plain_files(folder: Path) -> tuple[Path, Path]:
    """Return copies of the miniature's files, because it has a recipe of its own where it lies."""
    folder.mkdir()
    models = open_models("miniature")
    assert models.text_encoder is not None
    gemma = shutil.copytree(models.text_encoder, folder / "gemma")
    return Path(shutil.copy(models.files[0].path, folder / "mini.safetensors")), gemma


def row(format: str, kept: str, words: Collection[str], plain: Tensor, folder: Path) -> str:
    """Return one row of the table: the bytes of the transformer beside bf16, the median error of its matrices, and the
    difference of the clip."""
    checkpoint, gemma = plain_files(folder)
    end = WRITTEN[format].file_end
    done = convert(checkpoint, folder / f"new{end}", format, words)
    convert(gemma, folder / f"gemma{end}", format, words)
    found = clip(folder / f"new{end}", folder / f"gemma{end}")
    difference = 255 * (found - plain).abs().mean().item()
    decibels = -10 * (found - plain).square().mean().log10().item()
    share = share_of_bytes(checkpoint, folder / f"new{end}")
    return f"| {format} | {kept} | {share:.2f} | {median(done):.2%} | {difference:.2f} | {decibels:.0f} |"


def clip(checkpoint: Path, gemma: Path) -> Tensor:
    """Return the frames (F, H, W, 3) of the clip that all formats make."""
    return generate(open_models(checkpoint, gemma), PROMPT, **CLIP).frames


def share_of_bytes(plain: Path, converted: Path) -> float:
    """Return the bytes of a converted transformer as a share of those of the plain one."""
    sizes = [open_models(path).source("transformer").nbytes for path in (converted, plain)]
    return sizes[0] / sizes[1]


def median(done: Conversion) -> float:
    """Return the median error of the matrices."""
    errors = sorted(layer.error for layer in done.layers)
    return errors[len(errors) // 2]


if __name__ == "__main__":
    main()
