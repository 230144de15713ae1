"""Nothing is copied, used, refilled, unpinned or freed before what must come first, in any order that a card may take.

``python tests/planted.py`` shows that each of these waits is needed: without it a scenario here finds a race.
"""

import pytest
from planted import FAULTS, SEEDS, found
from scenarios import SCENARIOS, complaints

import ltx2_core.memory


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
@pytest.mark.sample(20)
def test_every_access_is_ordered(scenario, seed):
    assert complaints(scenario, seed, ltx2_core.memory) == []


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
@pytest.mark.sample(3)
def test_a_missing_wait_is_found(fault):
    assert found(fault) is not None
