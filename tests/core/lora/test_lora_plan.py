"""What LoRAs take is in the plan: bytes that come and stay or go, and time; and it is what a run takes."""

import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from peak import Peak
from planned import SAMPLING, SLOW, follow, running, sampling, small
from safetensors.torch import save_file

from benchmarks.clips import shapes_of_lora
from benchmarks.no_card import write_zeros
from ltx2_core.__main__ import main
from ltx2_core.checkpoint.files import TensorFile
from ltx2_core.geometry import ClipShape
from ltx2_core.lora import LoraAdapter, Stack, Strengths, open_lora
from ltx2_core.memory import Plain, Room, Store, place
from ltx2_core.memory.machine import machine_named
from ltx2_core.memory.placement import DISK
from ltx2_core.pipeline.engines.prepare import RunLoad, changes_of
from ltx2_core.pipeline.needs.passes import passes_on_meta
from ltx2_core.pipeline.plan import plan_stages
from ltx2_core.pipeline.stage import TRANSFORMER as KEY
from ltx2_core.pipeline.stage import LatentSize, Load
from ltx2_core.pipeline.stages import stages_of_clip
from ltx2_core.transformer import Pass, Perturbation

CARD = torch.device("cuda")
SHAPE = ClipShape(1280, 704, 121, Fraction(24))


def stack_of(path: Path) -> Stack:
    return ((open_lora(path), Strengths()),)


@pytest.mark.parametrize("format", ["bf16", "fp8"])
def test_a_plan_has_the_lora_in_it(released, tmp_path, format):
    """Of rank 384 on every matrix: what is fused passes through, what is computed beside float8 stays."""
    found, machine = released("2.3", format), machine_named("RTX 4090")
    path = write_zeros(tmp_path / "lora.safetensors", shapes_of_lora(found.network("transformer"), 384))
    load = RunLoad(stack_of(path), CARD, found)
    stages, room = stages_of_clip(found, SHAPE, SAMPLING), Room(machine, machine.budget, 64 * 2**30)
    without, with_it = (plan_stages(stages, found, room, SHAPE, each) for each in (Load(), load))
    plain, laden = (each.placement("sampling") for each in (without, with_it))
    stays = laden.need.weights.total - plain.need.weights.total
    passes = sum(laden.need.weights.blocks.passing)
    assert stays + passes == sum(entry.nbytes for entry in TensorFile(path).entries.values()) > 7e9
    assert (stays == 0) == (format == "bf16") and passes > 0  # the ends are not in float8
    assert laden.device_bytes <= machine.budget and with_it.fits
    assert laden.run > 1.01 * plain.run and laden.load > plain.load
    for stage in stages:  # no other stage has a network that the LoRA changes
        if KEY not in stage.networks:
            assert with_it.placement(stage.name) == without.placement(stage.name)


@pytest.mark.slow
def test_the_command_line_plans_with_loras(released, tmp_path, capsys):
    """The table has a row for each stage, with the bytes of its weights."""
    path = write_zeros(
        tmp_path / "lora.safetensors", shapes_of_lora(released("2.3", "fp8").network("transformer"), 384)
    )
    words = ["plan", "--version", "2.3", "--format", "fp8", "--card", "RTX 4090", "--steps", "8", "--frames", "25"]
    sizes = []
    for more in ([], ["--lora", f"{path}:0.5"]):
        assert main([*words, *more]) == 0
        row = re.search(r"^sampling +([\d.]+) GB", capsys.readouterr().out, re.MULTILINE)
        sizes.append(float(row[1]))
    assert sizes[1] - sizes[0] == pytest.approx(6.5, abs=0.2)  # of 7.4 GB, those beside matrices in float8


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("share", [0.55, 0.95])
@pytest.mark.slow
def test_a_run_takes_what_the_plan_with_its_lora_says(tmp_path, fused, share):
    """Weights, what comes with them, and the work."""
    found, size = small("2.3", layers=6), LatentSize.of_clip(ClipShape(256, 256, 9, Fraction(24)))
    network = running(found)
    shapes = shapes_of_lora(network, 48)
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, tmp_path / "lora.safetensors")
    stack = stack_of(tmp_path / "lora.safetensors")
    stage = next(each for each in stages_of_clip(found, SHAPE, SAMPLING) if each.name == "sampling")
    load = RunLoad(stack, CARD if fused else torch.device("cpu"), found)
    plain = sampling(found, size)
    need = load(stage, plain)
    placement = place(need, Room(SLOW, need.work_bytes + int(share * need.weights.total), 0))
    assert placement is not None and 0 < placement.tiers.count(DISK) < len(placement.tiers)
    adapter, store = LoraAdapter(network, stack, fuse=fused), Store(network, "cpu", link=Plain("cpu"))
    (step,) = passes_on_meta(found, size, ("cond",))
    given = [Pass(*(replace(each, **{
        name: torch.zeros(value.shape) for name, value in vars(each).items() if isinstance(value, torch.Tensor)
    }) for each in (step.video, step.audio)), Perturbation())]  # fmt: skip
    store.patch(changes_of(adapter))
    with torch.inference_mode(), Peak() as measured:
        follow(store, placement)
        with store.use(), adapter.attached():
            assert store.staying.count(False) == placement.tiers.count(DISK)
            network.sweep(given)
    planned = placement.weight_budget + plain.cost.peak
    assert planned == pytest.approx(measured.bytes, rel=0.15)
    assert need.weights.sent_total > 1.3 * plain.weights.total
