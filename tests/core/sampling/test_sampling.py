"""Guidance, the denoiser, noise and recipes, by themselves."""

from fractions import Fraction

import pytest
import torch
from agreement import compare
from direct import sample

from ltx2_core import geometry, latents
from ltx2_core.conditioning import Frozen, Inpaint, ReferenceAudioTokens, State, apply_conditions
from ltx2_core.geometry import ClipShape
from ltx2_core.latents import AVLatent
from ltx2_core.sampling import (
    PASSES,
    SAMPLERS,
    SCHEDULES,
    Denoiser,
    Guidance,
    GuidanceBySigma,
    StreamGuidance,
    passes_needed,
    recipe_for,
)
from ltx2_core.sampling.guidance import Term
from ltx2_core.text import Contexts
from ltx2_core.text.relay import relay_prompts
from ltx2_core.transformer import Perturbation


def av_latent(seed: int) -> AVLatent:
    generator = torch.Generator().manual_seed(seed)
    return AVLatent(torch.randn(1, 128, 2, 1, 2, generator=generator), torch.randn(1, 8, 3, 16, generator=generator))


def test_guidance_of_the_spec():
    passes = {
        "cond": [1, 2, 3, -1], "negative": [0.5, 1.5, 3.5, -0.5],
        "perturbed": [0.9, 2.1, 2.8, -0.7], "isolated": [1.1, 1.8, 2.9, -1.2],
    }  # fmt: skip
    tensors = {name: torch.tensor([values], dtype=torch.float32) for name, values in passes.items()}
    plain = Guidance(3, 3, 1, (0,)).combine(tensors)
    assert plain[0].tolist() == pytest.approx([1.9, 3.3, 2.4, -1.9], abs=1e-6)
    rescaled = Guidance(3, 3, 1, (0,), rescale=0.7).combine(tensors)
    assert rescaled[0].tolist() == pytest.approx([1.561402, 2.711909, 1.972297, -1.561402], abs=1e-6)


def test_guidance_agrees():
    """Twelve random settings for each stream."""
    guiders = pytest.importorskip("ltx_core.components.guiders")
    generator = torch.Generator().manual_seed(0)
    for setting in range(24):
        passes = torch.randn(4, 1, 10, 8, generator=generator)
        text, modality, stg, rescale = (torch.rand(4, generator=generator) * torch.tensor([8, 5, 2, 1])).tolist()
        rescale = 0.0 if setting % 3 == 0 else rescale
        theirs = guiders.MultiModalGuider(guiders.MultiModalGuiderParams(text, stg, [1], rescale, modality))
        compare(
            "x0 after guidance",
            Guidance(text, modality, stg, (1,), rescale).combine(dict(zip(PASSES, passes))),
            theirs.calculate(*passes),
        )


def test_a_stream_follows_what_stg_leaves_out_of_the_other_one():
    """Officially, one perturbed pass is for both, whatever blocks a stream names; without any it does not run."""
    passes = {name: torch.randn(1, 10, 8, generator=torch.Generator().manual_seed(i)) for i, name in enumerate(PASSES)}
    unnamed = Guidance(stg_scale=2)
    torch.testing.assert_close(unnamed.combine(passes), 3 * passes["cond"] - 2 * passes["perturbed"])
    assert unnamed.combine({"cond": passes["cond"]}) is passes["cond"]
    assert passes_needed([unnamed, unnamed]) == ["cond"]
    assert passes_needed([unnamed, Guidance(stg_scale=1, stg_blocks=(3,))]) == ["cond", "perturbed"]


def test_skipped_steps_agree():
    guiders = pytest.importorskip("ltx_core.components.guiders")
    for skip in range(5):
        theirs = guiders.MultiModalGuider(guiders.MultiModalGuiderParams(skip_step=skip))
        ours = Guidance(skip_steps=skip)
        assert [ours.skips(step) for step in range(12)] == [theirs.should_skip_step(step) for step in range(12)]


def test_text_terms_agree():
    """CFG* and APG, which the official code has as guiders of their own; both compose with everything else."""
    guiders = pytest.importorskip("ltx_core.components.guiders")
    cond, negative = torch.randn(2, 1, 10, 8, generator=torch.Generator().manual_seed(0))
    pair = cond[None], negative[None]
    cases = {
        "x0 with CFG*": (guiders.CFGStarRescalingGuider(scale=3.5), Guidance(3.5, cfg_star=True)),
        "x0 with APG": (guiders.LtxAPGGuider(scale=3.5, eta=0.3), Guidance(3.5, apg_parallel=0.3)),
        "x0 with APG, limited": (
            guiders.LtxAPGGuider(scale=3.5, eta=0.0, norm_threshold=2.0), Guidance(3.5, apg_parallel=0, apg_limit=2.0)
        ),
    }  # fmt: skip
    for seam, (theirs, ours) in cases.items():
        compare(seam, ours.combine(dict(zip(PASSES, pair))), pair[0] + theirs.delta(*pair))


def test_neutral_guidance_is_the_conditional_pass_itself():
    cond = torch.randn(1, 4, dtype=torch.bfloat16)
    assert Guidance(rescale=0.7).combine({"cond": cond, "negative": cond + 1, "isolated": cond - 1}) is cond


@pytest.mark.parametrize("setting", [{"rescale": 0.7}, {"cfg_star": True}, {"apg_parallel": 0.3}, {"apg_limit": 30}])
def test_a_sample_does_not_depend_on_its_neighbours(setting):
    """The limit cuts one of them alone."""
    guidance, scales = Guidance(3, **setting), torch.tensor([1.0, 7.0])[:, None, None]
    passes = {name: torch.randn(2, 10, 5) * scales for name in ("cond", "negative")}
    alone = [guidance.combine({name: x[i : i + 1] for name, x in passes.items()}) for i in range(2)]
    torch.testing.assert_close(guidance.combine(passes), torch.cat(alone))
    plain = Guidance(3).combine(passes)
    assert [torch.allclose(*pair) for pair in zip(alone, plain.split(1))] == ["apg_limit" in setting, False]


class Recorder:
    """A network that predicts a tenth of its tokens and remembers what it was asked."""

    def __init__(self):
        self.sweeps = []

    def sweep(self, passes, between_blocks=None):
        self.sweeps.append(passes)
        return [tuple(stream and self.velocity(stream) for stream in (each.video, each.audio)) for each in passes]

    def velocity(self, stream):
        return stream.tokens * 0.1


class Reader(Recorder):
    """Its predictions depend on what a pass reads and how much it is shown; there are none of a stream at rest."""

    def velocity(self, stream):
        read = stream.context.mean((1, 2)) + stream.tokens.shape[1]
        return stream.tokens * read[:, None, None] if stream.updated else stream.tokens * torch.nan


def contexts(value: float):
    return Contexts(torch.full((1, 4, 8), value), torch.full((1, 4, 6), value))


STATE = apply_conditions(av_latent(3), Fraction(24))


def tokens(seed: int) -> AVLatent:
    """What ``av_latent`` is to a sampler."""
    return apply_conditions(av_latent(seed), Fraction(24)).map(lambda state: state.latent)


def denoiser(network=None, **changes) -> tuple[Recorder, Denoiser]:
    network = network or Recorder()
    given = {"state": STATE, "contexts": contexts(1.0), "negative": contexts(-1.0)} | changes
    return network, Denoiser(network, **given)


@pytest.mark.parametrize(
    "video, audio, passes",
    [
        (Guidance(), Guidance(), ["cond"]),
        (Guidance(3), Guidance(), ["cond", "negative"]),
        (Guidance(), Guidance(stg_scale=1, stg_blocks=(5,)), ["cond", "perturbed"]),
        (Guidance(stg_scale=1), Guidance(stg_scale=1), ["cond"]),
        (Guidance(1, 2), Guidance(), ["cond", "isolated"]),
        (Guidance(3, 3, 1, (29,), 0.7), Guidance(7, 3, 1, (29,), 0.7), ["cond", "negative", "perturbed", "isolated"]),
    ],
)
def test_only_the_passes_that_are_needed_run_and_in_one_sweep(video, audio, passes):
    network, denoise = denoiser(video=video, audio=audio)
    denoise(tokens(0), 0.5)
    assert denoise.passes(tokens(0), (video, audio)) == passes
    assert [len(sweep) for sweep in network.sweeps] == [len(passes)]


def test_what_each_pass_leaves_out():
    network, denoise = denoiser(video=Guidance(3, 3, 1, (29,)), audio=Guidance(7, 3, 0, (29,)))
    denoise(tokens(0), 0.5)
    cond, negative, perturbed, isolated = network.sweeps[0]
    assert cond.video.context.max() == 1 and negative.video.context.max() == -1 == negative.audio.context.max()
    assert perturbed.perturbation == Perturbation(video_values_only=frozenset({29}))
    assert isolated.perturbation == Perturbation(audio_to_video=False, video_to_audio=False)
    # Passes that read the same text are given the same objects, so that the network computes in common what it can.
    assert cond.video is perturbed.video is isolated.video and cond.audio is perturbed.audio is isolated.audio


def test_the_unreferenced_pass_hears_the_clip_alone():
    """Only where there is a reference sound; its own rows are those of the conditional pass."""
    voice = ReferenceAudioTokens(av_latent(5).audio)
    state = apply_conditions(av_latent(3), Fraction(24), [voice])
    network, denoise = denoiser(Reader(), video=Guidance(3), audio=Guidance(identity_scale=3), state=state)
    noisy = state.map(lambda stream: stream.latent + 1)
    x0 = denoise(noisy, 0.5)
    denoise(noisy, 0.4)
    (cond, _, unreferenced), (*_, later) = network.sweeps
    own = state.audio.count
    assert unreferenced.video is cond.video and unreferenced.audio.tokens.shape[1] == own
    assert torch.equal(unreferenced.audio.tokens, cond.audio.tokens[:, :own])
    assert torch.equal(unreferenced.audio.positions, cond.audio.positions[:, :, :own])
    assert unreferenced.audio.positions is later.audio.positions  # so that rotations are made once
    assert torch.equal(x0.audio[:, own:], state.audio.clean[:, own:])
    heard, alone = (noisy.audio[:, :own] * (1 - 0.5 * (1 + count)) for count in (state.audio.latent.shape[1], own))
    torch.testing.assert_close(x0.audio[:, :own], heard + 3 * (heard - alone))
    assert passes_needed([Guidance(identity_scale=3)]) == ["cond"]
    assert passes_needed([Guidance(identity_scale=3)], reference_sound=True) == ["cond", "unreferenced"]


def test_a_lonely_stream_needs_no_isolated_pass():
    network, denoise = denoiser(video=Guidance(1, 3), audio=Guidance(1, 3))
    result = denoise(AVLatent(None, tokens(0).audio), 0.5)
    assert len(network.sweeps[0]) == 1 and result.video is None


RELAYED = relay_prompts([contexts(-1.0), contexts(-1.0)], (0.0, 1.0), 1.0)  # each in its time
LONGER = Contexts(RELAYED.video, RELAYED.audio)


@pytest.mark.parametrize(
    "changes, sizes",
    [
        ({}, [2, 1]),
        ({"caches_text": True}, [2, 1]),
        ({"negative": LONGER}, [1, 1, 1]),
        ({"contexts": RELAYED, "negative": LONGER}, [1, 1, 1]),
        ({"audio": Guidance(7, 3, nag_scale=5)}, [1, 1, 1]),
        ({"video": Guidance(1, 2), "audio": Guidance()}, [1, 1]),
    ],
)
def test_the_batched_mode_asks_the_same_with_fewer_passes(changes, sizes):
    """Where nothing but equally long prompts differs."""
    guidance = {"video": Guidance(3, 2), "audio": Guidance(7, 3)} | changes
    network, batched = denoiser(Reader(), batched=True, **guidance)
    _, plain = denoiser(Reader(), **guidance)
    for a, b in zip(batched.both(tokens(0), 0.5), plain.both(tokens(0), 0.5)):
        torch.testing.assert_close(a.video, b.video)
        torch.testing.assert_close(a.audio, b.audio)
    (asked,) = network.sweeps
    assert [len(each.video.tokens) for each in asked] == sizes
    if sizes[0] == 2:
        assert asked[0].video.context.amax((1, 2)).tolist() == [1, -1] and asked[0].video.text_cache is None


def test_nag_needs_no_pass_but_a_negative_prompt():
    network, denoise = denoiser(video=Guidance(nag_scale=5))
    denoise(tokens(0), 0.5)
    (only,) = network.sweeps[0]
    assert only.video.nag.context.max() == -1 and only.video.nag.scale == 5 and only.audio.nag is None
    _, denoise = denoiser(video=Guidance(nag_scale=5), negative=None)
    with pytest.raises(ValueError, match="no negative prompt"):
        denoise(tokens(0), 0.5)


def test_skipped_steps_reuse_the_last_estimate():
    network, denoise = denoiser(video=Guidance(3, skip_steps=1), audio=Guidance(3, skip_steps=2))
    estimates = []
    for denoise.step in range(7):
        estimates.append(denoise(tokens(denoise.step), 0.5))
    computed = [
        ("video" if s[0].video.updated else "") + ("audio" if s[0].audio.updated else "") for s in network.sweeps
    ]
    # Video computes steps 0, 2, 4, 6, audio 0, 3, 6; steps 1 and 5 need no forward at all.
    assert computed == ["videoaudio", "video", "audio", "video", "videoaudio"]
    for step, video, audio in [(1, 0, 0), (2, 2, 0), (3, 2, 3), (4, 4, 3), (5, 4, 3)]:
        assert torch.equal(estimates[step].video, estimates[video].video)
        assert torch.equal(estimates[step].audio, estimates[audio].audio)
    assert not torch.equal(estimates[0].video, estimates[2].video)


def test_a_stream_that_skips_a_step_reuses_both_estimates():
    """CFG++ takes its noise from the second one."""
    _, denoise = denoiser(Reader(), video=Guidance(3), audio=Guidance(3, skip_steps=1))
    before = denoise.both(tokens(0), 0.5)
    denoise.step = 1
    for first, second in zip(before, denoise.both(tokens(1), 0.4)):
        assert torch.equal(second.audio, first.audio)
        assert second.video.isfinite().all() and not torch.equal(second.video, first.video)


def test_only_the_first_estimate_of_a_step_is_skipped():
    """As officially: the middle of res_2s is computed in every step, and its last estimate counts to the next one."""
    network, denoise = denoiser(video=Guidance(skip_steps=1), audio=Guidance(skip_steps=1))
    computed = []
    for denoise.step, asked in ((0, 2), (1, 2), (2, 3), (3, 3)):
        for number in range(asked):
            before = len(network.sweeps)
            denoise(tokens(number), 0.5)
            computed.append(len(network.sweeps) > before)
    assert computed == [True, True, False, True, True, True, False, False, True, True]


def test_guidance_by_sigma():
    table = GuidanceBySigma(((0.3, Guidance(1)), (0.8, Guidance(2)), (0.5, Guidance(4))))
    assert [table.at(sigma).text_scale for sigma in (1.0, 0.8, 0.6, 0.5, 0.4, 0.3, 0.0)] == [2, 2, 2, 4, 4, 1, 1]
    network, denoise = denoiser(video=GuidanceBySigma(((1.0, Guidance(3)), (0.5, Guidance()))))
    for sigma in (0.9, 0.4):
        denoise(tokens(0), sigma)
    assert [len(sweep) for sweep in network.sweeps] == [2, 1]
    with pytest.raises(ValueError, match="table is empty"):
        GuidanceBySigma(())


def test_a_frozen_sound_reads_the_prompt_in_the_negative_pass():
    """As in the official audio-to-video pipeline; a frozen picture reads the negative one, as in its retake."""
    for frozen, expected in (("audio", (-1, 1)), ("video", (-1, -1))):
        state = apply_conditions(av_latent(3), Fraction(24), [Frozen(frozen)])
        network, denoise = denoiser(video=Guidance(3), audio=Guidance(3), state=state)
        denoise(tokens(1), 0.5)
        negative = network.sweeps[0][1]
        assert (negative.video.context.max(), negative.audio.context.max()) == expected


def test_text_guidance_without_a_negative_prompt():
    _, denoise = denoiser(video=Guidance(3), negative=None)
    with pytest.raises(ValueError, match="no negative prompt"):
        denoise(tokens(0), 0.5)


def test_rotations_are_made_once_for_all_steps():
    """They are kept by the tensor of positions."""
    network, denoise = denoiser(video=Guidance(3))
    for sigma in (0.5, 0.4):
        denoise(tokens(0), sigma)
    for stream in ("video", "audio"):
        assert len({id(getattr(each, stream).positions) for sweep in network.sweeps for each in sweep}) == 1


def test_kept_content_survives():
    mask = AVLatent(torch.ones(1, 1, 2, 1, 2), torch.ones(1, 1, 3, 1))
    mask.video[:, :, 0] = 0
    mask.audio[:, :, 1] = 0.25
    clean = av_latent(3)
    state = apply_conditions(clean, Fraction(24), [Inpaint("video", mask.video), Inpaint("audio", mask.audio)])
    network, denoise = denoiser(state=state)
    noisy = state.map(lambda stream, noise: stream.noised(noise, 0.5), tokens(4))
    x0 = state.map(State.unpacked, denoise(noisy, 0.5))
    assert torch.equal(x0.video[:, :, 0], clean.video[:, :, 0])
    video, audio = network.sweeps[0][0].video, network.sweeps[0][0].audio
    assert video.timesteps.tolist() == [[0, 0, 0.5, 0.5]] and audio.timesteps.tolist() == [[0.5, 0.125, 0.5]]
    assert video.sigma.tolist() == [0.5]


def test_the_negative_estimate_is_what_the_model_says_of_content_kept_in_part():
    """CFG++ takes its noise from it; the official loop puts content back into the guided estimate alone."""
    mask = torch.ones(1, 1, 3, 1)
    mask[:, :, 0], mask[:, :, 1] = 0, 0.25
    state = apply_conditions(av_latent(3), Fraction(24), [Inpaint("audio", mask), Frozen("video", noise=0.25)])
    _, denoise = denoiser(state=state, noise=tokens(4))
    guided, plain = denoise.both(state.map(lambda stream, noise: stream.noised(noise, 0.5), tokens(4)), 0.5)
    torch.testing.assert_close(state.audio.hold(plain.audio), guided.audio)
    assert (plain.audio - guided.audio).abs().amax((0, 2)).gt(0).tolist() == [False, True, False]
    assert torch.equal(plain.video, state.video.clean)


def test_a_stream_that_is_given_whole_is_clean_and_asks_for_nothing():
    state = apply_conditions(av_latent(3), Fraction(24), [Frozen("audio")])
    network, denoise = denoiser(state=state, audio=Guidance(7, 3, 1, (0,), nag_scale=5))
    assert torch.equal(denoise(tokens(3), 0.5).audio, state.audio.clean)
    (only,) = network.sweeps[0]
    assert only.audio.sigma.tolist() == [0] and only.video.sigma.tolist() == [0.5] and only.audio.nag is None
    assert only.audio.updated  # it moves through the blocks all the same


def test_a_frozen_stream_alone_needs_no_forward():
    state = apply_conditions(av_latent(3), Fraction(24), [Frozen("audio")])
    network, denoise = denoiser(state=state, video=Guidance(3, skip_steps=1))
    for denoise.step in range(3):
        denoise(tokens(3), 0.5)
    assert len(network.sweeps) == 2


def test_a_frozen_stream_may_be_shown_noisy():
    state = apply_conditions(av_latent(3), Fraction(24), [Frozen("audio", noise=0.25)])
    network, denoise = denoiser(state=state, noise=tokens(4))
    x0 = denoise(state.map(lambda stream: stream.clean), 0.5)
    audio = network.sweeps[0][0].audio
    assert audio.sigma.tolist() == [0.25]
    torch.testing.assert_close(audio.tokens, 0.75 * state.audio.clean + 0.25 * tokens(4).audio)
    assert torch.equal(x0.audio, state.audio.clean)


def test_noise_in_the_official_order():
    """The number that the spec gives for seed 10, and one generator for both streams, video first."""
    latent = AVLatent(torch.zeros(1, 18, 128), torch.zeros(1, 5, 128)).to(torch.bfloat16)
    noise = latents.Noise(10)(latent)
    assert noise.video[0, 0, :3].tolist() == pytest.approx([-0.8164, -0.5547, -0.8281], abs=1e-4)
    assert noise.video[0, 6, :3].tolist() == pytest.approx([1.34375, 1.7734, 0.38281], abs=1e-4)
    generator = torch.Generator().manual_seed(10)
    torch.randn(1, 18, 128, generator=generator)
    assert torch.equal(noise.audio, torch.randn(1, 5, 128, generator=generator).to(torch.bfloat16))


def test_noise_in_the_order_of_comfyui():
    generator, latent = torch.Generator().manual_seed(10), av_latent(0)
    drawn = latent.map(lambda x: torch.randn(x.shape, generator=generator))
    noise = latents.Noise(10, "comfyui")(tokens(0))
    assert torch.equal(noise.video, geometry.video_tokens(drawn.video))
    assert torch.equal(noise.audio, geometry.audio_tokens(drawn.audio))


def test_recipes_of_the_spec():
    dev = recipe_for("2.0", layers=48)
    assert len(dev.sigmas()) == 41 and dev.video == Guidance(3, 3, 1, (29,), 0.7) and dev.audio.text_scale == 7
    assert recipe_for("2.3", layers=48).video.stg_blocks == (28,) and recipe_for("2.3", 48).steps == 30
    distilled = recipe_for("2.3", 48, distilled=True)
    assert distilled.sigmas() == SCHEDULES["distilled"]() and distilled.video == Guidance()
    assert "perturbed" not in recipe_for("2.3", layers=2).video.passes


def test_empty_latents_have_the_size_of_the_clip():
    latent = latents.empty(ClipShape(96, 64, 33, Fraction(24)), batch=2)
    assert latent.video.shape == (2, 128, 5, 2, 3) and latent.audio.shape == (2, 8, 34, 16)


def test_passes_of_both_streams_add_up():
    video = GuidanceBySigma(((1.0, Guidance(stg_scale=1, stg_blocks=(3,))), (0.5, Guidance())))
    assert passes_needed([video, Guidance(7)]) == ["cond", "negative", "perturbed"]
    assert passes_needed([Guidance(3, 2, 1, (4, 2))], both_streams=False) == ["cond", "negative", "perturbed"]
    assert passes_needed([Guidance()], always_negative=True) == ["cond", "negative"]


def test_each_pass_says_what_it_leaves_out():
    video, audio = Guidance(stg_scale=1, stg_blocks=(3, 5)), Guidance(stg_blocks=(7,))
    assert PASSES["cond"].leaves_out(video, audio) == PASSES["negative"].leaves_out(video, audio) == Perturbation()
    assert PASSES["perturbed"].leaves_out(video, audio) == Perturbation(frozenset({3, 5}))
    assert PASSES["isolated"].leaves_out(video, audio) == Perturbation(audio_to_video=False, video_to_audio=False)


def test_the_guidance_of_both_streams():
    both = StreamGuidance(Guidance(3, 2, 1, (4, 2)), GuidanceBySigma(((1.0, Guidance(nag_scale=5)),)))
    euler, cfg_pp = SAMPLERS["euler"], SAMPLERS["euler_cfg_pp"]
    assert both.first_stg_block == 2
    only_audio = both.for_streams(["audio"])
    assert only_audio == StreamGuidance(Guidance(), both.audio)
    assert only_audio.needs_negative(euler) and not StreamGuidance().needs_negative(euler)
    assert StreamGuidance().needs_negative(cfg_pp) and both.for_streams([]) == StreamGuidance()


def test_a_new_term_needs_only_its_class():
    """Neither the denoiser nor ``passes_needed`` names the terms."""

    class Away(Term):
        def direction(self, cond, other):
            return cond - other + 1

    class More(Guidance):
        @property
        def terms(self):
            return (*super().terms, Away("isolated", 1.0))

    network, denoise = denoiser(video=More(3))
    _, plain = denoiser(video=Guidance(3))
    more, less = (each(tokens(0), 0.5).video for each in (denoise, plain))
    assert denoise.passes(tokens(0), [More(3)]) == ["cond", "negative", "isolated"]
    assert [len(sweep) for sweep in network.sweeps] == [3]
    torch.testing.assert_close(more, less + 1)


@pytest.mark.parametrize("speed", [1.0, 0.2, 2.0])
def test_things_move_slower_where_time_passes_slower_for_the_picture_alone(speed):
    """As in diffusers: the rate by which its positions count is frame rate / motion speed; the sound has its time."""
    seen = []

    def network(video, audio, *_):
        seen.append((video.positions, audio.positions))
        return video.tokens, audio.tokens

    network.sweep = lambda passes, _: [network(each.video, each.audio) for each in passes]
    contexts = Contexts(torch.zeros(1, 2, 4), torch.zeros(1, 2, 4))
    sample(network, av_latent(0), fps=Fraction(24), sigmas=[1, 0], contexts=contexts, motion_speed=speed)
    video, audio = seen[0]
    assert torch.equal(video, geometry.video_positions((2, 1, 2), Fraction(24) / Fraction(str(speed))))
    assert torch.equal(audio, geometry.audio_positions(3))
