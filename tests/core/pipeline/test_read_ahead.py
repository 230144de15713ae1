"""Prompts of many clips are read ahead, each once, and what is kept is not read again."""

import ltx2_core as ltx2
from ltx2_core.pipeline.generate import completed
from ltx2_core.pipeline.read_ahead import check_clip, read_ahead
from ltx2_core.settings import Request

SMALL = {"width": 64, "height": 64, "frames": 9, "steps": 1, "device": "cpu"}


def test_prompts_are_read_once_and_kept(tmp_path):
    models, request = ltx2.open_models("miniature"), Request.of("a red ball", **SMALL)
    asked = check_clip(models, request, tmp_path)
    request = completed(models, request)
    assert "a red ball" in asked.words and asked.identity
    assert read_ahead(models, request, ["a red ball", "a blue ball", "a red ball"], tmp_path) == 2
    assert read_ahead(models, request, ["a red ball", "a green ball"], tmp_path) == 1
    assert read_ahead(models, request, ["a green ball", "a blue ball"], tmp_path) == 0
