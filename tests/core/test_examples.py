"""The examples of the papers run as they stand, in an empty folder with the files that they name."""

import re
import shutil
import subprocess
from pathlib import Path
from runpy import run_path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
LORA = ROOT / "ltx2_core" / "mini" / "loras" / "golden-ball.safetensors"
EXAMPLES = [
    pytest.param(block, id=f"{page} {number}")
    for page in ("README.md", "ltx2_core/README.md")
    for number, block in enumerate(
        re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    )
]


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_runs(example, tmp_path, monkeypatch):
    pytest.importorskip("av")
    monkeypatch.chdir(tmp_path)
    for name in re.findall(r'read_picture\("([^"]+)"\)', example):
        Image.new("RGB", (160, 120), (90, 110, 130)).save(name)
    for name in re.findall(r'open_lora\("([^"]+)"\)', example):
        shutil.copy(LORA, name)
    (tmp_path / "example.py").write_text(example, encoding="utf-8")
    names = run_path("example.py")
    assert names["clip"].fps > 0
    for written in re.findall(r'write_clip\("([^"]+)"', example):
        assert Path(written).stat().st_size > 1000


def test_there_are_examples():
    assert len(EXAMPLES) >= 3


@pytest.mark.slow
def test_the_media_that_workflows_open_with_are_in_the_repository():
    """Not only in the folder of whoever made them: an ignored file is missing in every clone."""
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("not a checkout")
    command = ["git", "ls-files", "workflows/examples"]
    tracked = {Path(each).name for each in subprocess.check_output(command, cwd=ROOT, text=True).split()}
    named: set[str] = set()
    for path in (ROOT / "workflows").glob("*.json"):
        named |= {*re.findall(r"\bltx2_example_\w+\.\w+", path.read_text(encoding="utf-8"))}
    assert named and named <= tracked
