"""The small job that tells whether an update made a machine slower: its parts, its memory, and its verdict."""

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
from fake_engine import FakeEngine

from ltx2_core.pipeline.benchmark import JOB, REPEATS, SIGMAS, Timing, remember, software_versions, time_job, verdict
from ltx2_core.quantization import library_version

OLD = {"torch": "2.10", "pack": "0.1"}
NEW = {"torch": "2.11", "pack": "0.1"}


def timing(step: float, software: dict = NEW, **more: object) -> Timing:
    return Timing("RTX 5090", "LTX-2.3", software, {"a step": step, "decoding": 1.0}, date="2026-11-02", **more)


@pytest.mark.slow
def test_every_part_is_timed_without_its_first_round(miniature):
    ticks: Iterator[int] = iter(range(10_000))
    engine = FakeEngine(miniature)
    found = time_job(engine, "this", NEW, clock=lambda: float(next(ticks)))
    assert found.seconds == {"a step": 1.0, "decoding": 1.0, "sound": 1.0}  # one tick of the clock each
    assert engine.used == ["sampling", "frames", "mel", "sound"] * REPEATS
    assert (found.machine, found.job) == ("this", JOB) and "float32" in found.model
    assert next(ticks) == REPEATS * (len(SIGMAS) - 1 + 2 * 2)


@pytest.mark.slow
def test_the_slow_first_round_does_not_count_and_of_the_others_the_faster_one_does(miniature):
    class Clock:
        now, asked = 0.0, 0

        def __call__(self) -> float:
            self.now += (100.0, 3.0, 1.0)[self.asked // (len(SIGMAS) - 1 + 4)]
            self.asked += 1
            return self.now

    assert set(time_job(FakeEngine(miniature), "this", NEW, clock=Clock()).seconds.values()) == {1.0}


def test_what_became_slower_is_told_with_what_has_changed():
    said = verdict(timing(2.6), [timing(2.0, OLD), timing(2.2, OLD)])
    assert said == "a step takes 2.6 s, 1.30 times as long as on 2026-11-02: since then torch 2.10 -> 2.11."
    assert "nothing that is known here has changed" in verdict(timing(1.3), [timing(1.0)])


def test_what_an_earlier_version_did_not_note_is_no_change():
    assert "since then torch 2.10 -> 2.11." in verdict(
        timing(1.3, NEW | {"comfy-kitchen": "0.2.41"}), [timing(1.0, OLD)]
    )
    assert software_versions()["comfy-kitchen"] == library_version()


def test_noise_and_a_first_run_are_no_news():
    assert verdict(timing(1.05), [timing(1.0, OLD)]).startswith("As fast as before (1 earlier run ")
    assert verdict(timing(0.5), [timing(1.0, OLD)]).startswith("As fast as before")
    assert "nothing to compare with" in verdict(timing(1.0), [])


def test_only_the_same_on_the_same_is_compared(tmp_path):
    path = tmp_path / "benchmarks.json"
    first = timing(1.0, OLD)
    assert remember(first, path) == []
    assert remember(replace(first, machine="RTX 4090"), path) == []
    assert remember(replace(first, model="LTX-2.0"), path) == []
    assert remember(timing(1.2), path) == [first]
    assert len(json.loads(path.read_text())["timings"]) == 4


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"timings": 7}', b'{"timings": [7]}', b'{"timings": [{"machine": "a"}]}']
)
def test_a_damaged_memory_is_begun_anew(tmp_path, content):
    path = tmp_path / "benchmarks.json"
    path.write_bytes(content)
    assert remember(timing(1.0), path) == []
    assert remember(timing(1.0), path) == [timing(1.0)]


def test_a_memory_that_cannot_be_written_costs_no_timing(tmp_path, caplog):
    (tmp_path / "file").touch()
    assert remember(timing(1.0), tmp_path / "file" / "benchmarks.json") == [] and "not kept" in caplog.text


def test_nothing_is_kept_without_a_folder():
    assert remember(timing(1.0), None) == []
