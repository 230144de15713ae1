"""What holds for every test: one thread, a fixed seed, no downloads, nothing kept between runs.

The markers ``oracle`` and ``slow`` are set here where a test's imports or fixtures say so; what is not slow starts no
process. And ``--agreement``, which prints the figures.
"""

import gc
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from functools import cache

import pytest
import torch
from agreement import FIGURES
from markers import uses_oracle

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["LTX2_CACHE"] = ""  # nothing is read from or written into the user's cache
torch.set_num_threads(1)


CARD = torch.cuda.is_available()


@pytest.fixture(autouse=True)
def _same_random_numbers_each_time():
    """What ``torch.manual_seed`` does; without a card that imports the compiler and keeps a traceback of each call."""
    torch.default_generator.manual_seed(0)
    if CARD:
        torch.cuda.manual_seed_all(0)


@pytest.fixture(autouse=True)
def _only_what_is_slow_starts_a_process(request, monkeypatch):
    """Another process takes seconds of a processor, to import what this one has."""
    if not any(map(request.node.get_closest_marker, ("slow", "comfy", "browser", "cuda"))):
        monkeypatch.setattr(subprocess.Popen, "__init__", _refuse_process)


def _refuse_process(process, args, *_, **__):
    pytest.fail(f"This test starts {args}; mark it slow (tests/README.md).")


# Fixtures that take seconds: networks at full size.
SLOW_FIXTURES = {"released"}


def pytest_collection_modifyitems(items):
    mark_all_but_samples(items)
    for item in items:
        fixtures = tuple(item.fixturenames)
        if uses_oracle(item.path, item.originalname, fixtures):
            item.add_marker(pytest.mark.oracle)
        if SLOW_FIXTURES & {*fixtures}:
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish():
    """Let the garbage collector look at what tests make, and seldom; torch and the tests themselves stay anyway."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


HAS_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Empty the folder of a test that has passed, for all of them together take gigabytes.

    The folder itself stays: a test that got one of the same name would write files that look like the former.
    """
    report = yield
    if report.failed:
        item.stash[HAS_FAILED] = True
    if call.when == "teardown" and HAS_FAILED not in item.stash and (folder := item.funcargs.get("tmp_path")):
        shutil.rmtree(folder, ignore_errors=True)  # Windows removes no file that is mapped
        folder.mkdir(exist_ok=True)
    return report


def mark_all_but_samples(items):
    """Of a test that is marked ``sample(n)``, all cases are slow but n of them, spread evenly."""
    cases = defaultdict(list)
    for item in items:
        if item.get_closest_marker("sample"):
            cases[item.path, item.originalname].append(item)
    for group in cases.values():
        (wanted,) = group[0].get_closest_marker("sample").args
        kept = {number * len(group) // wanted for number in range(wanted)}
        for number, item in enumerate(group):
            if number not in kept:
                item.add_marker(pytest.mark.slow)


@pytest.fixture
def windows(monkeypatch):
    """As much of Windows as Python lets anybody pretend."""
    monkeypatch.setattr(sys, "platform", "win32")
    for name in ("posix_fadvise", "pread", "preadv", "sysconf"):
        monkeypatch.delattr(os, name, raising=False)


@pytest.fixture(scope="session")
def released():
    """The networks of a release as shapes, made once: ``released("2.3", "fp8")``."""
    from ltx2_core.pipeline.needs.blueprint import Blueprint

    return cache(lambda version, format="bf16": Blueprint.of_version(version, format))


@pytest.fixture(scope="session")
def tiny_files(tmp_path_factory):
    """Tiny random models, written once: ``tiny_files("2.3")`` is checkpoint, Gemma folder and Gemma file to read."""
    from ltx2_core import tiny

    return cache(lambda version: tiny.write(tmp_path_factory.mktemp(f"tiny-{version}"), version))


@pytest.fixture(scope="module")
def models(tiny_files):
    """The tiny model of 2.3, opened."""
    import ltx2_core as ltx2

    checkpoint, gemma, _ = tiny_files("2.3")
    return ltx2.open_models(checkpoint, gemma)


@pytest.fixture(scope="module")
def miniature():
    """The built-in model, opened."""
    import ltx2_core as ltx2

    return ltx2.open_models("miniature")


@pytest.fixture
def without_gradients():
    """Let what a test computes record nothing for gradients."""
    with torch.no_grad():
        yield


@pytest.fixture
def unheard(monkeypatch):
    """Let no sound be decoded, of which a test looks at latents or pictures alone."""
    from ltx2_core.pipeline.decode_audio import DecodeAudio

    monkeypatch.setattr(DecodeAudio, "run", lambda *_: (torch.zeros(1, 2, 1), 1))


@pytest.fixture(scope="session")
def whole(tiny_files, tmp_path_factory):
    """Files of every kind as they should be, of which tests damage copies."""
    import damage

    return damage.whole_files(tmp_path_factory.mktemp("whole"), *tiny_files("2.3"))


@pytest.fixture(scope="session")
def tiny_blueprint(tiny_files):
    """The networks of a tiny model as shapes, from the headers of its files, and these files."""
    import ltx2_core as ltx2
    from ltx2_core.checkpoint.text_encoder import open_text_encoder
    from ltx2_core.pipeline.needs.blueprint import Blueprint

    checkpoint, gemma, _ = tiny_files("2.3")
    models = ltx2.open_models(checkpoint, gemma)
    dtypes = dict.fromkeys((*models.sources, "text_encoder"), torch.float32)
    return Blueprint.of_files(models, open_text_encoder(gemma), dtypes), models


def pytest_addoption(parser):
    parser.addoption(
        "--agreement", action="store_true", help="show how near each seam comes to the official implementation"
    )


def pytest_terminal_summary(terminalreporter, config):
    if not config.getoption("agreement"):
        return
    terminalreporter.section("agreement with the official implementation")
    if not FIGURES:
        terminalreporter.line("No seam was compared: these tests need ltx-core 1.0.0, which `make test` installs.")
        return
    width = max(map(len, FIGURES))
    terminalreporter.line(f"{'seam':{width}} | relative error | allowed")
    terminalreporter.line(f"{'-' * width}-|----------------|--------")
    for seam, (error, allowed) in FIGURES.items():
        terminalreporter.line(f"{seam:{width}} | {error:14.1e} | {allowed:7.0e}")
