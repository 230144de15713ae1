"""Every official pipeline of 1.2.0 with its seed: the same clip, to 1e-5 (see ``official_pipelines.py``)."""

import json

import pytest
import torch
from agreement import compare
from official_pipelines import CASES, VECTORS, Files, ours, shortened

pytestmark = pytest.mark.slow

RECORDED = json.loads(VECTORS.read_text())


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return Files(tmp_path_factory.mktemp("official"))


@pytest.mark.sample(1)
@pytest.mark.parametrize("case", CASES)
def test_an_official_clip_is_made_again_by_its_seed(files, case):
    made = ours(files, case)
    for stream, theirs in RECORDED[case].items():
        found = shortened(made[stream])
        assert (found["shape"], found["step"]) == (theirs["shape"], theirs["step"])
        compare(f"clip: {case}, {stream}", torch.tensor(found["samples"]), torch.tensor(theirs["samples"]))


def test_every_pipeline_is_recorded():
    assert set(RECORDED) == set(CASES)
    assert all(len(each["samples"]) >= 48 for case in RECORDED.values() for each in case.values())


def test_the_noise_in_the_steps_of_hq_follows_the_seed_only_where_it_is_asked_to(files):
    official, by_seed = ours(files, "hq"), ours(files, "hq", step_noise="by seed")
    assert all(not torch.equal(official[stream], x) for stream, x in by_seed.items())
