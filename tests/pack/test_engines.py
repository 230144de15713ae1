"""One request makes one clip, to the bit, whoever owns the card: the core, ComfyUI, nobody; with little RAM, too."""

from importlib import import_module

import pytest
import tiny_parts
import torch
from fake_engine import FakeEngine
from pack.clip_request import digest, request_of

from ltx2_core import open_models, tiny
from ltx2_core.checkpoint.upscaler import open_upscaler
from ltx2_core.pipeline.generate import run

pytestmark = pytest.mark.comfy


def core(name: str):
    return import_module(f"ltx2_core.{name}")


@torch.inference_mode()
def test_core_and_pack_make_the_same_clip(inside, tmp_path):
    checkpoint, gemma, _ = tiny.write(tmp_path, "2.3")
    upscaler = open_upscaler(tiny_parts.write_upscaler(tmp_path))
    report = inside("engines.py", tmp_path)
    made = report["made"]
    for streamed in ("streamed", "in RAM"):
        assert {"sampling", "refining", "frames"} <= set(report[streamed])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        made["nobody"] = digest(
            run(models := open_models(checkpoint, gemma), request_of(core, upscaler), FakeEngine(models))
        )
    finally:
        torch.set_num_threads(threads)
    assert len({tuple(sorted(hashes.items())) for hashes in made.values()}) == 1, made
    assert len(made) == 7
    assert report["twins"] == [2] * 4  # sampling and refining, twice
    assert report["folded"] == 0, "LoRAs in weights outlive the value that has them"
    assert not report["graphs"], "something keeps steps from being CUDA graphs"
