"""What the command ``convert`` writes: the host's own layers take it, and whole graphs make clips of it."""

from pathlib import Path

import numpy as np
import pytest
from pack.clip import pictures_in, saved
from pack.workflow import add, change, node

from ltx2_core import generate, open_models
from ltx2_core.checkpoint.convert import BF16, convert
from ltx2_core.checkpoint.models import MINIATURE
from ltx2_core.quantization import WRITTEN
from ltx2_core.sampling import StreamGuidance

pytestmark = [pytest.mark.comfy, pytest.mark.slow]


def test_the_host_reads_the_numbers_that_we_read(host, tmp_path):
    """Within the rounding of bfloat16, in which it computes; ComfyUI 0.20 knows no int8."""
    source, layers = MINIATURE / "ltx2-mini.safetensors", {}
    for format in ("fp8", "int8", "nvfp4"):
        layers[format] = len(convert(source, tmp_path / f"{format}.safetensors", format).layers)
    report = host.run_inside("converted.py", tmp_path)
    assert {"fp8", "nvfp4"} <= report.keys()
    for format, found in report.items():
        assert found["layers"] == layers[format] and found["away"] < 0.01, report


PROMPT = "a red ball bounces twice on the left, dark background"
SIZE = {"width": 64, "height": 64, "frames": 9}

# How far a picture may lie from that of the plain files, in 255ths of brightness, with nothing kept but gates: about
# twice what it does (ltx2_core/quantization/README.md).
ALLOWED = {
    "miniature": {"fp8": 1, "int8": 0.4, "nvfp4": 3, "q8_0": 0.4, "q4_k": 1.2, BF16: 0.4},
    "2.3": {"fp8": 1.2, "int8": 0.4, "nvfp4": 4, "q8_0": 0.4, "q4_k": 0.6, BF16: 0.4},
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


@pytest.mark.parametrize("model", ALLOWED)
def test_clips_of_every_format_are_near_the_plain_one(server, client, prompt, sources, model):
    change(prompt, LTX2AVEmptyLatent=SIZE, LTX2AVSchedule={"steps": 4}, LTX2AVGemmaTextEncode={"prompt": PROMPT})
    change(prompt, LTX2AVSample={"seed": 7, "text_scale": 1.0, "cross_modal_scale": 1.0})
    del prompt[node(prompt, "SaveVideo")]
    add(prompt, pictures=("SaveImage", {"images": [node(prompt, "LTX2AVDecode"), 1], "filename_prefix": "converted"}))

    def on_graph(checkpoint: str, gemma: str) -> np.ndarray:
        change(prompt, LTX2AVLoadModel={"checkpoint": checkpoint}, LTX2AVLoadGemma={"text_encoder": gemma})
        return pictures_in(saved(server, client.run(prompt), "pictures")).astype(float)

    def in_core(*paths: Path) -> np.ndarray:
        more = {"steps": 4, "seed": 7, "guidance": StreamGuidance(), "device": "cpu"}
        return (255 * generate(open_models(*paths), PROMPT, **SIZE, **more).frames).round().numpy()

    names = ("miniature (built in)", "miniature (built in)") if model == "miniature" else (
        sources[model][0].name, sources[model][1].name,
    )  # fmt: skip
    plain = [on_graph(*names), in_core(*sources[model])]
    assert plain[0].std() > 5
    for format in (*WRITTEN, BF16):
        kinds = ("checkpoints", "unet"), ("text_encoders", "clip")
        files = [written(server, model, format, *each) for each in zip(sources[model], kinds)]
        found = [on_graph(*(path.name for path in files)), in_core(*files)]
        away = [float(np.abs(one - other).mean()) for one, other in zip(found, plain)]
        print(f"{model} {format}: {away[0]:.2f} in ComfyUI, {away[1]:.2f} in core")
        assert max(away) < ALLOWED[model][format], (format, away)
