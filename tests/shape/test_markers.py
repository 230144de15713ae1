"""What a test imports tells whether it is an oracle, and what it starts whether it is slow."""

import subprocess
import sys

import pytest
from markers import uses_oracle

MODULE = """
from official import tiny_section, official
import torch
{top}
def helper():
    return pytest.importorskip("diffusers.schedulers")
@pytest.fixture
def theirs():
    from ltx_core.types import X
def test_plain(): tiny_section(), torch.ones(1), pytest.importorskip("sentencepiece")
def test_imports(): import scipy
def test_skips(): pytest.importorskip("peft")
def test_helped(): indirect()
def indirect(): return [helper]
def test_fixture(theirs): pass
def test_official(): official()
"""


@pytest.mark.parametrize(
    ("name", "fixtures", "expected"),
    [
        ("test_plain", (), False),
        ("test_plain", ("theirs",), True),
        ("test_imports", (), True),
        ("test_skips", (), True),
        ("test_helped", (), True),
        ("test_fixture", (), True),
        ("test_official", (), True),
    ],
)
def test_oracles(tmp_path, name, fixtures, expected):
    path = tmp_path / "test_example.py"
    path.write_text(MODULE.format(top=""))
    assert uses_oracle(path, name, fixtures) == expected


def test_a_file_that_cannot_be_read_without_an_oracle(tmp_path):
    path = tmp_path / "test_example.py"
    path.write_text(MODULE.format(top='pytest.importorskip("scipy")'))
    assert uses_oracle(path, "test_plain", ())


def test_only_what_is_slow_starts_a_process():
    with pytest.raises(pytest.fail.Exception, match=r"starts .*; mark it slow"):
        subprocess.run([sys.executable, "-c", ""], check=True)


@pytest.mark.slow
def test_what_is_slow_may():
    subprocess.run([sys.executable, "-c", ""], check=True)
