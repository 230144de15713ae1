"""What several devices gain: the time of a step when its passes, its tiles or its tokens are dealt out.

Nothing is loaded.
"""

from collections.abc import Sequence
from dataclasses import replace

from ...errors import SettingError, counted
from ...memory.placement import Placement, Room, place
from ..decode_video import DecodeVideo
from ..encode_conditions import EncodeVideo
from ..needs.blueprint import Blueprint
from ..needs.passes import bytes_sent, need_of_passes, passes_on_meta
from ..plan import Plan
from ..refine import Refine
from ..sample import Sample
from ..stage import Load, Stage, need_of
from .devices import deal

# Bytes per second from a card to others, by data sheet: half of what NVLink has in both directions. Cards without it
# send through the host.
NVLINK = {"H100": 450e9, "H200": 450e9}


def describe_gain(plan: Plan, blueprint: Blueprint, rooms: Sequence[Room], load: Load) -> list[str]:
    """Say for each stage that several devices share how long a step, or all tiles of a picture, take on them.

    The time is that of the slowest device. What goes between the devices, the inputs and velocities of a pass, is some
    megabytes and is not counted.

    Args:
        plan: for the first device, whose stages fit.
        blueprint: of the model.
        rooms: of all devices, the first one first.
        load: as for ``plan_stages``.
    """
    lines = []
    for stage in plan.stages if plan.fits and len(rooms) > 1 else ():
        if isinstance(stage, (Sample, Refine)):
            able, left_out = _able(stage, blueprint, rooms, load)
            lines += [*left_out, _step(stage, blueprint, able, load)]
            if len({room.machine.name for room in rooms}) == 1:
                lines.append(_sequence(stage, blueprint, rooms[0], len(rooms), load))
        elif isinstance(stage, (EncodeVideo, DecodeVideo)) and (count := stage.count_tiles(blueprint)) > 1:
            lines += _coding(stage, count, blueprint, rooms, load)
    return lines


def _coding(
    stage: EncodeVideo | DecodeVideo, count: int, blueprint: Blueprint, rooms: Sequence[Room], load: Load
) -> list[str]:
    """Say how long encoding or decoding takes, all tiles taken for equally large."""
    able, left_out = _able(stage, blueprint, rooms, load)
    seconds, share = [each.run for _, each in able], stage.share_of_tiles(blueprint)
    tiles, shares = _tiles(count, [share * each / count for each in seconds])
    after = (1 - share) * seconds[0] + tiles
    dealt = _dealt(
        [room for room, _ in able], [f"{each} of {counted(count, 'tile')}" if each else "" for each in shares]
    )
    before = f"{after:.2f} s instead of {seconds[0]:.2f} s"
    return [*left_out, f"{stage.name} on {len(able)} devices: {before} ({dealt})"]


def describe_sharing(plan: Plan, blueprint: Blueprint, room: Room, load: Load) -> list[str]:
    """Say for each stage of the transformer how long a step takes for the processes that share it, and for one.

    Args:
        plan: of one of the processes, whose stages fit.
        blueprint: of the model over all processes.
        room: of one of them.
        load: as for ``plan_stages``.
    """
    lines = []
    for stage in plan.stages if plan.fits else ():
        if isinstance(stage, (Sample, Refine)):
            alone = place(load(stage, need_of(stage, blueprint.over(1))), room)
            seconds = "does not fit" if alone is None else f"takes {_sweeps(stage, alone) * alone.run:.2f} s"
            shared = _sequence(stage, blueprint, room, blueprint.processes, load)
            lines.append(f"{shared}; one card alone {seconds}")
    return lines


def _sequence(stage: Sample | Refine, blueprint: Blueprint, room: Room, count: int, load: Load) -> str:
    """Say how long a step takes if each pass is shared by so many processes, one for each of equal cards."""
    shared, machine = blueprint.over(count), room.machine
    try:
        placement = place(load(stage, need_of(stage, shared)), room)
    except SettingError as error:
        return f"{stage.name} with torchrun: {error}"
    if placement is None:
        return f"{stage.name} with torchrun on {count} cards does not fit {machine.name}."
    size, sweeps = stage.tile if isinstance(stage, Refine) else stage.size, _sweeps(stage, placement)
    sent = bytes_sent(shared, size, stage.sampling.passes_of(size))
    rate = NVLINK.get(machine.name, machine.link)
    way = "NVLink" if machine.name in NVLINK else "the host"
    seconds = sweeps * (placement.run + sent / rate)
    return (
        f"{stage.name} with torchrun on {count} cards, which share each pass: {seconds:.2f} s a step, of which "
        f"{sweeps * sent / rate:.2f} s to exchange {sweeps * sent / 1e9:.1f} GB through {way} at {rate / 1e9:.0f} GB/s "
        "(data sheet)"
    )


def _able(
    stage: Stage, blueprint: Blueprint, rooms: Sequence[Room], load: Load
) -> tuple[list[tuple[Room, Placement]], list[str]]:
    """Return the devices that a stage fits, and a sentence for each other one."""
    need = load(stage, need_of(stage, blueprint))
    found = [(room, place(need, room)) for room in rooms]
    left_out = [room.machine.name for room, each in found if each is None]
    able = [(room, each) for room, each in found if each is not None]
    return able, [f"{stage.name} does not fit {name}, which is left out." for name in left_out]


def _dealt(rooms: Sequence[Room], words: Sequence[str]) -> str:
    """Say who does what; who does nothing is not named."""
    return "; ".join(f"{room.machine.name}: {each}" for room, each in zip(rooms, words) if each)


def _step(stage: Sample | Refine, blueprint: Blueprint, able: Sequence[tuple[Room, Placement]], load: Load) -> str:
    """Say how long a step takes if its tiles, or its passes, are dealt out."""
    run, sweeps = able[0][1].run, _sweeps(stage, able[0][1])
    if sweeps > 1:
        after, shares = _tiles(sweeps, [each.run for _, each in able])
        words = [f"{share} of {sweeps} tiles" if share else "" for share in shares]
    else:
        after, words = _passes(stage, blueprint, able, load)
    dealt = _dealt([room for room, _ in able], words)
    return f"{stage.name} on {len(able)} devices: {after:.2f} s a step instead of {sweeps * run:.2f} s ({dealt})"


def _sweeps(stage: Sample | Refine, placement: Placement) -> int:
    """How often the network is asked in a step: once for each tile."""
    if not isinstance(stage, Refine):
        return 1
    return placement.need.runs // (stage.sampling.steps * stage.sampling.sampler.calls)


def _tiles(count: int, seconds: Sequence[float]) -> tuple[float, list[int]]:
    """Seconds of ``count`` tiles, each taken by who is done first, and how many each device makes.

    Args:
        count: of tiles.
        seconds: that one takes on each device.
    """
    shares = [0] * len(seconds)
    for _ in range(count):
        ends = [(share + 1) * each for share, each in zip(shares, seconds)]
        shares[ends.index(min(ends))] += 1
    return max(share * each for share, each in zip(shares, seconds)), shares


def _passes(
    stage: Sample | Refine, blueprint: Blueprint, able: Sequence[tuple[Room, Placement]], load: Load
) -> tuple[float, list[str]]:
    """Seconds of a step whose passes are dealt out, and the passes of each device."""
    sampling, size = stage.sampling, stage.size
    names = sampling.passes_of(size)
    passes = passes_on_meta(blueprint, size, names)
    late = frozenset({sampling.guidance.first_stg_block})
    passes = [
        replace(each, perturbation=replace(each.perturbation, video_values_only=late, audio_values_only=late))
        if name == "perturbed"
        else each
        for name, each in zip(names, passes)
    ]
    shares = deal(passes, [placement.rate(room.machine) for room, placement in able], blueprint.layers)
    own = [tuple(names[number] for number in share) for share in shares]
    seconds = [_seconds(stage, blueprint, room, each, load) for (room, _), each in zip(able, own) if each]
    return max(seconds), [", ".join(each) for each in own]


def _seconds(stage: Sample | Refine, blueprint: Blueprint, room: Room, names: tuple[str, ...], load: Load) -> float:
    """Seconds in which a device makes these passes, with the weights placed as for all of them."""
    sampling = stage.sampling
    need = need_of_passes(blueprint, stage.size, names, sampling.steps, sampling.guidance.first_stg_block, stage.name)
    placement = place(load(stage, need), room)
    assert placement is not None  # since all passes fit
    return placement.run
