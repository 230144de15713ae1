"""A VAE that gives no numbers in 16 bits does its part again in float32, and nothing else is made again."""

import math
from collections import defaultdict
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

import ltx2_core as ltx2
from ltx2_core.checkpoint.files import TensorFile
from ltx2_core.conditioning import ReferenceVideo, VideoSource
from ltx2_core.conditioning.blend import Blending
from ltx2_core.conditioning.conditions import ReferenceAudio
from ltx2_core.conditioning.pictures import Picture
from ltx2_core.conditioning.sources import AudioSource
from ltx2_core.errors import NotANumberError, OutOfMemoryError
from ltx2_core.pipeline.decode_audio import DecodeMel, Vocode
from ltx2_core.pipeline.decode_video import DecodeVideo
from ltx2_core.pipeline.encode_conditions import EngineEncoders
from ltx2_core.pipeline.engines import hardware
from ltx2_core.pipeline.engines.local import LocalEngine
from ltx2_core.pipeline.generate import run
from ltx2_core.pipeline.precision import clean_inference, exact_float32
from ltx2_core.pipeline.stage import CONNECTORS, TEXT_ENCODER, TEXT_FEATURES, TRANSFORMER, VIDEO_DECODER, Events
from ltx2_core.settings import Request, Resources
from ltx2_core.video_vae import Tiling

LOUD = {
    "video": ("vae.decoder.conv_in.conv.weight", "vae.encoder.conv_in.conv.weight"),
    "audio": ("audio_vae.decoder.conv_in.conv.weight", "audio_vae.encoder.conv_in.conv.weight"),
}
VIDEO = torch.randn(1, 128, 3, 3, 3, generator=torch.Generator().manual_seed(0))
AUDIO = torch.randn(1, 8, 9, 16, generator=torch.Generator().manual_seed(1))
PIXELS = torch.rand(1, 3, 9, 32, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1
SOUND = torch.rand(2, 16_000, generator=torch.Generator().manual_seed(3)) - 0.5


@pytest.fixture(scope="module")
def loud(tiny_files, tmp_path_factory):
    """Both VAEs of a checkpoint have numbers beyond those of float16 inside."""
    checkpoint, gemma, _ = tiny_files("2.3")
    tensors = load_file(checkpoint)
    for name in (*LOUD["video"], *LOUD["audio"]):
        tensors[name] = tensors[name] * (3e4 / tensors[name].abs().max())
    path = tmp_path_factory.mktemp("loud") / "ltx-2.3-loud.safetensors"
    save_file(tensors, path, TensorFile(checkpoint).metadata)
    return ltx2.open_models(path, gemma)


def engine_in(models, precision: str, findings: list | None = None) -> LocalEngine:
    events = Events(on_finding=[].append if findings is None else findings.append)
    return LocalEngine(models, Resources("cpu", precision=precision), events)


def said(findings: list) -> str:
    return "\n".join(str(finding) for finding in findings if "once more in float32" in str(finding))


def test_what_makes_and_reads_the_numbers_of_gemma_computes_in_no_float16(tiny_files):
    """They go beyond it, and the squares of those above 255 do, so that words were left out without a sign."""
    engine = engine_in(ltx2.open_models(*tiny_files("2.3")[:2]), "fp16")
    assert {engine.dtype(each) for each in (TEXT_ENCODER, TEXT_FEATURES)} == {torch.bfloat16}
    assert {engine.dtype(each) for each in (TRANSFORMER, CONNECTORS, VIDEO_DECODER)} == {torch.float16}


WORK = {
    "video decoder": lambda engine: DecodeVideo((3, 3, 3)).collect(engine, VIDEO),
    "audio decoder": lambda engine: DecodeMel(9).run(engine, AUDIO),
    "video encoder": lambda engine: encode(engine, lambda at: at.video(lambda: iter(PIXELS.split(5, 2)), (9, 32, 32))),
    "audio encoder": lambda engine: encode(engine, lambda at: at.audio(SOUND, 16_000)),
}


@pytest.mark.parametrize("work", WORK.values(), ids=WORK)
@pytest.mark.slow
def test_what_is_no_number_in_16_bits_is_made_in_float32_and_told(loud, work):
    findings: list = []
    made, right = work(engine_in(loud, "fp16", findings)), work(engine_in(loud, "fp32"))
    assert_close(made, right)
    assert "came out in float16 was not a number" in said(findings)


def encode(engine, ask):
    with torch.inference_mode(), EngineEncoders(engine) as encoders:
        return ask(encoders)


@pytest.mark.slow
def test_only_the_frames_that_are_no_numbers_are_decoded_in_float32(loud):
    """The first tiles of a long clip may be right, and were handed out already."""
    latent, findings = VIDEO.repeat(1, 1, 4, 1, 1), []
    latent[:, :, :9] *= 1e-6
    stage = DecodeVideo((12, 3, 3), Tiling(512, 64, 24, 8))
    chunks = list(stage.run(engine_in(loud, "fp16", findings), latent))
    right = stage.collect(engine_in(loud, "fp32"), latent)
    assert said(findings).count("once more") == 1
    assert_close(torch.cat(chunks, 1), right, atol=2e-2, rtol=0)
    assert_close(torch.cat(chunks, 1)[:, -8:], right[:, -8:])


@pytest.mark.slow
def test_a_whole_clip_is_sampled_once(loud):
    findings, steps = [], []
    picture = Picture(PIXELS[0, :, :1].movedim(0, -1) / 2 + 0.5)
    voice = ReferenceAudio(AudioSource(SOUND, 16_000))
    request = Request.of("a ball", width=96, height=96, frames=9, steps=2, precision="fp16", device="cpu", cache=False,
                         conditions=[picture, voice])  # fmt: skip
    events = Events(on_finding=findings.append, on_progress=lambda stage, done, total: steps.append(stage))
    clip = run(loud, request, events=events)
    assert clip.frames.isfinite().all() and clip.waveform.isfinite().all()
    assert steps.count("sampling") == 2
    for stage in ("pictures", "hearing", "frames", "mel"):
        assert said(findings).count(f"the stage {stage},") == 1


# TF32


def tf32() -> tuple[str, str]:
    """What cards do to float32 in convolutions, and in products."""
    return torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision


def set_tf32(convolutions: str, products: str) -> None:
    torch.backends.cudnn.conv.fp32_precision = convolutions
    torch.backends.cuda.matmul.fp32_precision = products


@pytest.fixture
def process_with_tf32():
    before = tf32()
    set_tf32("tf32", "tf32")
    yield
    set_tf32(*before)


needs_these_flags = pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="torch has older flags")


@pytest.mark.slow
@needs_these_flags
def test_float32_is_float32_in_every_network(tiny_files, process_with_tf32, monkeypatch):
    """Seen from inside: every module of every network, and the spectrogram of a sound that is given."""
    seen, stft = defaultdict(set), torch.stft
    monkeypatch.setattr(torch, "stft", lambda *args, **kwargs: seen[tf32()].add("stft") or stft(*args, **kwargs))

    def look(module, given):
        if not any(isinstance(each, torch.Tensor) and each.is_meta for each in given):  # a plan is no computation
            seen[tf32()].add(type(module).__name__)

    conditions = [Picture(PIXELS[0, :, :1].movedim(0, -1) / 2 + 0.5), ReferenceAudio(AudioSource(SOUND, 16_000))]
    request = Request.of("a ball", width=96, height=96, frames=9, steps=1, device="cpu", cache=False,
                         conditions=conditions)  # fmt: skip
    with torch.nn.modules.module.register_module_forward_pre_hook(look):
        clip = run(ltx2.open_models(*tiny_files("2.3")[:2]), request)
        assert clip.frames.isfinite().all()
    assert not seen["tf32", "tf32"], seen
    assert {"VideoEncoder", "AudioEncoder", "stft", "Vocoder", "AudioDecoder", "Block"} <= seen["ieee", "ieee"]
    assert tf32() == ("tf32", "tf32")


@contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def rounded_products():
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.slow
def test_a_clip_does_not_change_with_what_others_have_set(tiny_files):
    """Autocast, another default dtype or device, products of less: while it is made, and while frames are asked for."""
    models = ltx2.open_models(*tiny_files("2.0")[:2])
    conditions = [
        ReferenceVideo(VideoSource(PIXELS[0].movedim(0, -1) / 2 + 0.5), outpaint="right"),
        Picture(PIXELS[0, :, 1:2].movedim(0, -1) / 2 + 0.5, frame=4),
        ReferenceAudio(AudioSource(SOUND, 16_000)),
    ]
    settings = {"width": 64, "height": 64, "frames": 9, "steps": 1, "device": "cpu", "cache": False}

    def make():
        clip = ltx2.generate(models, "a ball", **settings, conditions=conditions, blend=Blending(0))
        return *clip.chunks, clip.waveform

    expected = make()
    with torch.autocast("cpu", torch.bfloat16), default_dtype(torch.float64), torch.device("meta"), rounded_products():
        found = make()
    assert len(found) == len(expected) and all(map(torch.equal, found, expected))
    assert not any(each.is_inference() for each in found)


def test_what_others_have_set_comes_back():
    with torch.autocast("cpu", torch.bfloat16), default_dtype(torch.float64), torch.device("meta"):
        with clean_inference():
            assert torch.ones(1).dtype == torch.float32 and not torch.ones(1).is_meta
            assert torch.ones(1, 1).mm(torch.ones(1, 1)).dtype == torch.float32 and torch.is_inference_mode_enabled()
        assert torch.is_autocast_enabled("cpu") and not torch.is_inference_mode_enabled()
        assert (torch.ones(1).dtype, torch.ones(1).is_meta) == (torch.float64, True)


@pytest.mark.parametrize("before", [None, 0, 2], ids=["unused", "first", "another"])
def test_the_card_of_an_engine_is_the_current_one_while_it_works(monkeypatch, tiny_files, before):
    """Triton and comfy-kitchen start their kernels on the current card, also for tensors of another one."""
    current, used = [before or 0], [before is not None]

    def make_current(device):
        current.append(getattr(device, "index", device))
        used.append(True)

    monkeypatch.setattr(hardware, "_device_counts", lambda: {"cuda": 3, "cpu": 1})
    monkeypatch.setattr(torch.cuda, "set_device", make_current)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[-1])
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: used[-1])
    with clean_inference():
        LocalEngine(ltx2.open_models(*tiny_files("2.3")[:2]), Resources("cuda:1"))
        assert current[-1] == 1
        with clean_inference():
            pass
        assert current[-1] == 1
    assert current[-1] == (before or 0)


@needs_these_flags
def test_what_the_process_has_set_comes_back_whoever_leaves_first(process_with_tf32):
    """Frames are decoded as they are asked for, so that stages of two clips may end in any order, or in an error."""
    one, other = exact_float32(), exact_float32()
    for each in (one, other):
        each.__enter__()
    assert tf32() == ("ieee", "ieee")
    one.__exit__(None, None, None)
    assert tf32() == ("ieee", "ieee")
    other.__exit__(None, None, None)
    assert tf32() == ("tf32", "tf32")
    with pytest.raises(InterruptedError), exact_float32():
        raise InterruptedError
    assert tf32() == ("tf32", "tf32")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA card")
@pytest.mark.parametrize(
    "stage, given", [(Vocode(40), torch.randn(1, 2, 40, 64)), (DecodeMel(9), AUDIO)], ids=["sound", "mel"]
)
def test_float32_on_a_card_is_that_of_a_cpu(tiny_files, process_with_tf32, stage, given):
    models = ltx2.open_models(*tiny_files("2.3")[:2])
    with torch.inference_mode():
        card, cpu = (
            stage.run(LocalEngine(models, Resources(name, precision="fp32")), given) for name in ("cuda", "cpu")
        )
    if isinstance(stage, Vocode):
        (card, _), (cpu, _) = card, cpu
    assert (card.cpu() - cpu).norm() < 1e-4 * cpu.norm()  # 3e-2 with TF32


@pytest.mark.slow
def test_what_is_no_number_in_float32_either_is_one_sentence(loud):
    findings: list = []
    with pytest.raises(NotANumberError, match="not a number after decoding the video"):
        DecodeVideo((3, 3, 3)).collect(engine_in(loud, "fp16", findings), VIDEO.clamp(-1, 1) * 3e38)
    assert said(findings)


def test_a_latent_that_is_no_number_is_not_decoded_twice(loud):
    findings: list = []
    with pytest.raises(NotANumberError, match="after sampling"):
        DecodeVideo((3, 3, 3)).collect(engine_in(loud, "fp16", findings), VIDEO * math.nan)
    assert not findings


class Damaged(LocalEngine):
    """One weight of every network is no number, which loading saw nothing of."""

    @contextmanager
    def bring(self, stage, placement, loras):
        with super().bring(stage, placement, loras) as networks, torch.no_grad():
            next(networks[stage.networks[0]].parameters()).view(-1)[0] = math.nan
            yield networks


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
@pytest.mark.parametrize("part", WORK)
@pytest.mark.sample(1)
def test_a_damaged_weight_is_named_with_its_file_and_part(loud, part, precision):
    findings: list = []
    engine = Damaged(loud, Resources("cpu", precision=precision), Events(on_finding=findings.append))
    with pytest.raises(NotANumberError, match=rf"{part} in ltx-2\.3-loud\.safetensors has .*, which holds NaN"):
        WORK[part](engine)
    assert not said(findings)


@pytest.mark.parametrize("part", [part for part in WORK if "encoder" in part])
def test_memory_that_runs_out_names_the_stage_that_encodes(loud, part, monkeypatch):
    def out_of_memory(*args):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    for name in ("encode_video", "encode_audio"):
        monkeypatch.setattr(f"ltx2_core.pipeline.encode_conditions.{name}", out_of_memory)
    with pytest.raises(OutOfMemoryError, match=r"while encoding the (picture|sound); make"):
        WORK[part](engine_in(loud, "fp32"))
