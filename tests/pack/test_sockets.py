"""What comes through a link can be anything: every input of every node makes a right result of it, or a sentence."""

import pytest

pytestmark = [pytest.mark.comfy, pytest.mark.slow]


def test_whatever_comes_to_an_input_is_used_or_refused_in_a_sentence(inside, tmp_path):
    """Nothing, the wrong type, size, batch or length, and empty values; what a node makes of them is then sampled."""
    report = inside("sockets.py", tmp_path)
    assert report["wrong"] == []
    assert report["tried"] > 4000
