"""A short prompt becomes a longer one before anything else runs, written by a language model of the Gemma kind."""

import logging
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..checkpoint import Models
from ..checkpoint.encoder_alone import EncoderAlone
from ..checkpoint.text_encoder import TextEncoderFiles
from ..conditioning import Picture
from ..conditioning.values import FRAMES, PIXELS, check_values
from ..disk_cache import DiskCache, cache_folder, fingerprint
from ..errors import Finding, MissingFileError, SettingError
from ..memory.placement import StageNeed
from ..memory.trace import Cost, cost
from ..quantization import matrix_shapes
from ..settings import Enhancing, Request
from ..text import prepare_picture
from ..text.encoder import ROWS_AT_ONCE
from ..text.enhance import ABOUT_PICTURE, INSTRUCTION, clean, find_lost
from ..text.write import open_chat, write_tokens
from .encode_text import readable_prompt
from .engine import Engine
from .engines.local import LocalEngine
from .needs.blueprint import Blueprint, empty_like
from .stage import TEXT_ENCODER, VISION_ENCODER, Events, Stage

REVISION = 1  # one more whenever the same prompt would be written otherwise than before
LONGEST_CHAT = 2048  # tokens of instruction and prompt that are planned for

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SeePicture(Stage):
    """Let the part for pictures of a language model look at one."""

    name = "looking"
    networks = (VISION_ENCODER,)

    def need(self, blueprint: Blueprint) -> StageNeed:
        """Measure it on a picture, which always has the same size."""
        network = blueprint.network(VISION_ENCODER.name)
        pixels = empty_like(network, 1, 3, network.config.size, network.config.size)
        work = cost(lambda: network(pixels))
        return StageNeed(self.name, blueprint.weights(VISION_ENCODER.name), work, pixels.nbytes)

    def run(self, engine: Engine, picture: Tensor) -> Tensor:
        """Return what the language model reads of the first of the pictures (F, H, W, 3) in 0..1, (tokens, D).

        Raises SettingError for what is no picture.
        """
        check_values("The picture to look at", picture, PIXELS, FRAMES)
        with engine.use(self) as networks:
            network = networks[VISION_ENCODER]
            pixels = prepare_picture(picture[:1], network.config.size)
            return network(pixels.to(engine.device(VISION_ENCODER), engine.dtype(VISION_ENCODER)))[0]


@dataclass(frozen=True)
class WritePrompt(Stage):
    """Let a language model answer a chat of at most LONGEST_CHAT tokens, with ``longest`` tokens."""

    longest: int
    name = "enhance"
    networks = (TEXT_ENCODER,)

    def need(self, blueprint: Blueprint) -> StageNeed:
        """Count one token, which reads every weight once, beside the keys and values of all tokens."""
        gemma = blueprint.gemma
        assert gemma is not None
        encoder = blueprint.network("text_encoder")
        itemsize = encoder.model.norm.weight.itemsize
        shapes = matrix_shapes(encoder)
        keys = sum(shape[0] for name, shape in shapes.items() if name.endswith("k_proj.weight"))
        # The whole chat in the feed-forward beside both masks, or in the attention, which makes numbers of a mask.
        states, visible = LONGEST_CHAT * gemma.width * itemsize, 2 * LONGEST_CHAT * LONGEST_CHAT
        feeding = 4 * states + 3 * LONGEST_CHAT * gemma.hidden * itemsize
        attending = 4 * states + (LONGEST_CHAT * itemsize) * (LONGEST_CHAT + 2 * gemma.query_width // gemma.layers)
        table = ROWS_AT_ONCE * gemma.width * itemsize + 4 * gemma.vocabulary
        kept = 2 * (LONGEST_CHAT + self.longest) * keys * itemsize  # and as many values
        numbers = sum(map(math.prod, shapes.values()))
        peak = max(visible + max(feeding, attending), table)
        token = Cost(peak=peak, products=2 * numbers, moved=itemsize * numbers)
        return StageNeed(self.name, blueprint.weights("text_encoder"), token, kept, runs=self.longest)

    def run(self, engine: Engine, prompt: str, settings: Enhancing, seen: Tensor | None = None) -> str:
        """Return the answer, of which ``events.on_words`` gets what is written so far.

        Args:
            engine: its text encoder writes.
            prompt: what is told in few words.
            settings: how it is written.
            seen: what ``SeePicture`` made of the first frame, (tokens, D).

        Raises:
            SettingError: the prompt is too long, or the text encoder does not chat, or not about pictures.
        """
        tokenizer, written = engine.tokenizer, list[int]()
        ours = INSTRUCTION if seen is None else f"{INSTRUCTION}\n\n{ABOUT_PICTURE}"
        told = settings.system_prompt.strip() or ours
        chat = open_chat(tokenizer, told, readable_prompt(prompt), 0 if seen is None else len(seen))
        if len(chat.ids) > LONGEST_CHAT:
            raise SettingError(
                f"The prompt has {len(chat.ids):,} tokens with what Gemma is told to do, at most {LONGEST_CHAT:,} can "
                "be enhanced: shorten it, or the system prompt. A prompt of this length says enough by itself."
            )
        with engine.use(self) as networks:
            encoder = networks[TEXT_ENCODER]
            for token in write_tokens(encoder, chat, self.longest, settings.temperature, settings.wording, seen):
                engine.events.check()
                written.append(token)
                engine.events.on_progress(self.name, len(written), self.longest)
                engine.events.on_words(tokenizer.join(written))
        engine.events.on_progress(self.name, self.longest, self.longest)
        return tokenizer.join(written)


def enhance(engine: Engine, prompt: str, settings: Enhancing, keep: bool = True, picture: Tensor | None = None) -> str:
    """Return ``prompt`` as a language model tells it; as it is, with a finding, where that would say something else.

    Args:
        engine: Its text encoder writes.
        prompt: What is to be seen and heard, in few words.
        settings: How it is written.
        keep: Whether what was written is kept on disk, and found there.
        picture: What the clip begins with, (F, H, W, 3) in 0..1, of which the first is looked at; the engine's models
            are an ``EncoderAlone`` that sees.

    Raises:
        SettingError: An empty prompt, or one that is too long; a text encoder that does not chat.
    """
    if not prompt.strip():
        raise SettingError("The prompt is empty, and nothing can be enhanced: write what is to be seen and heard.")
    check_writes(engine.encoder)
    cache, key = _cache(engine, keep), f"{settings}\n{prompt}"
    if picture is not None:
        key += f"\n{fingerprint(ABOUT_PICTURE, picture[:1])}"
    if (known := cache.find(key)) is not None:
        answer = bytes(known["answer"].tolist()).decode()
    else:
        seen = None if picture is None else SeePicture().run(engine, picture)
        answer = clean(WritePrompt(settings.longest).run(engine, prompt, settings, seen))
        cache.keep(key, answer=torch.tensor(list(answer.encode()), dtype=torch.uint8))
    lost = [] if settings.system_prompt.strip() else find_lost(prompt, answer)
    if answer and not lost:
        _log.info("Enhanced prompt: %s", answer)
        return answer
    reason = f"the new one leaves out {', '.join(lost[:5])}" if answer else "the new one is empty"
    stays = f"the prompt stays as it was, because {reason}"
    engine.events.on_finding(Finding("enhancing", stays, "try another wording, or use your own words"))
    return prompt


def check_writes(files: TextEncoderFiles) -> None:
    """Raise SettingError for a text encoder that was trained for LTX-2 alone, and no longer answers."""
    if files.gemma_version is not None:
        raise SettingError(
            f"{files.path.name} reads prompts for LTX-2 and cannot write any ({files.gemma_version}): take an instruct "
            "model for enhancing, such as gemma_3_12B_it."
        )


def with_enhanced_prompt(models: Models, request: Request, events: Events) -> Request:
    """Return the request with an enhanced prompt, if it asks for one; else as it is.

    A picture that the clip begins with is looked at, where the language model can.

    Args:
        models: The opened files; their text encoder writes, unless the request names another.
        request: What is asked.
        events: Whom to tell.

    Raises:
        SettingError: There are prompts for segments, which say what they say, or the prompt is encoded already.
    """
    if request.enhance is None:
        return request
    if request.long is not None and request.long.segments:
        raise SettingError("Only one prompt can be enhanced, and this clip has segments: leave one of both out.")
    if request.encoded is not None:
        raise SettingError(f"{request.encoded.name} is encoded already, and cannot be enhanced: leave one of both out.")
    if (writer := request.enhancer or models.text_encoder) is None:
        raise MissingFileError("There is no text encoder that could enhance the prompt: name one with --enhancer.")
    picture, alone = _first_frame(request), EncoderAlone(writer)
    if picture is not None:
        try:
            alone = EncoderAlone(writer, sees=True)
        except SettingError as error:
            events.on_finding(Finding("enhancing", "the picture was not looked at", str(error)))
            picture = None
    engine = LocalEngine(alone, request.resources, events)
    prompt = enhance(engine, request.prompt, request.enhance, bool(request.resources.cache), picture)
    return replace(request, prompt=prompt, enhance=None)


def _first_frame(request: Request) -> Tensor | None:
    """The picture in 0..1 that the clip begins with, if there is one."""
    pictures = (each for each in request.conditions if isinstance(each, Picture))
    return next((each.image for each in pictures if each.frame == 0 and each.space is None), None)


def _cache(engine: Engine, keep: bool) -> DiskCache:
    folder = cache_folder() if keep else None
    identity = fingerprint(REVISION, INSTRUCTION, engine.dtype(TEXT_ENCODER), engine.encoder.shards)
    return DiskCache(None if folder is None else folder / "enhanced", identity, kind="enhanced prompt")
