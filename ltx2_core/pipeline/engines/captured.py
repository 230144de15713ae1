"""When steps of the transformer are CUDA graphs, what these keep, and what the plan says of it.

A graph saves the time in which the host starts the operations of a step. Where the card works longer than that, it
waits for nothing, and a graph would only take memory from the weights.
"""

from dataclasses import replace

import torch

from ...errors import counted
from ...memory.machine import Machine
from ...memory.placement import Room, StageNeed, gigabytes
from ...transformer import find_obstacle_of_allocator
from ..needs.blueprint import Blueprint
from ..stage import Stage

_PLAIN_RUNS = 2  # of a kind of step, which are computed the plain way: one to record, one to compare


def find_obstacle(stage: Stage, need: StageNeed, blueprint: Blueprint, device: torch.device, machine: Machine) -> str:
    """Return why the steps of ``stage`` are no CUDA graphs, whatever room there is; empty if they may be.

    Args:
        stage: that runs the transformer.
        need: of it; its cost is that of one step.
        blueprint: of the model.
        device: where it runs.
        machine: whose rates are taken.
    """
    if device.type != "cuda":
        return "only NVIDIA cards have them"
    if reason := find_obstacle_of_allocator():
        return reason
    if blueprint.devices * blueprint.processes > 1:
        return "several devices share the work"
    if (sampling := getattr(stage, "sampling", None)) is not None and sampling.settings.step_cache:
        return "the step cache looks at each step to decide what is computed"
    if need.walks > 1:
        return "the passes of a step take turns"
    if need.runs <= _PLAIN_RUNS:
        there = f"there {'is' if need.runs == 1 else 'are'} {counted(need.runs, 'step')}"
        return f"{there}, and the first {_PLAIN_RUNS} are computed the plain way"
    if (host := machine.starting(need.cost)) <= (card := machine.working(need.cost)):
        return f"the card works {card:.2f} s on a step, which the host starts in {host:.2f} s"
    return ""


def with_graphs(need: StageNeed, room: Room) -> StageNeed:
    """Return the need with the memory of graphs, if all weights stay on the card beside it; else as it is.

    The memory in which a step computes is kept for the replays, and the plain way needs as much for its own.
    """
    captured = replace(need, graph_bytes=need.cost.peak)
    return need if room.budget is None or captured.peak > room.budget else captured


def describe_graphs(need: StageNeed, obstacle: str, machine: Machine) -> str:
    """Say whether the steps of a stage are CUDA graphs, which were asked for, and why not."""
    if need.graph_bytes:
        host, card = machine.starting(need.cost), machine.working(need.cost)
        return (
            f"{need.name}: steps are CUDA graphs (cuda_graphs) from the third on, which keep "
            f"{gigabytes(need.graph_bytes)}: the host starts a step in {host:.2f} s, on which the card works "
            f"{card:.2f} s. What is gained is not counted here."
        )
    reason = obstacle or "there is no room for them beside all weights, and streamed ones lie elsewhere in each step"
    return f"{need.name}: steps are no CUDA graphs (cuda_graphs), since {reason}."
