"""What holds for every test: one thread, a fixed seed, no downloads, nothing kept between runs.

And ``--agreement``, which prints the figures.
"""

import os

import pytest
import torch
from agreement import FIGURES

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["LTX2_CACHE"] = ""  # nothing is read from or written into the user's cache
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_random_numbers_each_time():
    torch.manual_seed(0)


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
