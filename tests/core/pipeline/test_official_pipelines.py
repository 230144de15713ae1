"""Every official pipeline of 1.2.0 with its seed: the same clip, to 1e-5 (see ``official_pipelines.py``)."""

import json

import pytest
import torch
from official_parts import compare_samples
from official_pipelines import CASES_OF, VECTORS, Files, ours

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("unheard")]

RECORDED = json.loads(VECTORS.read_text())


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return {version: Files(tmp_path_factory.mktemp("official"), version) for version in CASES_OF}


@pytest.mark.parametrize(("version", "case"), [(version, case) for version in CASES_OF for case in CASES_OF[version]])
def test_an_official_clip_is_made_again_by_its_seed(files, version, case):
    made = ours(files[version], case)
    for stream, theirs in RECORDED[version][case].items():
        compare_samples(f"clip of {version}: {case}, {stream}", made[stream], theirs)


def test_every_pipeline_is_recorded():
    assert {version: set(cases) for version, cases in RECORDED.items()} == {v: set(c) for v, c in CASES_OF.items()}
    clips = [clip for cases in RECORDED.values() for case in cases.values() for clip in case.values()]
    assert all(len(clip["samples"]) >= 48 for clip in clips)


def test_the_noise_in_the_steps_of_hq_follows_the_seed_only_where_it_is_asked_to(files):
    official, by_seed = ours(files["2.3"], "hq"), ours(files["2.3"], "hq", step_noise="by seed")
    assert all(not torch.equal(official[stream], x) for stream, x in by_seed.items())
