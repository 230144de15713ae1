"""The prompts of many clips, read in one load of the text encoder before the first of them is made."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from ..checkpoint import Models
from ..memory.placement import StageNeed
from ..settings import CompleteRequest, Request
from ..text import Features, Tokenizer, compute_hidden_states, extract_features
from .encode_text import Connect, ProjectFeatures, ReadPrompts, contexts_cache, readable_prompt
from .engine import Engine
from .engines.local import LocalEngine
from .generate import check_ahead, check_decoders, completed
from .needs.blueprint import Blueprint
from .precision import clean_inference
from .stage import TEXT_ENCODER, TEXT_FEATURES, Events, Networks, Stage

KEPT_BYTES = 2**36  # of the prompts of a batch on disk; one takes 12 MB in bfloat16
CONNECTED_AT_ONCE = 16  # prompts, whose contexts lie on the card together
MOST_AT_ONCE = 256  # prompts in one load of Gemma; the features of each are 12 MB of RAM until they are connected


@dataclass(frozen=True)
class ReadInTurn(Stage):
    """Read prompts one at a time and project each at once, because the hidden states of one take 385 MB.

    Gemma is loaded once for all of them.
    """

    name = "prompts"
    networks = (TEXT_ENCODER, TEXT_FEATURES)

    def need(self, blueprint: Blueprint) -> StageNeed:
        """Return what one prompt needs: its reading and its projection, with both networks there."""
        reading, projecting = ReadPrompts(1).need(blueprint), ProjectFeatures(1).need(blueprint)
        given = reading.input_bytes
        peak = max(reading.cost.peak, projecting.cost.peak + projecting.input_bytes - given)
        weights = blueprint.weights("text_encoder", "text_features")
        return StageNeed(self.name, weights, replace(reading.cost + projecting.cost, peak=peak), given)

    def run(self, engine: Engine, prompts: Iterable[str]) -> list[Features]:
        """Return the features of every prompt, on the CPU. Raises SettingError for one that is too long."""
        prompts, found = [readable_prompt(each) for each in prompts], []
        tokenizer = engine.tokenizer  # which may be missing: that is told before the encoder is brought
        with engine.use(self) as networks:
            for number, prompt in enumerate(prompts, 1):
                found.append(self._features(tokenizer, networks, prompt))
                engine.events.on_progress(self.name, number, len(prompts))
                engine.events.check()
        return found

    @staticmethod
    def _features(tokenizer: Tokenizer, networks: Networks, prompt: str) -> Features:
        """Read and project a prompt; its hidden states are given up before the next one is read."""
        states = compute_hidden_states(networks[TEXT_ENCODER], tokenizer, [prompt])
        (features,) = extract_features(networks[TEXT_FEATURES], states)
        return Features(features.video.cpu(), features.audio.cpu())


@dataclass(frozen=True)
class Prompts:
    """The prompts of a clip, and what tells encoded prompts of its models from others."""

    identity: str
    words: tuple[str, ...]


def check_clip(models: Models, request: Request, folder: Path) -> Prompts:
    """Check all of a clip that can be checked without its prompt being read, and return what has to be read for it.

    Args:
        models: the opened files.
        request: what is asked.
        folder: where encoded prompts are kept.

    Raises:
        LTX2Error: the clip cannot be.
    """
    complete = completed(models, request)
    check_decoders(models, complete)
    engine = LocalEngine(models, request.resources, loras=complete.loras)
    cache = contexts_cache(engine, folder)
    prompts = check_ahead(request, complete, engine, cache).cached
    for each in prompts:
        readable_prompt(each)
    replaced = {request.prompt} if request.enhance is not None else set()  # by one that is not written yet
    return Prompts(cache.identity, tuple(each for each in prompts if each not in replaced))


@clean_inference()
def read_ahead(
    models: Models, complete: CompleteRequest, prompts: Iterable[str], folder: Path, events: Events = Events()
) -> int:
    """Encode the ``prompts`` that are not yet kept in ``folder``, and keep them there.

    Args:
        models: the opened files.
        complete: one of the clips; its resources and LoRAs count.
        prompts: of all clips with the same models and LoRAs of text.
        folder: where encoded prompts are kept.
        events: whom to tell.

    Returns:
        How many prompts were read.
    """
    engine = LocalEngine(models, complete.request.resources, events, complete.loras)
    cache = contexts_cache(engine, folder, KEPT_BYTES)
    places = {prompt: cache.path(prompt) for prompt in prompts}
    unread = [prompt for prompt, path in places.items() if path is None or not path.is_file()]
    for first in range(0, len(unread), MOST_AT_ONCE):
        some = unread[first : first + MOST_AT_ONCE]
        features = ReadInTurn().run(engine, some)
        for start in range(0, len(some), CONNECTED_AT_ONCE):
            group = features[start : start + CONNECTED_AT_ONCE]
            for prompt, each in zip(some[start:], Connect(len(group)).run(engine, group)):
                cache.keep(prompt, video=each.video, audio=each.audio)
    return len(unread)
