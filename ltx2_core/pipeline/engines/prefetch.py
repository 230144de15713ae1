"""Which weights are read from disk while a stage runs: those of the stages behind it."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

from ...checkpoint import Models
from ...checkpoint.upscaler import UpscalerFile
from ...disk_cache.mapped import FileSpan
from ...memory.machine import shares_ram
from ...memory.page_cache import ReadAhead, cut
from ...memory.placement import DISK, Placement, gigabytes
from ..engine import Engine
from ..plan import Plan
from ..stage import (
    AUDIO_DECODER,
    CONNECTORS,
    TEXT_ENCODER,
    TEXT_FEATURES,
    TRANSFORMER,
    VIDEO_DECODER,
    VOCODER,
    NetworkKey,
    Stage,
)

_log = logging.getLogger(__name__)

# What nearly every clip needs, in this order. An owner that is asked for one stage at a time, as nodes of a graph do,
# has no plan of what comes next.
_OF_A_CLIP = (TEXT_ENCODER, TEXT_FEATURES, CONNECTORS, TRANSFORMER, AUDIO_DECODER, VOCODER, VIDEO_DECODER)

_TOLD = 10**8  # bytes; of less the log says nothing


def networks_behind(stage: Stage, plan: Plan | None) -> list[NetworkKey[Any]]:
    """Return what the stages behind ``stage`` work with, the next one first; without a plan, what a clip usually needs.

    The networks of the stage itself are not among them.
    """
    behind: Sequence[NetworkKey[Any]]
    if plan is not None:
        behind = plan.networks_after(stage.name)
    else:
        own = [_OF_A_CLIP.index(key) for key in stage.networks if key in _OF_A_CLIP]
        behind = _OF_A_CLIP[max(own) + 1 :] if own else ()
    return [key for key in dict.fromkeys(behind) if key not in stage.networks]


def spans_of(models: Models, key: NetworkKey[Any]) -> list[FileSpan]:
    """Return where the weights of a network lie; nothing for a text encoder, which is behind no other network."""
    if isinstance(key.source, UpscalerFile):
        return key.source.file.spans(key.source.file.keys())
    sources = [models.sources[name] for name in key.components if name in models.sources]
    return [span for source in sources for span in source.file.spans(source.names.values())]


@contextmanager
def reading_ahead(
    engine: Engine, stage: Stage, plan: Plan | None, placement: Placement | None, done: set[FileSpan]
) -> Iterator[None]:
    """Read what the stages behind ``stage`` need into the system's page cache, while the context lasts.

    What does not fit beside the stage is left to be read when it is needed, as without this. It is not done

    * where nothing is placed: the files are small beside the RAM, or somebody else's;
    * while the stage reads weights from the disk itself, for it would wait for them.

    Args:
        engine: owner of the card.
        stage: that runs, its weights in their places.
        plan: of all stages; None where it is not known.
        placement: of the stage.
        done: what was read ahead before; this grows.
    """
    pieces = {} if placement is None or DISK in placement.tiers else _pieces(engine, networks_behind(stage, plan))
    every = list(chain(*pieces.values()))
    if placement is None or done.issuperset(every):
        yield
        return
    # Work and weights may lie in the same RAM, and may not be there yet.
    shared = placement.device_bytes if shares_ram(engine.device(stage.networks[0])) else 0
    with ReadAhead(every, lambda: engine.spare_ram - shared, done) as reading:
        yield
    if reading.nbytes >= _TOLD:
        names = " and ".join(key.name for key, each in pieces.items() if done.intersection(each))
        how = gigabytes(reading.nbytes), names, stage.name, reading.nbytes / 1e9 / reading.seconds
        _log.info("Read %s ahead, of %s, while the stage %s ran (%.1f GB/s)", *how)


def _pieces(engine: Engine, keys: Sequence[NetworkKey[Any]]) -> dict[NetworkKey[Any], list[FileSpan]]:
    """What is to be read of each network that is not built yet; those of missing files are left out."""
    files = engine.models.sources
    wanted = (key for key in keys if all(name in files for name in key.components) and not engine.holds(key))
    return {key: list(cut(spans_of(engine.models, key))) for key in wanted}
