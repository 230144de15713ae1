"""The benchmark on the graph: measured at every run, and compared with what it measured before."""

import pytest
from pack.workflow import add, node

pytestmark = pytest.mark.comfy


def test_each_run_measures_and_compares_with_those_before(client, prompt):
    loader = node(prompt, "LTX2AVLoadModel")
    prompt = add({loader: prompt[loader]}, bench=("LTX2AVBenchmark", {"model": [loader, 0]}))
    runs = [client.run(prompt) for _ in range(2)]
    assert [run.end for run in runs] == ["execution_success"] * 2
    first, second = (dict(run.texts)["bench"] for run in runs)
    assert first.startswith("512 x 320, 33 frames on ") and "a step" in first and "decoding" in first
    assert "nothing to compare with" in first
    assert "As fast as before" in second or "times as long as on" in second
