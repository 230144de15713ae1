"""How fast is this machine, and has an update made it slower?"""

import time

from comfy_api.latest import io

from ..ltx2_core.pipeline.benchmark import remember, time_job, verdict
from ..ltx2_core.pipeline.stage import TRANSFORMER
from . import host, inputs
from .engine import HostEngine, LoadedModel


class Benchmark(io.ComfyNode):
    """Runs a small job that is always the same, and compares its times with those of earlier runs."""

    @classmethod
    def define_schema(cls):
        return inputs.schema(
            "LTX2AVBenchmark",
            "loaders/Benchmark",
            inputs=[inputs.model("The LTX-2 model to measure with.")],
            outputs={"report": io.String},
            shows=True,
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, **inputs: object) -> int:
        return time.time_ns()  # another one in every run: it is measured each time

    @classmethod
    def execute(cls, model: LoadedModel) -> io.NodeOutput:
        engine = HostEngine(model, node=cls)
        timing = time_job(engine, host.machine(engine.device(TRANSFORMER)).name, host.software())
        report = f"{timing.describe()}\n{verdict(timing, remember(timing, host.cache_subfolder('benchmarks.json')))}"
        host.show_text(cls.hidden.unique_id, report)
        return io.NodeOutput(report)
