"""What passes of a step have in common is computed once, and what is alike in them as one batch."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from .state import States, StreamState, is_updated

Call = tuple[Any, ...]  # a state, and what belongs to it


def map_distinct(
    update: Callable[..., StreamState], states: States, *more: Sequence, wanted: Sequence[bool] | None = None
) -> States:
    """Call ``update(state, ...)`` once for each distinct combination of a state and what belongs to it in ``more``.

    Combinations of few tokens each that are of one kind are one batch, and one call. States that are not updated, or
    not ``wanted``, are returned as they are. ``states`` is emptied on the way, so that a state that has been used does
    not stay until the last one is. Of several states none is left to be added up later, which would hold its tokens
    twice meanwhile.
    """
    asked = [is_updated(state) for state in states] if wanted is None else wanted
    calls, results = list(zip(states, *more)), list(states)
    states.clear()
    several = len(set(calls)) > 1
    places: dict[Call, list[int]] = {}
    for place, call in enumerate(calls):
        if asked[place]:
            places.setdefault(call, []).append(place)
    calls.clear()
    batches = _batches(list(places))
    while batches:
        batch = batches.pop(0)
        for call, state in zip(batch, [update(*batch[0])] if len(batch) == 1 else _update_batch(update, batch)):
            if several:
                state.add_up()
            for place in places.pop(call):
                results[place] = state
        del batch, call
    return results


def _batches(calls: Sequence[Call]) -> list[list[Call]]:
    """Put calls of one kind together."""
    batches: dict[Hashable, list[Call]] = {}
    for call in calls:
        kinds = tuple(each.kind if isinstance(each, StreamState) else each for each in call)
        batches.setdefault(call if None in kinds else kinds, []).append(call)
    return list(batches.values())


def _update_batch(update: Callable[..., StreamState], calls: Sequence[Call]) -> list[StreamState]:
    """Make one call of several, in which every state has the tokens of all, and divide what it returns."""
    columns = list(zip(*calls))
    batch = (StreamState.batch(each) if isinstance(each[0], StreamState) else each[0] for each in columns)
    made = update(*batch)
    made.add_up()
    return [state.with_tokens(x) for state, x in zip(columns[0], made.x.split(1))]
