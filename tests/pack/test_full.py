"""A disk or the RAM that is full leaves nothing half-written and nothing loaded, and is told in one sentence."""

import sys

import pytest

pytestmark = pytest.mark.comfy


@pytest.mark.skipif(sys.platform == "win32", reason="Windows limits no files")
def test_what_is_full_is_one_sentence_and_leaves_nothing(inside, tmp_path):
    report = inside("full.py", tmp_path)
    assert report["left"] == []
    assert "clip.mp4 cannot be written: File too large" in report["saved"]
    assert report["counts"] == [1, 0]
    assert report["ended"].startswith("Memory ran out: the RAM is full.")
