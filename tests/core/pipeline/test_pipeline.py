"""All stages in a row against the official ones, on the same files: from contexts to frames and sound."""

from fractions import Fraction

import pytest
import torch
from agreement import compare
from direct import sample

from ltx2_core import geometry, latents
from ltx2_core.checkpoint import build, open_models
from ltx2_core.checkpoint.text_encoder import build_text_encoder, open_text_encoder
from ltx2_core.geometry import ClipShape
from ltx2_core.pipeline.decode_audio import decode_audio, vocode
from ltx2_core.pipeline.decode_video import decode_video
from ltx2_core.sampling import Guidance, ltx2
from ltx2_core.text import connect, encode_prompts
from ltx2_core.video_vae import DecoderInput

pytest.importorskip("ltx_core")

SHAPE = ClipShape(64, 96, 17, Fraction(24000, 1001))
VIDEO, AUDIO = Guidance(3, 3, 1, (1,), 0.7), Guidance(7, 2, 1, (0,), 0.7)
SEED = 11


@pytest.fixture(scope="module", params=["2.0", "2.3", "miniature"])
def version(request):
    return request.param


@pytest.fixture(scope="module")
def models(version, tiny_files):
    if version == "miniature":
        return open_models(version)
    checkpoint, gemma, _ = tiny_files(version)
    return open_models(checkpoint, gemma)


@pytest.fixture(scope="module")
def weights(models):
    """The official names, float32."""
    (file,) = models.files
    return {key: file.get(key).float() for key in file.entries}


@pytest.fixture(scope="module")
def contexts(models):
    files = open_text_encoder(models.text_encoder)
    encoder, features = build_text_encoder(files, torch.float32), build(models, "text_features", torch.float32)
    prompts = ["a red ball bounces twice on the left", "blurry"]
    connectors = build(models, "video_connector", torch.float32), build(models, "audio_connector", torch.float32)
    return [connect(f, *connectors) for f in encode_prompts(encoder, files.tokenizer(), features, prompts)]


def official(configurator, config, weights, prefix):
    """An official module filled with the tensors under ``prefix``; nothing missing."""
    module = configurator.from_config(config)
    if any(parameter.is_meta for parameter in module.parameters()):
        module.to_empty(device="cpu")  # only the transformer is made so, and it has no tables of its own
    state = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    missing, _ = module.load_state_dict(state, strict=False)
    assert not [key for key in missing if not key.endswith("inverse_basis")], missing
    return module.float().eval()


@pytest.fixture(scope="module")
def official_latent(models, weights, contexts):
    """Eight guided Euler steps with the official model, guider, stepper, noiser and patchifiers."""
    from ltx_core.components import diffusion_steps, guiders, noisers, schedulers
    from ltx_core.components.patchifiers import AudioPatchifier, VideoLatentPatchifier
    from ltx_core.guidance import perturbations as p
    from ltx_core.model.transformer.modality import Modality
    from ltx_core.model.transformer.model import X0Model
    from ltx_core.model.transformer.model_configurator import LTXModelConfigurator
    from ltx_core.tools import AudioLatentTools, VideoLatentTools
    from ltx_core.types import AudioLatentShape, VideoLatentShape, VideoPixelShape

    transformer = official(LTXModelConfigurator, models.config, weights, "model.diffusion_model.")
    network = X0Model(transformer)
    pixels = VideoPixelShape(1, SHAPE.frames, SHAPE.height, SHAPE.width, float(SHAPE.fps))
    tools = (
        VideoLatentTools(VideoLatentPatchifier(1), VideoLatentShape.from_pixel_shape(pixels), float(SHAPE.fps)),
        AudioLatentTools(AudioPatchifier(1), AudioLatentShape.from_video_pixel_shape(pixels)),
    )
    noiser = noisers.GaussianNoiser(torch.Generator().manual_seed(SEED))
    states = [noiser(tool.create_initial_state("cpu", torch.float32)) for tool in tools]
    guidance = [
        guiders.MultiModalGuider(
            guiders.MultiModalGuiderParams(
                g.text_scale, g.stg_scale, list(g.stg_blocks), g.rescale, g.cross_modal_scale
            )
        )
        for g in (VIDEO, AUDIO)
    ]
    skips = {
        "cond": [],
        "perturbed": [
            p.Perturbation(p.PerturbationType.SKIP_VIDEO_SELF_ATTN, list(VIDEO.stg_blocks)),
            p.Perturbation(p.PerturbationType.SKIP_AUDIO_SELF_ATTN, list(AUDIO.stg_blocks)),
        ],
        "isolated": [
            p.Perturbation(p.PerturbationType.SKIP_A2V_CROSS_ATTN, None),
            p.Perturbation(p.PerturbationType.SKIP_V2A_CROSS_ATTN, None),
        ],
    }

    def run(sigma, context, skip):
        inputs = [
            Modality(state.latent, sigma[None], state.denoise_mask * sigma, state.positions, text)
            for state, text in zip(states, (context.video, context.audio))
        ]
        return network(*inputs, p.BatchedPerturbationConfig([p.PerturbationConfig(skips[skip])]))

    sigmas, step = schedulers.LTX2Scheduler().execute(8), diffusion_steps.EulerDiffusionStep()
    with torch.no_grad():
        for index, sigma in enumerate(sigmas[:-1]):
            passes = [run(sigma, contexts[0], "cond"), run(sigma, contexts[1], "cond"),
                      run(sigma, contexts[0], "perturbed"), run(sigma, contexts[0], "isolated")]  # fmt: skip
            for i, guider in enumerate(guidance):
                x0 = guider.calculate(*(result[i] for result in passes))
                moved = step.step(states[i].latent, x0, sigmas, index)
                states[i] = type(states[i])(moved, states[i].denoise_mask, states[i].positions, states[i].clean_latent)
    return [tool.unpatchify(state).latent for tool, state in zip(tools, states)]


@pytest.fixture(scope="module")
def latent(models, contexts):
    with torch.no_grad():
        return sample(
            build(models, "transformer", torch.float32), latents.empty(SHAPE), fps=SHAPE.fps, sigmas=ltx2(8),
            contexts=contexts[0], negative=contexts[1], video=VIDEO, audio=AUDIO, seed=SEED,
        )  # fmt: skip


def test_latent_after_eight_steps(version, latent, official_latent):
    compare(f"latent after 8 Euler steps {version} (video)", latent.video, official_latent[0])
    compare(f"latent after 8 Euler steps {version} (audio)", latent.audio, official_latent[1])


@torch.no_grad()
def test_frames(version, models, weights, latent):
    from ltx_core.model.video_vae.model_configurator import VideoDecoderConfigurator

    weights = {
        k.replace("vae.per_channel", "vae.decoder.per_channel"): v for k, v in weights.items() if k[:4] == "vae."
    }
    theirs = official(VideoDecoderConfigurator, models.config, weights, "vae.decoder.")(latent.video)
    decoder = build(models, "video_decoder", torch.float32)
    frames = torch.cat(list(decode_video(decoder, DecoderInput(latent.video))), dim=1)
    compare(f"frames {version}", frames, ((theirs + 1) / 2).clamp(0, 1).permute(0, 2, 3, 4, 1))


@torch.no_grad()
def test_sound(version, models, weights, latent):
    from ltx_core.model.audio_vae.model_configurator import AudioDecoderConfigurator, VocoderConfigurator

    weights = {k.replace("audio_vae.per_channel", "audio_vae.decoder.per_channel"): v for k, v in weights.items()}
    decoder = official(AudioDecoderConfigurator, models.config, weights, "audio_vae.decoder.")
    vocoder = official(VocoderConfigurator, models.config, weights, "vocoder.")
    mel = decoder(latent.audio)
    our_mel = decode_audio(build(models, "audio_decoder", torch.float32), latent.audio)
    compare(f"decoded mel {version}", our_mel, mel)
    ours = build(models, "vocoder", torch.float32)
    compare(f"waveform {version}", vocode(ours, our_mel), vocoder(mel).clamp(-1, 1), 1e-4)
    assert vocode(ours, our_mel, SHAPE.samples(ours.sample_rate)).shape[-1] == SHAPE.samples(ours.sample_rate)
    assert geometry.audio_latent(geometry.audio_tokens(latent.audio)).shape == latent.audio.shape
