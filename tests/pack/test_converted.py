"""The host's own quantised layers take what the command ``convert`` writes."""

import pytest

from ltx2_core.checkpoint.convert import convert
from ltx2_core.checkpoint.models import MINIATURE

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
