"""How fast is this machine, and has an update made it slower?"""

import time

from comfy_api.latest import io

from ..ltx2_core.disk_cache import cache_folder
from ..ltx2_core.pipeline.benchmark import remember, time_job, verdict
from ..ltx2_core.pipeline.stage import TRANSFORMER
from . import host
from .engine import HostEngine, LoadedModel
from .inputs import sockets
from .node import Node


class Benchmark(Node):
    """Runs a small job that is always the same, and compares its times with those of earlier runs."""

    id = "LTX2AVBenchmark"
    title = "loaders/Benchmark"
    inputs = [sockets("model")]
    outputs = {"report": io.String}
    shows = ends_graph = True

    @classmethod
    def fingerprint_inputs(cls, **inputs: object) -> int:
        return time.time_ns()  # another one in every run: it is measured each time

    @classmethod
    def execute(cls, model: LoadedModel) -> io.NodeOutput:
        engine = HostEngine(model)
        timing = time_job(engine, host.machine(engine.device(TRANSFORMER)).name, host.software())
        report = f"{timing.describe()}\n{verdict(timing, remember(timing, cache_folder('benchmarks.json')))}"
        cls.show(report)
        return io.NodeOutput(report)
