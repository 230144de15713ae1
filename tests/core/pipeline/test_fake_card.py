"""Whole generations on a card that is none: nothing is computed from tensors on two devices, whatever is asked for.

That such a card sees what a real one refuses is shown at the end.
"""

import pytest
import tiny_parts
import torch
from fake_card import MixedDevicesError, fake_card, multiply_float8
from recorded import clips

import ltx2_core as ltx2
from ltx2_core.conditioning.conditions import InitClip, ReferenceAudio
from ltx2_core.conditioning.sources import VideoSource
from ltx2_core.lora import Strengths, StrengthSchedule
from ltx2_core.memory import Store, Streamed
from ltx2_core.pipeline import decode_video
from ltx2_core.pipeline.encode_conditions import EncodeVideo, encode_video
from ltx2_core.pipeline.engines.local import LocalEngine
from ltx2_core.pipeline.stage import (
    AUDIO_DECODER,
    AUDIO_ENCODER,
    CONNECTORS,
    TRANSFORMER,
    VIDEO_DECODER,
    VIDEO_ENCODER,
    VOCODER,
)
from ltx2_core.quantization import CASTS, kitchen
from ltx2_core.sampling import SAMPLERS, Guidance
from ltx2_core.settings import Resources
from ltx2_core.video_vae import Tiling

SMALL = {"width": 64, "height": 64, "frames": 9, "seed": 1, "cache": False, "device": "cuda"}
TWO_PASSES = {"video": Guidance(3), "audio": Guidance()}
FADING = Strengths(0.8, schedule=StrengthSchedule.through([(0, 1.0), (2, 0.25)]), schedule_over="steps")
LORA, FADING_LORA = [[(clips.lora("golden-ball"), strengths)] for strengths in (Strengths(), FADING)]


def with_diffusion_decoder(files) -> ltx2.Models:
    tiny_files, folder = files
    checkpoint, gemma, _ = tiny_files("2.5")
    return ltx2.open_models(checkpoint, gemma, video_vae=tiny_parts.write_diffusion_vae(folder))


def made(models, **settings) -> ltx2.Clip:
    """A whole clip, whose frames are decoded on the card, too."""
    with fake_card():
        clip = ltx2.generate(models, clips.PROMPT, **SMALL | {"video": Guidance(), "audio": Guidance()} | settings)
        assert clip.waveform is None or clip.waveform.isfinite().all()
        assert "sound_only" in settings or clip.frames.isfinite().all()
        return clip


@pytest.mark.slow
@pytest.mark.parametrize("clip", clips.CLIPS.values(), ids=clips.CLIPS)
def test_every_way_through_generate_stays_on_the_card(miniature, monkeypatch, clip):
    generate = ltx2.generate

    def on_the_card(*args, **settings):
        short = {} if "windowing" in settings else {"frames": min(settings["frames"], 17)}
        return generate(*args, **settings | short | {"device": "cuda", "steps": 2})

    monkeypatch.setattr(ltx2, "generate", on_the_card)
    with fake_card():
        assert clip(miniature).frames.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("sampler", sorted({*SAMPLERS} - {"euler", "euler_ancestral", "dpmpp_2m", "res_2s"}))
def test_every_sampler_stays_on_the_card(miniature, sampler):
    """The others are those of the clips above."""
    made(miniature, sampler=sampler, steps=2, sound_only=True, frames=17, **TWO_PASSES)


WAYS = {
    "fp8": {"format": "fp8"},
    "fused LoRA": {"loras": LORA},
    "scheduled LoRA": {"loras": FADING_LORA},
    "LoRA beside fp8": {"format": "fp8", "loras": LORA},
    "scheduled LoRA beside fp8": {"format": "fp8", "loras": FADING_LORA},
    "voice": {"conditions": [ReferenceAudio(clips.recording(0.5))]},
    "float32": {"dtype": torch.float32},
    "two at once": {"batch_size": 2},
    "four passes": {"video": clips.GUIDED, "audio": clips.GUIDED},
}


@pytest.mark.parametrize("settings", WAYS.values(), ids=WAYS)
@pytest.mark.slow
def test_weights_and_passes_of_every_kind_stay_on_the_card(miniature, settings):
    made(miniature, steps=1, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("format", CASTS)
def test_weights_are_cast_on_the_card(miniature, monkeypatch, format):
    """Not on the host, which would take a minute for a real model; there they lie afterwards."""
    seen, kind = [], type(CASTS[format])
    quantize = kind.quantize

    def watched(self, weight):
        seen.append(weight.device.type)
        return quantize(self, weight)

    monkeypatch.setattr(kind, "quantize", watched)
    monkeypatch.setattr(kitchen, "find_library", lambda: None)  # whose products are tried with matrices of the host
    made(miniature, steps=1, format=format)
    assert seen.count("cuda") > 10 and {*seen} <= {"cuda", "meta"}  # the plan has them without numbers


DECODERS = {"miniature": lambda files: ltx2.open_models("miniature"), "diffusion": with_diffusion_decoder}


@pytest.mark.slow
@pytest.mark.parametrize("model", DECODERS.values(), ids=DECODERS)
def test_frames_that_wait_in_ram_are_those_that_wait_on_the_card(tiny_files, tmp_path, monkeypatch, model):
    models, decode, seen = model((tiny_files, tmp_path)), decode_video.decode_video, []
    latent = torch.randn((1, 128, 2, 2, 3), generator=torch.Generator().manual_seed(1))

    def watched(decoder, inputs, on_tile):
        for chunk in decode(decoder, inputs, on_tile):
            seen.append((inputs.where.type, chunk.device.type, next(decoder.parameters()).device.type))
            yield chunk

    monkeypatch.setattr(decode_video, "decode_video", watched)
    tiling = Tiling(64, 32, 16, 8)
    stages = [decode_video.DecodeVideo(tuple(latent.shape[2:]), tiling, in_ram=in_ram) for in_ram in (False, True)]
    monkeypatch.setattr(decode_video.DecodeVideo, "fit", lambda stage, *_: stage)
    with fake_card():
        found = [stage.collect(LocalEngine(models, Resources(device="cuda")), latent) for stage in stages]
    assert torch.equal(*found) and len(seen) >= 2
    assert {*seen} == {("cuda", "cuda", "cuda"), ("cuda", "cpu", "cuda")}


@pytest.mark.slow
def test_pixels_that_wait_in_ram_are_encoded_as_those_that_wait_on_the_card(miniature):
    pixels, found = clips.ball(33).movedim(-1, 0).repeat(1, 1, 1, 2)[None] * 2 - 1, []
    with fake_card():
        engine = LocalEngine(miniature, Resources(device="cuda"))
        for in_ram in (False, True):
            stage = EncodeVideo((5, 2, 6), Tiling(96, 64, 32, 16), in_ram)
            with engine.use(stage) as networks:
                device, frames = engine.device(VIDEO_ENCODER), [pixels.clone()]
                found.append(encode_video(networks[VIDEO_ENCODER], frames, 33, device, stage.tiling, in_ram).cpu())
    assert torch.equal(*found)


@pytest.mark.slow
def test_a_model_of_the_second_generation_stays_on_the_card(tiny_files):
    made(ltx2.open_models(*tiny_files("2.3")[:2]), steps=1, **TWO_PASSES)


@pytest.mark.parametrize("unit", ["block", "part"])
@pytest.mark.slow
def test_networks_that_are_streamed_stay_on_the_card(miniature, monkeypatch, unit):
    """Every network in two slots, whatever would fit, through streams and threads."""
    sent, send, set_budget, stream_by = [], Streamed.send, Store.set_budget, Store.stream_by

    def counted(link, unit, slot):
        sent.append(unit)
        send(link, unit, slot)

    def least(store, _):
        set_budget(store, store.rest_bytes + 2 * max(store.unit_bytes, default=0))

    monkeypatch.setattr(Streamed, "send", counted)
    monkeypatch.setattr(Store, "set_budget", least)
    monkeypatch.setattr(Store, "stream_by", lambda store, _, slots=2: stream_by(store, unit, slots))
    made(miniature, steps=2, loras=LORA)
    assert len(sent) > 1.5 * len(set(sent)) > 20


# The checker


MOVED = (CONNECTORS, VIDEO_ENCODER, AUDIO_ENCODER, TRANSFORMER, VIDEO_DECODER, AUDIO_DECODER, VOCODER)


@pytest.mark.parametrize("key", MOVED, ids=lambda key: key.name)
@pytest.mark.slow
def test_inputs_that_stay_on_the_host_are_seen(miniature, monkeypatch, key):
    """As if ``.to(engine.device(key))`` were missing in a stage."""
    device = LocalEngine.device
    monkeypatch.setattr(LocalEngine, "device", lambda self, of: torch.device("cpu") if of == key else device(self, of))
    given = [InitClip(VideoSource(clips.ball(9)), clips.recording(0.5))] if "encoder" in key.name else []
    with pytest.raises(MixedDevicesError, match="gets tensors of the host"):
        made(miniature, steps=1, conditions=given)


REFUSED = {
    "a sum": lambda card, host: card + host,
    "a product": lambda card, host: host @ card,
    "a host tensor that is changed": lambda card, host: host.add_(card),
    "a host number that is changed": lambda card, host: host.sum().add_(card.sum()),
    "a part of the host by an index of the card": lambda card, host: host[card.long()],
    "a result of the host": lambda card, host: torch.mul(card, card, out=host),
    "one of a list": lambda card, host: torch.cat([card, host]),
    "NumPy": lambda card, host: card.numpy(),
}
ALLOWED = {
    "a number": lambda card, host: card * host.sum(),
    "a copy to the host": lambda card, host: host.copy_(card),
    "a copy to the card": lambda card, host: card.copy_(host),
    "a part of the card by an index of the host": lambda card, host: card[host.long()],
    "what is moved": lambda card, host: (card.cpu() + host, card + host.to(card.device), card + host.to(card)),
    "what is made there": lambda card, host: card + torch.ones(2, 2, device=card.device) + card.new_zeros(2, 2),
}


@pytest.fixture
def both():
    with fake_card():
        yield torch.zeros(2, 2, device="cuda").view(4).view(2, 2), torch.zeros(2, 2)


@pytest.mark.parametrize("work", REFUSED.values(), ids=REFUSED)
def test_what_a_card_refuses(both, work):
    with pytest.raises(MixedDevicesError):
        work(*both)


@pytest.mark.parametrize("work", ALLOWED.values(), ids=ALLOWED)
def test_what_a_card_takes(both, work):
    work(*both)


def test_where_a_tensor_is(both):
    card, host = both
    assert card.is_cuda and card[0].device == (card + 1).device == torch.device("cuda", 0)
    assert host.is_cpu and card.cpu().is_cpu and host.cuda().is_cuda and not host.is_cuda
    assert torch.as_tensor(host, device="cuda").is_cuda and not host.is_cuda
    assert torch.zeros_like(card, device="cpu").is_cpu and card.to("meta").is_meta
    parameter = torch.nn.Parameter(torch.zeros(4))
    parameter.data = card.view(4)
    assert parameter.is_cuda


@pytest.mark.parametrize("bias", [None, torch.ones(24, dtype=torch.bfloat16)], ids=["bare", "bias"])
def test_its_product_of_float8_is_that_of_a_cpu(bias):
    draw = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(rows, 32, generator=draw).to(torch.float8_e4m3fn) for rows in (16, 24))
    given = x, weight.t(), torch.tensor(0.5), torch.tensor(0.25), bias
    found, expected = (run(*given, out_dtype=torch.bfloat16) for run in (multiply_float8, torch._scaled_mm))
    torch.testing.assert_close(found, expected, atol=0, rtol=1e-2)
