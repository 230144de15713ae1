"""What the command ``convert`` writes: the host's own layers take it, and whole graphs make clips of it."""

import re
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from pack.clip import pictures_in, saved
from pack.workflow import add, change, node
from written import WRITERS, rewrite

from ltx2_core import generate, open_models
from ltx2_core.checkpoint.convert import BF16, convert
from ltx2_core.checkpoint.files import TensorFile
from ltx2_core.checkpoint.models import MINIATURE
from ltx2_core.quantization import WRITTEN
from ltx2_core.sampling import StreamGuidance

pytestmark = [pytest.mark.comfy, pytest.mark.slow]


def test_the_host_reads_the_numbers_that_we_read(inside, tmp_path):
    """Within the rounding of bfloat16, in which it computes; ComfyUI 0.20 knows no int8."""
    source, layers = MINIATURE / "ltx2-mini.safetensors", {}
    for format in ("fp8", "int8", "nvfp4"):
        layers[format] = len(convert(source, tmp_path / f"{format}.safetensors", format).layers)
    report = inside("converted.py", tmp_path)
    assert {"fp8", "nvfp4"} <= report.keys()
    for format, found in report.items():
        assert found["layers"] == layers[format] and found["away"] < 0.01, report


BUILT_IN = "miniature (built in)"
PROMPT = "a red ball bounces twice on the left, dark background"
SEED = 8  # whose clip is no edge between two that the miniature could make
SIZE = {"width": 64, "height": 64, "frames": 9}

# How far a picture may lie from that of the plain files, in 255ths of brightness, with nothing kept but gates: about
# twice what it does (ltx2_core/quantization/README.md).
ALLOWED = {
    "miniature": {"fp8": 0.1, "int8": 0.2, "nvfp4": 0.9, "q8_0": 0.1, "q4_k": 0.4, BF16: 0.2},
    "2.3": {"fp8": 1.2, "int8": 0.3, "nvfp4": 3.5, "q8_0": 0.3, "q4_k": 0.4, BF16: 0.3},
}


@pytest.fixture(scope="module")
def sources(server):
    """The plain files of each model, copied or placed where the host finds them: checkpoint, text encoder."""
    models = server.base / "models"
    return {
        "miniature": (MINIATURE / "ltx2-mini.safetensors", MINIATURE / "gemma-mini"),
        "2.3": (models / "checkpoints" / "ltx-2.3-tiny.safetensors", models / "text_encoders" / "gemma-tiny"),
    }


def written(server, model: str, format: str, source: Path, kinds: tuple[str, str]) -> Path:
    """A file in a format, in the folder of its kind: GGUF files have others; bf16 is what int8 becomes again."""
    end = ".gguf" if format in WRITTEN and WRITTEN[format].file_end == ".gguf" else ".safetensors"
    folder = server.base / "models" / kinds[end == ".gguf"]
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"converted-{model}-{source.stem}-{format}{end}"
    if format == BF16:
        source = written(server, model, "int8", source, kinds)
    if not target.exists():
        convert(source, target, format, ("gates",))
    return target


@pytest.fixture
def on_graph(server, client, prompt):
    """The pictures that the host makes with a checkpoint and a text encoder, by their names."""
    change(prompt, LTX2AVEmptyLatent=SIZE, LTX2AVSchedule={"steps": 4}, LTX2AVGemmaTextEncode={"prompt": PROMPT})
    change(prompt, LTX2AVSample={"seed": SEED, "text_scale": 1.0, "cross_modal_scale": 1.0})
    decode = {name: prompt[node(prompt, "LTX2AVDecode")]["inputs"][name] for name in ("model", "latent")}
    for name in ("LTX2AVDecode", "SaveVideo"):
        del prompt[node(prompt, name)]
    add(prompt, decoded=("LTX2AVVideoDecode", decode))
    add(prompt, pictures=("SaveImage", {"images": ["decoded", 0], "filename_prefix": "converted"}))

    def make(checkpoint: Path, gemma: Path) -> np.ndarray:
        names = [BUILT_IN if MINIATURE in path.parents else path.name for path in (checkpoint, gemma)]
        change(prompt, LTX2AVLoadModel={"checkpoint": names[0]}, LTX2AVLoadGemma={"text_encoder": names[1]})
        return pictures_in(saved(server, client.run(prompt), "pictures")).astype(float)

    return make


def in_core(*paths: Path) -> np.ndarray:
    more = {"steps": 4, "seed": SEED, "guidance": StreamGuidance(), "device": "cpu"}
    return (255 * generate(open_models(*paths), PROMPT, **SIZE, **more).frames).round().numpy()


def away(one: np.ndarray, other: np.ndarray) -> float:
    """The mean difference in 255ths of brightness."""
    return float(np.abs(one - other).mean())


@pytest.mark.parametrize("model", ALLOWED)
def test_clips_of_every_format_are_near_the_plain_one(server, on_graph, sources, model):
    """Of 2.3 in ComfyUI and of the miniature in the core, which reads the files of both."""
    make = on_graph if model == "2.3" else in_core
    plain = make(*sources[model])
    assert plain.std() > 5
    for format in (*WRITTEN, BF16):
        kinds = ("checkpoints", "unet"), ("text_encoders", "clip")
        far = away(make(*(written(server, model, format, *each) for each in zip(sources[model], kinds))), plain)
        print(f"{model} {format}: {far:.2f}")
        assert far < ALLOWED[model][format], (format, far)


# The same of transformers as other libraries write them, by the names of ``written.py``.
FROM_OTHERS = {
    "fp8 in blocks": 0.5, "fp8 in columns": 0.3, "int8 of the tensor": 0.2, "int8 in blocks": 0.2, "int8 rotated": 0.2,
    "int8 of quanto": 0.2, "int8 of bitsandbytes": 0.2, "nvfp4": 0.9, "mxfp8": 0.4, "w4a8": 1.6, "w4a4": 1.4,
    "nf4": 0.9,
}  # fmt: skip


@cache
def fitting(file: Path, format: str) -> list[str]:
    """The matrices of the blocks whose sides go into the groups of a format."""
    header, write, found = TensorFile(file), WRITERS[format][0], []
    for key in (key for key in header.entries if ".transformer_blocks." in key and len(header.shape(key)) == 2):
        with suppress(RuntimeError, AssertionError, ValueError):
            write(torch.ones(header.shape(key)))
            found.append(key)
    return found


@pytest.fixture
def far_with(server, on_graph, sources):
    """How far a clip of a model lies from the plain one with matrices in formats, by their names."""
    plain = cache(lambda model: on_graph(*sources[model]))

    def far(model: str, formats: dict[str, str]) -> float:
        (checkpoint, gemma), before = sources[model], plain(model)
        file = server.base / "models" / "checkpoints" / f"{model} rewritten.safetensors"
        assert rewrite(checkpoint, file, {f"^{re.escape(key)}$": format for key, format in formats.items()})
        return away(on_graph(file, gemma), before)

    return far


def test_files_of_other_libraries_make_clips_near_the_plain_one(far_with, sources):
    checkpoint, _ = sources["miniature"]
    for format in WRITERS:
        far = far_with("miniature", dict.fromkeys(fitting(checkpoint, format), format))
        print(f"{format}: {far:.2f}")
        assert 0 < far < FROM_OTHERS[format], (format, far)


def test_one_file_in_all_formats_makes_a_clip_near_the_plain_one(far_with, sources):
    checkpoint, _ = sources["2.3"]
    formats = {}
    for format in sorted(WRITERS, key=lambda each: len(fitting(checkpoint, each))):
        free = [key for key in fitting(checkpoint, format) if key not in formats]
        formats |= dict.fromkeys(free[::8], format)
    assert {*formats.values()} == {*WRITERS}
    far = far_with("2.3", formats)
    print(f"all formats: {far:.2f}")
    assert 0 < far < 0.2
