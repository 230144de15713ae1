"""Two owners of one card: ComfyUI takes memory back from us, and we from it; and a plan limits what we take."""

import pytest

pytestmark = pytest.mark.comfy

MB = 10**6


@pytest.fixture(scope="module")
def report(inside, tmp_path_factory):
    """What happened on a card of 100 MB: our network has 80 MB and needs 20 for its work, the other one 56 and 10."""
    return inside("small_card.py", tmp_path_factory.mktemp("base"))


def test_alone_we_take_all_that_we_need(report):
    assert report["alone"] == {"resident": 10, "most": 80 * MB, "ours": 80 * MB}


def test_the_host_takes_memory_back_for_a_model_of_its_own(report):
    core = report["core"]
    assert core["theirs"] == 56 * MB
    assert core["most"] <= 90 * MB  # beside its work
    assert 0 < core["ours"] < 80 * MB  # not more than it needed


def test_we_take_it_back_from_the_host(report):
    after = report["after it"]
    assert after["resident"] == 10 and after["most"] <= 80 * MB and after["theirs"] < 56 * MB


def test_a_plan_is_kept(report):
    """60 MB for all: 20 for the work, two blocks of 8 on their way, three that stay."""
    assert report["under a plan"]["resident"] == 3 and report["under a plan"]["most"] <= 40 * MB + 56 * MB
    assert report["tight"]["resident"] == 0 and report["tight"]["ours"] <= 10 * MB  # one block at a time
    assert report["refused"].startswith("sampling does not fit 21 MB, even when everything is streamed")


def test_everything_goes_when_the_host_says_so_and_comes_back(report):
    assert report["unloaded"] == {"ours": 0, "theirs": 0}
    assert report["again"]["resident"] == 10


def test_the_host_makes_room_for_graphs(report):
    assert report["asked"] == [25 * MB]


def test_nothing_is_planned_to_be_pinned_where_the_host_does_not_pin_or_the_card_shares_the_ram(report):
    assert report["pinned"] == [32 * 2**30, 0, 0]


def test_an_integrated_card_is_not_full_of_files(report):
    """ComfyUI counts 30 MB."""
    assert report["integrated"] == report["alone"]


def test_no_number_changes_wherever_the_weights_were(report):
    assert report["equal"] and report["weights"] == 80 * MB
