"""What is given: each item beside the official one and the numbers of the spec, and all of them in one clip."""

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from agreement import compare
from direct import sample
from drawn import draw
from official import matrix, official, tiny_section, use_rule_of_1_0_0

from ltx2_core import geometry
from ltx2_core.conditioning import (
    Frozen,
    Inpaint,
    Keyframe,
    ReferenceAudioTokens,
    ReferenceVideoTokens,
    Retake,
    State,
    apply_conditions,
    cells,
)
from ltx2_core.conditioning.begin import Begin, extended
from ltx2_core.conditioning.masks import fit_audio_mask, fit_video_mask
from ltx2_core.geometry import ClipShape
from ltx2_core.latents import AVLatent
from ltx2_core.sampling import SAMPLERS, Guidance, ltx2
from ltx2_core.text import Contexts

FPS = Fraction(24)
SHAPE = (8, 3, 2, 4)  # 17 frames of 128 x 64


def video_state(shape=SHAPE, fps=FPS) -> State:
    return State.of(draw(*shape, seed=9), fps)


def audio_state(length=17) -> State:
    return State.of(draw(1, length, 8, seed=8), FPS)


def times(state: State, from_token: int = 0, step: int = 1) -> list[list[float]]:
    """When tokens start and end, in 1/24 s."""
    return (state.positions[0, 0, from_token::step] * 24).tolist()


def tools(shape=SHAPE):
    """The official tools of a video of that latent shape."""
    patchifiers = pytest.importorskip("ltx_core.components.patchifiers")
    from ltx_core.tools import VideoLatentTools
    from ltx_core.types import VideoLatentShape

    return VideoLatentTools(patchifiers.VideoLatentPatchifier(1), VideoLatentShape(1, *shape), float(FPS))


def check(seam: str, ours: State, theirs, single_frames: slice | None = None) -> None:
    """A state of ours beside one of 1.0.0, which takes ``single_frames`` for eight frames long.

    It also writes what is given over the latent, which makes no difference where noise takes its place.
    """
    positions = theirs.positions.clone()
    if single_frames is not None:
        positions[:, 0, single_frames, 1] = positions[:, 0, single_frames, 0] + 1 / float(FPS)
    compare(f"{seam}: positions", ours.positions, positions)
    compare(f"{seam}: clean", ours.clean, theirs.clean_latent)
    compare(f"{seam}: timesteps", ours.mask * 0.7, theirs.denoise_mask * 0.7)
    noise = torch.randn(ours.latent.shape, generator=torch.Generator().manual_seed(1))
    compare(f"{seam}: noised", ours.noised(noise, 1), theirs.latent + theirs.denoise_mask * (noise - theirs.latent))
    assert (ours.visibility is None) == (theirs.attention_mask is None)
    if ours.visibility is not None:
        compare(f"{seam}: attention", matrix(ours.visibility), theirs.attention_mask)


def begun(shape=SHAPE):
    """The official state that ``video_state`` is."""
    return tools(shape).create_initial_state("cpu", torch.float32, draw(*shape, seed=9))


# Keyframes


def test_appended_tokens_begin_as_nothing_below_the_noise():
    """Where they are kept in part, at less than pure noise; ltx-core 1.0.0 began with the tokens themselves."""
    state = State.of(torch.zeros(1, 8, 1, 1, 1), FPS)
    state = state.append(torch.full((1, 8, 1, 1, 1), 2.0), state.positions, 0.5)
    assert state.noised(torch.full((1, 2, 8), 4.0), 0.25)[0, :, 0].tolist() == [1.0, 1.5]


@pytest.mark.parametrize("strength", [1.0, 0.8, 0.0])
def test_a_first_frame_agrees(strength):
    items = pytest.importorskip("ltx_core.conditioning")
    image = draw(8, 1, 2, 4)
    theirs = items.VideoConditionByLatentIndex(image, strength, 0).apply_to(begun(), tools())
    check("first frame", Keyframe(image, 0, strength)(video_state()), theirs)


@pytest.mark.parametrize("frame, frames", [(0, 1), (5, 1), (16, 1), (0, 2), (8, 2)])
def test_a_keyframe_agrees(frame, frames):
    items = pytest.importorskip("ltx_core.conditioning")
    latent = draw(8, frames, 2, 4)
    theirs = items.VideoConditionByKeyframeIndex(latent, frame, 0.9).apply_to(begun(), tools())
    ours = Keyframe(latent, frame, 0.9, append=True)(video_state())
    check("keyframe", ours, theirs, slice(ours.count, None) if frames == 1 else None)


def test_keyframes_of_the_spec():
    clip = video_state((8, 16, 1, 1))
    assert clip.count == 16
    at = lambda frames, frame: times(Keyframe(draw(8, frames, 1, 1), frame, append=True)(clip), 16)  # noqa: E731
    assert at(1, 16) == [[16, 17]] and at(1, 0) == [[0, 1]]
    assert at(3, 8) == [[8, 16], [16, 24], [24, 32]] and at(3, 0) == [[0, 1], [1, 9], [9, 17]]
    assert at(1, -1) == [[120, 121]] and at(1, -121) == at(1, 0)


def test_only_the_first_frame_takes_the_place_of_tokens():
    image = draw(8, 1, 2, 4)
    for frame, more in [(0, 0), (-17, 0), (1, 8), (-1, 8)]:
        assert Keyframe(image, frame)(video_state()).latent.shape[1] == 24 + more


# References


@pytest.mark.parametrize("downscale", [1, 2])
def test_a_reference_video_agrees(downscale):
    items = pytest.importorskip("ltx_core.conditioning")
    latent = draw(8, 2, 2 // downscale, 4 // downscale)
    theirs = items.VideoConditionByReferenceLatent(latent, downscale, 0.7).apply_to(begun(), tools())
    check("reference video", ReferenceVideoTokens(latent, downscale, strength=0.7)(video_state()), theirs)


@pytest.mark.parametrize("order", ["kr", "rk", "rr", "kkrkr", "krm", "mrkk"])
def test_items_in_any_order_agree(order):
    """k: keyframe, r: reference with attention 0.5, m: reference with an attention mask."""
    items = pytest.importorskip("ltx_core.conditioning")
    ours, theirs, singles = video_state(), begun(), []
    for place, kind in enumerate(order):
        latent = draw(8, 1, 2, 4, seed=place)
        if kind == "k":
            singles += range(ours.latent.shape[1], ours.latent.shape[1] + 8)
            ours = Keyframe(latent, 7, 0.9)(ours)
            theirs = items.VideoConditionByKeyframeIndex(latent, 7, 0.9).apply_to(theirs, tools())
        else:
            mask = 0.5 if kind == "r" else torch.rand(1, 2, 4, generator=torch.Generator().manual_seed(place))
            ours = ReferenceVideoTokens(latent, attention=mask)(ours)
            reference = items.VideoConditionByReferenceLatent(latent)
            strength = mask if kind == "r" else mask.flatten()
            theirs = items.ConditioningItemAttentionStrengthWrapper(reference, strength).apply_to(theirs, tools())
    check("items in any order", ours, theirs, singles or None)


def test_references_of_the_spec():
    clip = video_state((8, 3, 4, 4))
    half = ReferenceVideoTokens(draw(8, 1, 2, 2), downscale=2)(clip)
    assert half.positions[0, 1:, 48].tolist() == [[0, 64], [0, 64]] and half.visibility is None
    slow = ReferenceVideoTokens(draw(8, 2, 4, 4), temporal_scale=2)(clip)
    assert torch.tensor(times(slow, 48, 16)).allclose(torch.tensor([[0.0, 1], [1, 17]]), atol=1e-5)
    voice = ReferenceAudioTokens(draw(1, 5, 8))(audio_state())
    assert voice.positions[0, 0, -1, 1].item() == pytest.approx(-0.04)
    expected = geometry.audio_positions(5) - (4 * 4 + 1) * 0.01 - 0.04
    torch.testing.assert_close(voice.positions[:, :, -5:], expected)
    assert voice.mask[0, :, 0].tolist() == [1] * 17 + [0] * 5


# Masks


def test_a_retake_of_the_spec():
    video = Retake("video", 1, 2)(video_state((8, 16, 1, 1)))
    assert video.mask[0, :, 0].nonzero()[:, 0].tolist() == [3, 4, 5, 6]
    touching = Retake("video", 1 / 24, 9 / 24)(video_state((8, 16, 1, 1)))
    assert touching.mask[0, :, 0].nonzero()[:, 0].tolist() == [1]
    audio = Retake("audio", 1, 2)(audio_state(126))
    assert audio.mask[0, :, 0].nonzero()[:, 0].tolist() == list(range(25, 51))


def test_a_mask_gives_what_it_hides():
    """The formula of the spec, whose mask is 1 where something is given."""
    before, latent = Keyframe(draw(8, 1, 2, 4), strength=0.5)(video_state()), draw(*SHAPE, seed=4)
    mask = torch.randint(0, 33, (1, 1, *SHAPE[1:]), generator=torch.Generator().manual_seed(0)) / 32
    after, m = Inpaint("video", mask, latent, 0.75)(before), 1 - geometry.video_tokens(mask)
    torch.testing.assert_close(after.clean, before.clean * (1 - m) + geometry.video_tokens(latent) * m)
    torch.testing.assert_close(after.mask, before.mask * (1 - m) + 0.25 * m)
    assert after.latent is before.latent


def test_soft_masks_make_few_noise_levels():
    mask = torch.linspace(0, 1, 1600).view(1, 1, 1, 40, 40)
    assert len(Inpaint("video", mask)(video_state((8, 1, 40, 40))).mask.unique()) == 33


def test_pixels_to_cells():
    mask = torch.zeros(17, 64, 128)
    mask[0] = 1
    mask[1:5, :32, :32] = 1
    mask[9:, :16] = 1
    assert cells(mask, SHAPE[1:]).tolist() == [
        [[1] * 4, [1] * 4], [[0.5, 0, 0, 0], [0] * 4], [[0.5] * 4, [0] * 4]
    ]  # fmt: skip
    assert torch.equal(cells(mask[:1], SHAPE[1:]), torch.ones(SHAPE[1:]))


def test_a_mask_of_pictures_fits_the_picture_and_one_of_moments_the_sound():
    video, audio = torch.zeros(3, 8, 2, 2, 4), torch.zeros(3, 8, 4, 16)
    halves = torch.zeros(2, 64, 128)
    halves[0, :, 64:] = halves[1, :32] = 1
    left, upper = [[0, 0, 1, 1]] * 2, [[1] * 4, [0] * 4]
    assert fit_video_mask(halves, video)[:, 0].tolist() == 3 * [[left, upper]]
    assert fit_video_mask(halves[:, None], video)[0, 0].tolist() == [left, upper]
    assert fit_video_mask(torch.tensor([0.0, 1]).view(2, 1, 1, 1, 1), video).mean((1, 2, 3, 4)).tolist() == [0, 1, 0]
    assert fit_audio_mask(torch.tensor([[0.0, 1], [1, 1]]), audio)[:, 0, :, 0].tolist() == [
        [0, 0.25, 0.75, 1], [1] * 4, [0, 0.25, 0.75, 1]
    ]  # fmt: skip
    bins = torch.tensor([0.0, 1]).expand(1, 8, 4, 2)
    assert fit_audio_mask(bins, audio).unique() == 0.5
    channels = torch.cat((torch.zeros(1, 1, 2, 2, 4), torch.ones(1, 127, 2, 2, 4)), dim=1)
    assert torch.equal(fit_video_mask(channels, video), torch.zeros(3, 1, 2, 2, 4))  # the first channel counts
    assert fit_video_mask(None, video).shape == (3, 1, 2, 2, 4) and fit_audio_mask(None, audio).shape == (3, 1, 4, 1)
    assert fit_video_mask(None, video).min() == 1 == fit_audio_mask(None, audio).min()


def test_a_clip_begins_with_content_and_goes_on():
    """What is there already, as in a second stage, stays the start."""
    given, later, first = draw(8, 2, 2, 4, seed=5), draw(*SHAPE, seed=6), 16
    begun = Begin("video", given)(State.of(torch.zeros(1, *SHAPE), FPS))
    assert begun.mask[0, :, 0].tolist() == first * [0] + 8 * [1]
    assert torch.equal(begun.unpacked(begun.clean)[:, :, :2], given) and torch.equal(begun.latent, begun.clean)
    assert not begun.latent[:, first:].any()
    before = State.of(later, FPS)
    again = Begin("video", given)(before)
    assert torch.equal(again.latent, before.latent) and torch.equal(again.latent, State.of(later, FPS).latent)
    assert torch.equal(again.unpacked(again.clean), torch.cat((given, later[:, :, 2:]), dim=2))
    longer = Begin("video", torch.cat((later, given), dim=2))(State.of(torch.zeros(1, *SHAPE), FPS))
    assert torch.equal(longer.unpacked(longer.latent), later) and longer.is_free
    with pytest.raises(ValueError, match=r"the latent \(8, 3, 4, 2\), the clip \(8, 3, 2, 4\)"):
        Begin("video", later.mT)(before)


def test_a_clip_is_extended_in_both_streams():
    clip = AVLatent(draw(128, *SHAPE[1:]), draw(8, 17, 16))
    whole, mask = extended(clip, ClipShape(128, 64, 25, FPS))
    assert torch.equal(whole.video[:, :, :3], clip.video) and not whole.video[:, :, 3:].any()
    assert torch.equal(whole.audio[:, :, :17], clip.audio) and not whole.audio[:, :, 17:].any()
    assert mask.video.shape == (1, 1, 4, 2, 4) and mask.video.mean((0, 1, 3, 4)).tolist() == [0, 0, 0, 1]
    assert mask.audio[0, 0, :, 0].tolist() == 17 * [0] + (whole.audio.shape[2] - 17) * [1]


def test_a_latent_that_is_still_noisy_is_handed_out_as_by_comfyuis_samplers():
    """Content of full size, and noise on it; what is kept, and pure noise, as they are."""
    state = Begin("video", draw(8, 1, 2, 4, seed=5))(video_state())
    noise, kept = torch.randn(state.latent.shape), 8
    noisy = state.noised(noise, 0.75)
    out = state.hand_out(noisy, 0.75)
    torch.testing.assert_close(out[:, kept:], (state.latent + 3 * noise)[:, kept:])
    assert torch.equal(out[:, :kept], state.clean[:, :kept])
    torch.testing.assert_close(state.take_up(out, 0.75), noisy)
    for sigma in (0.0, 1.0):
        assert state.hand_out(noisy, sigma) is noisy is state.take_up(noisy, sigma)


def test_the_first_latent_alone_is_one_frame():
    assert video_state().keyframes[0, :, 0].tolist() == 8 * [1] + 16 * [0]


def test_masks_and_pictures_compose():
    """A new first frame survives a retake in either order; two masks keep what either of them keeps."""
    image, retake = Keyframe(draw(8, 1, 2, 4)), Retake("video", 0, 0.3)
    one, other = (a(b(video_state())) for a, b in [(image, retake), (retake, image)])
    assert torch.equal(one.mask, other.mask) and torch.equal(one.clean, other.clean)
    assert one.mask[0, :, 0].tolist() == [0] * 8 + [1] * 8 + [0] * 8
    half = torch.ones(1, 1, *SHAPE[1:])
    half[..., 2:] = 0
    assert Inpaint("video", half)(one).mask.sum() == 4


# A whole run

VIDEO, AUDIO = Guidance(3, 2, 1, (1,), 0.7), Guidance(5, 2, 1, (0,), 0.7)
CLIP = AVLatent(draw(*SHAPE, seed=1), draw(1, 17, 8, seed=2))
CONTEXTS = [Contexts(draw(6, 32, seed=seed), draw(6, 16, seed=seed + 1)) for seed in (3, 5)]
IMAGE, LATER, LAST, DEPTH, VOICE = (
    draw(8, 1, 2, 4, seed=20), draw(8, 1, 2, 4, seed=21), draw(8, 1, 2, 4, seed=22), draw(8, 2, 1, 2, seed=23),
    draw(1, 5, 8, seed=24),
)  # fmt: skip
ITEMS = [
    Keyframe(IMAGE, 0, 0.9), Keyframe(LATER, 9, 0.8), Keyframe(LAST, -1), ReferenceVideoTokens(DEPTH, 2, attention=0.5),
    Retake("audio", 0.2, 0.5), ReferenceAudioTokens(VOICE),
]  # fmt: skip


@pytest.fixture(scope="module")
def networks():
    return official(tiny_section("2.3"))


@torch.no_grad()
def run(network, items=(), latent=CLIP, **choices):
    choices = {"fps": FPS, "sigmas": ltx2(5), "contexts": CONTEXTS[0], "negative": CONTEXTS[1], "video": VIDEO,
               "audio": AUDIO, "seed": 11} | choices  # fmt: skip
    return sample(network, latent, items=items, **choices)


def audio_tools():
    patchifiers = pytest.importorskip("ltx_core.components.patchifiers")
    from ltx_core.tools import AudioLatentTools
    from ltx_core.types import AudioLatentShape

    return AudioLatentTools(patchifiers.AudioPatchifier(1), AudioLatentShape(1, 1, 17, 8))


def unreferenced(audio):
    """The official state of a sound, without what is appended to the clip's own 17 tokens."""
    names = "latent", "clean_latent", "denoise_mask"
    return replace(
        audio, positions=audio.positions[:, :, :17], **{name: getattr(audio, name)[:, :17] for name in names}
    )


@torch.no_grad()
def official_run(transformer, video, audio, guidance=(VIDEO, AUDIO), covered=False) -> list[torch.Tensor]:
    """The official model, noiser, guiders and stepper; a stream that is given whole has sigma 0 (newer than 1.0.0),
    unless it is ``covered`` by pictures.

    A given sound reads the prompt in the negative pass, because the official audio-to-video pipeline has no other.
    Identity guidance is that of ID-LoRA's own scripts: a pass whose sound is the clip's tokens alone.
    """
    from ltx_core.components import diffusion_steps, guiders, noisers
    from ltx_core.guidance import perturbations as p
    from ltx_core.model.transformer.modality import Modality
    from ltx_core.model.transformer.model import X0Model

    noiser, network = noisers.GaussianNoiser(torch.Generator().manual_seed(11)), X0Model(transformer)
    states = [noiser(video), noiser(audio)]
    negative = Contexts(CONTEXTS[1].video, CONTEXTS[int(bool(audio.denoise_mask.any()))].audio)
    kinds = p.PerturbationType
    perturbed = [
        p.Perturbation(kind, list(each.stg_blocks))
        for kind, each in zip((kinds.SKIP_VIDEO_SELF_ATTN, kinds.SKIP_AUDIO_SELF_ATTN), guidance)
    ]
    isolated = [p.Perturbation(kinds.SKIP_A2V_CROSS_ATTN, None), p.Perturbation(kinds.SKIP_V2A_CROSS_ATTN, None)]

    def estimate(sigma, contexts, skips=(), states=states):
        inputs = [
            Modality(state.latent, sigma[None] * (covered or state.denoise_mask.any()), state.denoise_mask * sigma,
                     state.positions, text, attention_mask=state.attention_mask)
            for state, text in zip(states, (contexts.video, contexts.audio))
        ]  # fmt: skip
        return network(*inputs, p.BatchedPerturbationConfig([p.PerturbationConfig(list(skips))]))

    sigmas, step = torch.tensor(ltx2(5)), diffusion_steps.EulerDiffusionStep()
    for index, sigma in enumerate(sigmas[:-1]):
        passes = [
            estimate(sigma, *question)
            for question in ([CONTEXTS[0]], [negative], [CONTEXTS[0], perturbed], [CONTEXTS[0], isolated])
        ]
        alone = estimate(sigma, CONTEXTS[0], states=[states[0], unreferenced(states[1])])
        for i, (state, each) in enumerate(zip(states, guidance)):
            scales = each.text_scale, each.stg_scale, list(each.stg_blocks), each.rescale, each.cross_modal_scale
            guider = guiders.MultiModalGuider(guiders.MultiModalGuiderParams(*scales))
            x0 = guider.calculate(*(estimates[i] for estimates in passes))
            if each.identity_scale:
                without = alone[i]
                x0[:, : without.shape[1]] += each.identity_scale * (passes[0][i][:, : without.shape[1]] - without)
            x0 = x0 * state.denoise_mask + state.clean_latent * (1 - state.denoise_mask)
            states[i] = replace(state, latent=step.step(state.latent, x0, sigmas, index))
    made = zip((tools(), audio_tools()), states)
    return [each.unpatchify(each.clear_conditioning(state)).latent for each, state in made]


def test_a_clip_in_which_much_is_given_agrees(networks, monkeypatch):
    """With the official items, and what is newer than 1.0.0 written out."""
    use_rule_of_1_0_0(monkeypatch)
    conditioning = pytest.importorskip("ltx_core.conditioning")
    video = tools().create_initial_state("cpu", torch.float32, CLIP.video)
    reference = conditioning.VideoConditionByReferenceLatent(DEPTH, 2)
    for item in (
        conditioning.VideoConditionByLatentIndex(IMAGE, 0.9, 0),
        conditioning.VideoConditionByKeyframeIndex(LATER, 9, 0.8),
        conditioning.VideoConditionByKeyframeIndex(LAST, 16, 1.0),
        conditioning.ConditioningItemAttentionStrengthWrapper(reference, 0.5),
    ):
        video = item.apply_to(video, tools())
    video.positions[:, 0, 24:40, 1] = video.positions[:, 0, 24:40, 0] + 1 / 24  # keyframes are one frame long

    audio, voice = audio_tools().create_initial_state("cpu", torch.float32, CLIP.audio), geometry.audio_tokens(VOICE)
    inside = (audio.positions[0, 0, :, 1] > 0.2) & (audio.positions[0, 0, :, 0] < 0.5)
    audio = replace(
        audio,
        latent=torch.cat((audio.latent, voice), 1),
        clean_latent=torch.cat((audio.clean_latent, voice), 1),
        denoise_mask=torch.cat((inside.float(), torch.zeros(5)))[None, :, None],
        positions=torch.cat((audio.positions, geometry.audio_positions(5) - 0.17 - 0.04), 2),
    )
    expected, result, free = official_run(networks[0], video, audio), run(networks[1], ITEMS), run(networks[1])
    for stream, ours, theirs, other in zip(
        ("video", "audio"), result.streams().values(), expected, free.streams().values()
    ):
        compare(f"image, keyframes, reference and retake, 5 steps ({stream})", ours, theirs)
        assert (ours - other).abs().max() > 0.1


@pytest.mark.parametrize("scales", [(0, 3), (2, 3)], ids=["as ID-LoRA", "as ComfyUI, in both streams"])
def test_identity_guidance_agrees(networks, monkeypatch, scales):
    """With a reference sound, beside the other terms; without one it asks for nothing."""
    use_rule_of_1_0_0(monkeypatch)
    pytest.importorskip("ltx_core")
    video = tools().create_initial_state("cpu", torch.float32, CLIP.video)
    audio, voice = audio_tools().create_initial_state("cpu", torch.float32, CLIP.audio), geometry.audio_tokens(VOICE)
    audio = replace(
        audio,
        latent=torch.cat((audio.latent, voice), 1),
        clean_latent=torch.cat((audio.clean_latent, voice), 1),
        denoise_mask=torch.cat((torch.ones(1, 17, 1), torch.zeros(1, 5, 1)), 1),
        positions=torch.cat((audio.positions, geometry.audio_positions(5) - 0.17 - 0.04), 2),
    )
    plain = [replace(each, rescale=0) for each in (VIDEO, AUDIO)]
    guidance = [replace(each, identity_scale=scale) for each, scale in zip(plain, scales)]
    choices = [{"video": video, "audio": audio} for video, audio in (plain, guidance)]
    expected = official_run(networks[0], video, audio, guidance)
    without, result = (run(networks[1], [ReferenceAudioTokens(VOICE)], **each) for each in choices)
    compare(f"identity guidance {scales}, 5 steps (video)", result.video, expected[0])
    compare(f"identity guidance {scales}, 5 steps (audio)", result.audio, expected[1])
    assert (result.audio - without.audio).abs().max() > 0.01
    unreferenced, free = (run(networks[1], **each) for each in choices)
    assert torch.equal(unreferenced.audio, free.audio) and torch.equal(unreferenced.video, free.video)


def test_a_sound_may_be_its_own_reference():
    """As in the second stage of Dub-It: it is frozen, and is heard once more before the clip begins."""
    state = apply_conditions(CLIP, FPS, [ReferenceAudioTokens(), Frozen("audio")]).audio
    assert state.is_frozen and torch.equal(state.clean[:, 17:], state.clean[:, :17])
    given = apply_conditions(CLIP, FPS, [ReferenceAudioTokens(CLIP.audio)]).audio
    assert torch.equal(state.positions, given.positions) and state.positions[0, 0, 17:].max() < 0


@pytest.mark.parametrize("frozen", ["audio", "video"])
def test_a_clip_with_a_given_stream_agrees(networks, monkeypatch, frozen):
    """Audio to video and video to audio; a stream that is given asks for no guidance."""
    use_rule_of_1_0_0(monkeypatch)
    states = {
        "video": tools().create_initial_state("cpu", torch.float32, CLIP.video),
        "audio": audio_tools().create_initial_state("cpu", torch.float32, CLIP.audio),
    }
    states[frozen] = replace(states[frozen], denoise_mask=0 * states[frozen].denoise_mask)
    guidance = {"video": VIDEO, "audio": AUDIO} | {frozen: Guidance()}
    expected = official_run(networks[0], *states.values(), guidance.values())
    result = run(networks[1], [Frozen(frozen)])
    compare(f"{frozen} given, 5 steps (video)", result.video, expected[0])
    compare(f"{frozen} given, 5 steps (audio)", result.audio, expected[1])


def test_a_clip_that_a_picture_covers_agrees(networks, monkeypatch):
    """As one of a single frame: the picture is not frozen, so its noise level and its guidance are those of a clip."""
    use_rule_of_1_0_0(monkeypatch)
    conditioning = pytest.importorskip("ltx_core.conditioning")
    picture = draw(*SHAPE, seed=26)
    states = (
        conditioning.VideoConditionByLatentIndex(picture, 1, 0).apply_to(
            tools().create_initial_state("cpu", torch.float32, CLIP.video), tools()
        ),
        audio_tools().create_initial_state("cpu", torch.float32, CLIP.audio),
    )
    expected = official_run(networks[0], *states, covered=True)
    result = run(networks[1], [Keyframe(picture, encoded_alone=True)])
    compare("video covered, 5 steps (audio)", result.audio, expected[1])
    assert torch.equal(result.video, picture)
    frozen = apply_conditions(CLIP, FPS, [Keyframe(picture), Frozen("video")]).video
    assert frozen.is_frozen and torch.equal(frozen.clean, apply_conditions(CLIP, FPS, [Keyframe(picture)]).video.clean)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_is_kept_is_kept_bit_for_bit(networks, sampler):
    hole = torch.zeros(1, 1, *SHAPE[1:])
    hole[..., 1:, :1, :2] = 1
    items = [Inpaint("video", hole), Frozen("audio", draw(1, 18, 8, seed=30)), ReferenceAudioTokens(VOICE)]
    seen = []
    result = run(networks[1], items, sampler=sampler, on_step=lambda done, total, step: seen.append(step))
    assert torch.equal(result.audio, draw(1, 18, 8, seed=30)[:, :, :17])
    kept = (hole == 0).expand_as(CLIP.video)
    assert torch.equal(result.video[kept], CLIP.video[kept])
    assert ((result.video - CLIP.video).abs()[~kept] > 1e-3).all()
    for step in seen:
        assert step.x0.video.shape == CLIP.video.shape and step.latent.audio.shape == CLIP.audio.shape
        torch.testing.assert_close(step.x0.audio, result.audio)


def test_the_model_hears_frozen_sound_and_its_noise(networks):
    sound = draw(1, 17, 8, seed=30)
    heard, noisy, other = (
        run(networks[1], [Frozen("audio", *more)]) for more in [(sound,), (sound, 0.3), (draw(1, 17, 8, seed=31),)]
    )
    assert torch.equal(heard.audio, noisy.audio)
    assert (heard.video - noisy.video).abs().max() > 1e-3 < (heard.video - other.video).abs().max()


def test_items_are_given_to_every_clip_of_a_batch(networks):
    """Also where two passes go as one batch, and with a negative prompt inside the attention."""
    twice = AVLatent(CLIP.video.repeat(2, 1, 1, 1, 1), CLIP.audio.repeat(2, 1, 1, 1))
    choices = {"video": Guidance(3, nag_scale=1), "audio": Guidance(5, nag_scale=3)}
    plain, batched = (run(networks[1], ITEMS, twice, batched_passes=batched, **choices) for batched in (False, True))
    torch.testing.assert_close(batched.video, plain.video, rtol=1e-4, atol=1e-4)
    assert torch.equal(plain.audio[0, :, 15:], CLIP.audio[0, :, 15:]) and torch.equal(
        plain.audio[1, :, 15:], CLIP.audio[0, :, 15:]
    )
    assert not torch.equal(plain.video[0], plain.video[1])


def test_a_stream_may_be_absent(networks):
    result = run(networks[1], [ReferenceAudioTokens(VOICE)], AVLatent(None, CLIP.audio))
    assert result.video is None and result.audio.shape == CLIP.audio.shape
    assert not torch.equal(result.audio, run(networks[1], [], AVLatent(None, CLIP.audio)).audio)


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_a_run_with_items_may_be_split(networks, sampler):
    sigmas, steps = ltx2(5), []
    items = [Keyframe(IMAGE), Keyframe(LAST, -1), ReferenceVideoTokens(DEPTH, 2), ReferenceAudioTokens(VOICE)]
    whole = run(networks[1], items, sampler=sampler)
    first = run(networks[1], items, sampler=sampler, sigmas=sigmas[:3], on_step=lambda *report: steps.append(report[2]))
    second = run(
        networks[1], items, first, sampler=sampler, sigmas=sigmas[2:], add_noise=False, start_step=2, last=steps[-1]
    )
    assert torch.equal(second.video, whole.video) and torch.equal(second.audio, whole.audio)


def test_what_is_given_is_given_to_a_noisy_latent(networks):
    steps = []
    run(networks[1], [Keyframe(IMAGE)], add_noise=False, on_step=lambda done, total, step: steps.append(step))
    assert torch.equal(steps[0].start.video[:, :, :1], IMAGE)
    assert torch.equal(steps[0].start.video[:, :, 1:], CLIP.video[:, :, 1:])


def test_selected_tokens_are_a_state_of_their_own():
    """A tile of the right half, with the appended tokens that lie in it; the same items in the tile alone."""
    state = ReferenceVideoTokens(DEPTH, 2, attention=0.5)(Keyframe(LATER, 9)(video_state()))
    right = torch.tensor([i for i in range(state.positions.shape[2]) if state.positions[0, 2, i, 0] >= 64])
    tile = state.select(right, (8, 3, 2, 2))
    alone = State.of(draw(*SHAPE, seed=9)[..., 2:], FPS)
    alone = ReferenceVideoTokens(DEPTH[..., 1:], 2, attention=0.5)(Keyframe(LATER[..., 2:], 9)(alone))
    assert torch.equal(tile.clean, alone.clean) and torch.equal(tile.mask, alone.mask)
    assert torch.equal(matrix(tile.visibility), matrix(alone.visibility)) and tile.count == alone.count == 12
    torch.testing.assert_close(tile.positions - torch.tensor([0.0, 0, 64]).view(3, 1, 1), alone.positions)


@pytest.mark.parametrize(
    "item, sentence",
    [
        (Keyframe(draw(8, 1, 2, 4), 17), "given at frame 17, but the clip has 17 frames: choose one from -17 to 16"),
        (Keyframe(draw(8, 1, 2, 4), -18), "given at frame -18"),
        (Keyframe(draw(8, 1, 4, 4)), r"\(8, 4, 4\), the clip has \(8, 2, 4\): resize it"),
        (Keyframe(draw(8, 4, 2, 4)), "4 latent frames is given for the beginning of a clip of 3"),
        (ReferenceVideoTokens(draw(8, 1, 2, 4), 2), "for a clip of 8 x 4; this one has 4 x 2.*multiple of 64 pixels"),
        (ReferenceVideoTokens(draw(8, 1, 2, 4), attention=torch.ones(2, 4)), "make it of the same frames"),
        (Frozen("audio", draw(1, 16, 8)), r"latent \(1, 16, 8\), the clip \(1, 17, 8\).*at least as long"),
        (Frozen("audio", noise=2), "noise on the given audio is 2; it must lie between 0 and 1"),
        (Retake("video", 0.5, 0.5), "from 0.5 s to 0.5 s; it must end after its beginning"),
        (Retake("audio", 3, 4), "from 3 s to 4 s, but the sound of the clip ends at 0.65 s"),
        (Inpaint("video", torch.ones(1, 1, 3, 4, 4)), r"shape \(1, 3, 4, 4\), this clip needs \(1, 3, 2, 4\)"),
        (Inpaint("audio", torch.ones(1, 1, 16, 1)), r"shape \(1, 16, 1\), this clip needs \(1, 17, 1\)"),
    ],
)
def test_bad_input_is_one_sentence(item, sentence):
    with pytest.raises(ValueError, match=sentence):
        apply_conditions(CLIP, FPS, [item])


def test_items_of_an_absent_stream_are_refused():
    with pytest.raises(ValueError, match="picture of the clip is given or kept, but this latent has none"):
        apply_conditions(AVLatent(None, CLIP.audio), FPS, [Keyframe(IMAGE)])


def test_masks_of_another_length_are_refused():
    with pytest.raises(ValueError, match="16 frames; it needs 1, or 17"):
        cells(torch.ones(16, 64, 128), (3, 2, 4))
