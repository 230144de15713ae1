"""Clips that the official pipelines make of tiny weights of 2.5, 2.3 and 2.0, and the same clips asked of ours.

``tests/golden/official_pipelines.json`` holds the numbers, by version and case. They were made by
``PYTHONPATH=. python tests/official_pipelines.py FOLDER`` with ltx-core and ltx-pipelines 1.2.0, whose checkout is
FOLDER: their pipelines run as they are, in float32 on the CPU, but for prompts (encoded by us, as they are equal),
LoRAs (put into the weights beforehand, because the official code rounds them to bfloat16) and files (pictures and
sounds are handed over as numbers). What is kept is the last latent of either stream.
"""

import argparse
import contextlib
import functools
import json
import sys
import tempfile
import types
from importlib.machinery import ModuleSpec
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import ltx2_core as ltx2
from ltx2_core import tiny
from ltx2_core.checkpoint import build, open_models
from ltx2_core.checkpoint.text_encoder import build_text_encoder, open_text_encoder
from ltx2_core.checkpoint.upscaler import open_upscaler
from ltx2_core.conditioning.conditions import (
    AudioSource,
    InitClip,
    KeepAudio,
    Picture,
    ReferenceVideo,
    RetakeRange,
    VideoSource,
)
from ltx2_core.lora import Strengths, open_lora
from ltx2_core.sampling import Guidance
from ltx2_core.settings import SecondStage
from ltx2_core.text import connect, encode_prompts

VECTORS = Path(__file__).parent / "golden" / "official_pipelines.json"
PROMPTS = "a red ball bounces twice on the left", "blurry"
WIDTH, HEIGHT, FRAMES, FPS, SEED, STEPS, RATE = 128, 64, 9, 24, 11, 4, 16_000
VIDEO, AUDIO = Guidance(3, 3, 1, (1,), 0.7), Guidance(7, 2, 1, (0,), 0.7)
HQ_VIDEO, HQ_AUDIO = Guidance(3, 3, rescale=0.45), Guidance(7, 3, rescale=1)
CASES = (
    "one stage", "two stages", "hq", "distilled", "keyframes", "audio to video", "retake", "ic-lora in one stage",
    "ic-lora", "text to audio",
)  # fmt: skip
# The HQ recipe is one of 2.3. The official text-to-audio pipeline cannot load 2.0: its filter of keys leaves the
# projection of captions out.
CASES_OF = {
    "2.3": CASES,
    "2.0": tuple(case for case in CASES if case not in ("hq", "text to audio")),
    "2.5": CASES,
}


class Files:
    """Tiny files in a folder, and what is given."""

    def __init__(self, folder: Path, version: str = "2.3"):
        self.folder = folder
        self.checkpoint, self.gemma, _ = tiny.write(folder, version)
        self.distilled = folder / f"ltx-{version}-tiny-distilled.safetensors"
        self.distilled.hardlink_to(self.checkpoint)
        self.upscaler = tiny.write_upscaler(folder)
        self.loras = {name: self._lora(name, seed) for seed, name in enumerate(("distilled-lora", "ic-lora"))}
        draw = functools.partial(torch.rand, generator=torch.Generator().manual_seed(5))
        self.pictures = (draw(2, HEIGHT, WIDTH, 3) * 255).round() / 255
        self.video = (draw(FRAMES, HEIGHT // 2, WIDTH // 2, 3) * 255).round() / 255
        self.source = (draw(17, HEIGHT, WIDTH, 3) * 255).round() / 255
        self.sound = draw(2, 2 * RATE) - 0.5

    def _lora(self, name: str, seed: int) -> Path:
        generator, path = torch.Generator().manual_seed(seed), self.folder / f"{name}.safetensors"
        tensors = {}
        for block, layer in ((0, "attn1.to_q"), (1, "audio_ff.net.2"), (1, "attn2.to_out.0")):
            key = f"diffusion_model.transformer_blocks.{block}.{layer}"
            out, width = open_models(self.checkpoint).files[0].shape(f"model.{key}.weight")
            tensors[f"{key}.lora_A.weight"] = torch.randn(2, width, generator=generator)
            tensors[f"{key}.lora_B.weight"] = torch.randn(out, 2, generator=generator) * 0.1
        save_file(tensors, path)
        return path


# Ours


def ours(files: Files, case: str, **more) -> dict[str, Tensor]:
    """Return the latents of our clip, by stream; ``more`` are settings beside those of the case."""
    settings = {"width": WIDTH, "height": HEIGHT, "frames": FRAMES, "seed": SEED, "cache": False, "device": "cpu"}
    settings |= more
    distilled = case in ("distilled", "ic-lora in one stage", "ic-lora")
    settings |= {} if distilled else {"steps": STEPS, "video": VIDEO, "audio": AUDIO}
    # Of 2.5, only the first stage of the official distilled pipeline is ancestral.
    settings |= {"sampler": "euler"} if case.startswith("ic-lora") else {}
    lora = None if distilled else open_lora(files.loras["distilled-lora"])
    if case not in ("one stage", "retake", "ic-lora in one stage", "text to audio"):
        settings["second"] = SecondStage((open_upscaler(files.upscaler),), lora=lora)
    first, last = (Picture(each[None], frame, compression=0) for each, frame in zip(files.pictures, (0, FRAMES - 1)))
    sound = AudioSource(files.sound, RATE)
    match case:
        case "one stage" | "two stages" | "distilled":
            settings["conditions"] = [first, last]
        case "hq":
            settings |= {"conditions": [first], "hq": True, "video": HQ_VIDEO, "audio": HQ_AUDIO}
        case "keyframes":
            settings["conditions"] = [Picture(first.image, 0, compression=0, append=True), last]
        case "audio to video":
            settings["conditions"] = [first, KeepAudio(sound)]
        case "retake":
            settings |= {"frames": len(files.source), "fps": FPS}
            settings["conditions"] = [InitClip(VideoSource(files.source), sound), RetakeRange(0.2, 0.5)]
        case "ic-lora" | "ic-lora in one stage":
            settings["conditions"] = [first, ReferenceVideo(VideoSource(files.video), attention=0.4)]
            settings["loras"] = [(open_lora(files.loras["ic-lora"]), Strengths(0.8, text=0))]
            settings |= {} if case == "ic-lora" else {"width": WIDTH // 2, "height": HEIGHT // 2}
        case "text to audio":
            settings |= {"sound_only": True, "audio": Guidance(7, 1, 1, (0,), 0.7)}
    models = open_models(files.distilled if distilled else files.checkpoint, files.gemma)
    return ltx2.generate(models, *PROMPTS, **settings).latent.streams()


def shortened(latent: Tensor) -> dict:
    """Return what is kept of a latent: its shape, and some of its numbers."""
    flat = latent.flatten()
    step = max(1, flat.numel() // 64) | 1
    return {"shape": list(latent.shape), "step": step, "samples": [float(f"{x:.8g}") for x in flat[::step].tolist()]}


# Theirs


def theirs(files: Files, case: str) -> dict[str, Tensor]:
    """Return the latents of the official clip, by stream; the official packages must be importable."""
    from ltx_pipelines import (
        a2vid_two_stage,
        distilled,
        ic_lora,
        keyframe_interpolation,
        retake,
        t2a_one_stage,
        ti2vid_one_stage,
        ti2vid_two_stages,
        ti2vid_two_stages_hq,
    )

    made, parts = {}, _Parts(files)
    shape = {"height": HEIGHT, "width": WIDTH, "num_frames": FRAMES, "frame_rate": float(FPS)}
    guided = {
        "num_inference_steps": STEPS,
        "video_guider_params": _params(VIDEO),
        "audio_guider_params": _params(AUDIO),
    }
    negative, first, both = {"negative_prompt": PROMPTS[1]}, parts.images[:1], parts.images
    tiling = {"tiling_config": None}

    def run(cls, *stages, **settings) -> None:
        pipeline = parts.pipeline(cls, made, *stages)
        frames = pipeline(prompt=PROMPTS[0], seed=SEED, **settings)[0]
        list(frames if not isinstance(frames, Tensor) else ())

    match case:
        case "one stage":
            run(ti2vid_one_stage.TI2VidOneStagePipeline, (), images=both, **shape, **guided, **negative, **tiling)
        case "two stages":
            run(ti2vid_two_stages.TI2VidTwoStagesPipeline, (), (("distilled-lora", 1.0),), images=both, **shape,
                **guided, **negative, **tiling)  # fmt: skip
        case "hq":
            precise = {"video_guider_params": _params(HQ_VIDEO), "audio_guider_params": _params(HQ_AUDIO)}
            run(ti2vid_two_stages_hq.TI2VidTwoStagesHQPipeline, (("distilled-lora", 0.25),),
                (("distilled-lora", 0.5),), images=first, **shape, **guided | precise, **negative,
                **tiling)  # fmt: skip
        case "distilled":
            run(distilled.DistilledPipeline, (), images=both, **shape, **tiling)
        case "keyframes":
            run(keyframe_interpolation.KeyframeInterpolationPipeline, (), (("distilled-lora", 1.0),), images=both,
                **shape, **guided, **negative, **tiling)  # fmt: skip
        case "audio to video":
            del guided["audio_guider_params"]
            run(a2vid_two_stage.A2VidPipelineTwoStage, (), (("distilled-lora", 1.0),), images=first, audio_path="",
                **shape, **guided, **negative, **tiling)  # fmt: skip
        case "retake":
            run(retake.RetakePipeline, (), video_path="", start_time=0.2, end_time=0.5, **guided, **negative,
                **tiling)  # fmt: skip
        case "ic-lora" | "ic-lora in one stage":
            run(ic_lora.ICLoraPipeline, (("ic-lora", 0.8),), (), images=first, video_conditioning=[("", 1.0)],
                conditioning_attention_strength=0.4, skip_stage_2=case != "ic-lora", **shape, **tiling)  # fmt: skip
        case "text to audio":
            parts.audio_only = True
            run(t2a_one_stage.T2AOneStagePipeline, (), num_frames=FRAMES, frame_rate=float(FPS),
                num_inference_steps=STEPS, audio_guider_params=_params(Guidance(7, 1, 1, (0,), 0.7)),
                **negative)  # fmt: skip
    return made


def _params(guidance: Guidance):
    from ltx_core.components.guiders import MultiModalGuiderParams

    blocks, rescale = list(guidance.stg_blocks), guidance.rescale
    return MultiModalGuiderParams(guidance.text_scale, guidance.stg_scale, blocks, rescale, guidance.cross_modal_scale)


class _Parts:
    """The official parts of a pipeline, in float32 on the CPU, and what stands in for prompts, files and decoders."""

    def __init__(self, files: Files):
        from ltx_pipelines.utils import blocks
        from ltx_pipelines.utils.args import ImageConditioningInput
        from PIL import Image

        self.files, self.blocks, self.audio_only = files, blocks, False
        self.where = torch.float32, torch.device("cpu")
        self.precise = files.folder / "float32.safetensors"
        metadata = open_models(files.checkpoint).files[0].metadata
        save_file({key: x.float() for key, x in load_file(files.checkpoint).items()}, self.precise, metadata)
        self.images = []
        for number, (picture, frame) in enumerate(zip(files.pictures, (0, FRAMES - 1))):
            path = files.folder / f"{number}.png"
            Image.fromarray((picture * 255).byte().numpy()).save(path)
            self.images.append(ImageConditioningInput(str(path), frame, 1.0, 0))
        self._replace_files()

    def _replace_files(self) -> None:
        from ltx_core.types import Audio, VideoPixelShape
        from ltx_pipelines import a2vid_two_stage, iclora_utils, retake, ti2vid_two_stages_hq
        from ltx_pipelines.utils import helpers, samplers

        files, load = self.files, helpers.load_image_and_preprocess
        if isinstance(load, functools.partial):
            load = load.func
        _, frames, height, width = (1, *files.source.shape[:3])
        audio, bytes_of = Audio(files.sound[None], RATE), lambda video: ((x * 255).round()[None] for x in video)
        shape = VideoPixelShape(1, frames, height, width, float(FPS))
        helpers.load_image_and_preprocess = lambda **settings: load(**settings | {"dtype": torch.float32})
        a2vid_two_stage.decode_audio_from_file = helpers.decode_audio_from_file = lambda *_: audio
        helpers.get_videostream_fps = lambda _: float(FPS)
        helpers.decode_video_from_file = lambda **_: bytes_of(files.source)
        iclora_utils.decode_video_by_frame = lambda **_: bytes_of(files.video)
        retake.get_videostream_metadata = lambda *_, **__: shape
        ti2vid_two_stages_hq.res2s_audio_video_denoising_loop = functools.partial(
            samplers.res2s_audio_video_denoising_loop, model_dtype=torch.float32
        )

    def pipeline(self, cls: type, made: dict[str, Tensor], *stages):
        """Return a pipeline of ``cls`` with a stage for each set of LoRAs; what it decodes is put into ``made``."""
        from ltx_core.components.schedulers import LTX2Scheduler
        from ltx_pipelines import distilled

        pipeline, path = object.__new__(cls), str(self.precise)
        pipeline.dtype, pipeline.device = self.where
        pipeline._scheduler, pipeline.distilled = LTX2Scheduler(), False
        pipeline.use_ancestral_sampler = distilled.should_use_ancestral_sampler(path)
        pipeline.duration_predictor = None
        pipeline.reference_downscale_factor = pipeline.reference_temporal_scale_factor = 1
        pipeline.prompt_encoder = self._contexts
        pipeline.image_conditioner = self.blocks.ImageConditioner(path, *self.where)
        pipeline.audio_conditioner = self.blocks.AudioConditioner(path, *self.where)
        pipeline.upsampler = self.blocks.VideoUpsampler(path, str(self.files.upscaler), *self.where)
        pipeline.video_decoder, pipeline.audio_decoder = _Keep("video", made, path), _Keep("audio", made, path)
        pipeline.stage = pipeline.stage_1 = self._stage(stages[0], made)
        pipeline.stage_2 = self._stage(stages[-1], made)
        return pipeline

    def _stage(self, loras, made: dict[str, Tensor]):
        more = {}
        if self.audio_only:
            from ltx_pipelines import t2a_one_stage as t2a

            more["model_configurator"] = t2a.LTXAudioOnlyModelConfigurator
            more["model_sd_ops"] = t2a.LTXV_AUDIO_ONLY_MODEL_COMFY_RENAMING_MAP
        stage = self.blocks.DiffusionStage.from_checkpoint(str(self._with_loras(loras)), *self.where, **more)

        def call(**settings):
            states = stage(**settings)
            if settings["audio"].frozen:
                made["audio"] = states[1].latent
            return states

        call.video_scale_factors = stage.video_scale_factors
        return _Callable(call, stage)

    def _with_loras(self, loras) -> Path:
        """The checkpoint with LoRAs put into its weights in float32: the official code would do so in bfloat16."""
        if not loras:
            return self.precise
        with safe_open(self.precise, "pt") as file:
            metadata = file.metadata()
        weights, path = load_file(self.precise), self.files.folder / f"{loras}.safetensors"
        for name, strength in loras:
            tensors = load_file(self.files.loras[name])
            for key in (key.removesuffix(".lora_A.weight") for key in tensors if ".lora_A." in key):
                change = tensors[f"{key}.lora_B.weight"] @ tensors[f"{key}.lora_A.weight"]
                weights[f"model.{key}.weight"] += strength * change
        save_file(weights, path, metadata)
        return path

    @functools.cached_property
    def _encoded(self):
        models = open_models(self.files.checkpoint, self.files.gemma)
        text = open_text_encoder(models.text_encoder)
        encoder, features = build_text_encoder(text, torch.float32), build(models, "text_features", torch.float32)
        connectors = build(models, "video_connector", torch.float32), build(models, "audio_connector", torch.float32)
        encoded = encode_prompts(encoder, text.tokenizer(), features, list(PROMPTS))
        return dict(zip(PROMPTS, (connect(each, *connectors) for each in encoded)))

    def _contexts(self, prompts, **_):
        found = (self._encoded[prompt] for prompt in prompts)
        return [types.SimpleNamespace(video_encoding=each.video, audio_encoding=each.audio) for each in found]


class _Callable:
    """A stage that tells what it made, with all else that the official one has."""

    def __init__(self, call, stage):
        self._call, self._stage = call, stage

    def __call__(self, **settings):
        return self._call(**settings)

    def __getattr__(self, name: str):
        return getattr(self._stage, name)


class _Keep:
    """A decoder that only keeps what it is given."""

    diffvae_optimization = None

    def __init__(self, stream: str, made: dict[str, Tensor], path: str):
        self.stream, self.made, self.checkpoint_path = stream, made, path

    def __call__(self, latent: Tensor, *_, **__):
        self.made[self.stream] = latent
        return (torch.zeros(1),)


def use_official(folder: Path) -> None:
    """Make the packages of an official checkout importable; of OpenImageIO, which only HDR needs, a stand-in."""
    sys.path[:0] = [str(folder / "packages" / name / "src") for name in ("ltx-core", "ltx-pipelines")]
    with contextlib.suppress(ModuleNotFoundError):
        import OpenImageIO  # noqa: F401

        return
    sys.modules["OpenImageIO"] = types.ModuleType("OpenImageIO")
    sys.modules["OpenImageIO"].__spec__ = ModuleSpec("OpenImageIO", None)


@torch.inference_mode()
def main() -> None:
    """Record the clips of an official checkout."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="checkout of the official code, with packages/ltx-pipelines")
    parser.add_argument("--only", nargs="*", default=CASES)
    parser.add_argument("--versions", nargs="*", default=list(CASES_OF), choices=CASES_OF)
    options = parser.parse_args()
    if not (options.folder / "packages" / "ltx-pipelines").is_dir():
        parser.exit(0, f"Nothing is recorded: {options.folder} has no packages/ltx-pipelines.\n")
    torch.set_num_threads(1)
    use_official(options.folder)
    found = json.loads(VECTORS.read_text()) if VECTORS.is_file() else {}
    for version in options.versions:
        cases = [case for case in CASES_OF[version] if case in options.only]
        found[version] = found.get(version, {}) | _recorded(version, cases)
    VECTORS.write_text(json.dumps({v: {c: found[v][c] for c in CASES_OF[v] if c in found[v]} for v in found}) + "\n")


def _recorded(version: str, cases: list[str]) -> dict[str, dict]:
    """The official clips of ``cases``, by case and stream; how far ours are from them is printed."""
    made = {}
    with tempfile.TemporaryDirectory() as folder:
        files = Files(Path(folder), version)
        for case in cases:
            official, own = theirs(files, case), ours(files, case)
            made[case] = {stream: shortened(latent) for stream, latent in official.items()}
            errors = {k: ((own[k] - x).norm() / x.norm()).item() for k, x in official.items() if k in own}
            print(version, case, {name: f"{error:.1e}" for name, error in errors.items()}, flush=True)
    return made


if __name__ == "__main__":
    main()
