"""Samplers by themselves, on toy models with known answers and beside the official steppers and diffusers."""

import math
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest
import torch
from agreement import compare
from drawn import same
from torch import Tensor
from torch.testing import assert_close

from ltx2_core.errors import SettingError
from ltx2_core.latents import AVLatent, Noise
from ltx2_core.pipeline.sample import Sampling
from ltx2_core.sampling import SAMPLERS, euler, ltx2, samplers
from ltx2_core.settings import SamplingSettings

every = pytest.mark.parametrize("name", SAMPLERS)
one_of = {flag: [name for name, row in SAMPLERS.items() if getattr(row, flag)] for flag in ("stochastic", "multistep")}
deterministic = pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in one_of["stochastic"]])
stochastic = pytest.mark.parametrize("name", one_of["stochastic"])
multistep = pytest.mark.parametrize("name", one_of["multistep"])

SIGMAS = [1.0, 0.9, 0.6, 0.2, 0.0]


def av_latent(seed: int) -> AVLatent:
    generator = torch.Generator().manual_seed(seed)
    return AVLatent(torch.randn(1, 128, 2, 2, 2, generator=generator), torch.randn(1, 8, 3, 16, generator=generator))


def one(*values: float, dtype=torch.float32) -> AVLatent:
    return AVLatent(torch.tensor([values], dtype=dtype), None)


@dataclass
class Toy:
    """A model with what samplers may ask of it; the negative pass sees half of everything."""

    x0: object = lambda latent, sigma: latent.map(lambda x: torch.sin(x + sigma) / 2)
    mask: AVLatent | None = None
    clean: AVLatent | None = None
    calls: list[float] = field(default_factory=list)

    def __call__(self, latent: AVLatent, sigma: float) -> AVLatent:
        self.calls.append(sigma)
        return self.hold(self.x0(latent, sigma))

    def both(self, latent: AVLatent, sigma: float) -> tuple[AVLatent, AVLatent]:
        x0 = self(latent, sigma)
        return x0, self.hold(x0 * 0.5)

    def hold(self, latent: AVLatent) -> AVLatent:
        if self.mask is None:
            return latent
        return latent.map(lambda x, m, clean: x * m + clean.to(x) * (1 - m), self.mask, self.clean)


def run(name: str, denoise, latent: AVLatent, sigmas=SIGMAS, seed: int = 5, last=None) -> list[samplers.Step]:
    return list(SAMPLERS[name](denoise, latent, sigmas, Noise(seed), last))


# What holds for every sampler


@every
def test_a_perfect_denoiser_is_reached_exactly(name):
    target = av_latent(0)
    model = Toy(lambda latent, sigma: target)
    model.both = lambda latent, sigma: (model(latent, sigma), av_latent(2))
    last = run(name, model, av_latent(1))[-1].latent
    torch.testing.assert_close(last.video, target.video)
    torch.testing.assert_close(last.audio, target.audio)


@every
def test_a_latent_is_as_noisy_as_its_sigma_says(name):
    target, noise = (Noise(seed)(AVLatent(torch.empty(1, 128, 4, 8, 8), None)) for seed in (1, 2))
    model = Toy(lambda latent, sigma: target)
    model.both = lambda latent, sigma: (model(latent, sigma), target)
    for step in run(name, model, target * 0.2 + noise * 0.8, [0.8, 0.6, 0.5, 0.4]):
        left = step.latent.video - target.video * (1 - step.sigma)
        assert left.std().item() == pytest.approx(step.sigma, rel=0.02)


@pytest.mark.parametrize("kind", ["mps", "xpu", "privateuseone", "cpu"])
def test_devices_without_float64_are_asked_for_none(kind):
    """Those of Apple, of Intel and of DirectML."""
    met = set()

    class Elsewhere(Tensor):
        device = property(lambda self: torch.device(kind))

        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            made = super().__torch_function__(function, types, args, kwargs)
            met.update([made.dtype] if isinstance(made, Tensor) else [])
            return made

    run("res_2s", Toy(), av_latent(0).map(lambda x: x.as_subclass(Elsewhere)))
    assert met == ({torch.float32, torch.float64} if kind == "cpu" else {torch.float32})


@every
def test_an_absent_stream_stays_absent(name):
    for lonely in (AVLatent(av_latent(0).video, None), AVLatent(None, av_latent(0).audio)):
        for step in run(name, Toy(), lonely):
            assert step.latent.streams().keys() == lonely.streams().keys() == step.x0.streams().keys()


@every
def test_a_step_says_where_it_was_and_where_it_is(name):
    model, start = Toy(), av_latent(1)
    steps = run(name, model, start)
    assert [step.sigma for step in steps] == SIGMAS[1:] and [step.start_sigma for step in steps] == SIGMAS[:-1]
    assert steps[0].start is start and all(a.latent is b.start for a, b in pairwise(steps))
    assert all(same(step.x0, Toy()(step.start, step.start_sigma)) for step in steps)


@every
def test_calls_of_the_model(name):
    model, expected = Toy(), {"heun": 7, "res_2s": 9}.get(name, 4)
    run(name, model, av_latent(1))
    assert len(model.calls) == expected and abs(expected - 4 * SAMPLERS[name].calls) <= 1


@every
def test_kept_content_stays_at_every_step(name):
    clean, mask = av_latent(3), AVLatent(torch.ones(1, 1, 2, 2, 2), torch.ones(1, 1, 3, 1))
    mask.video[:, :, 0], mask.audio[:, :, 1] = 0, 0
    model = Toy(mask=mask, clean=clean)
    steps = run(name, model, model.hold(av_latent(1)))
    for step in steps:
        torch.testing.assert_close(step.latent.video[:, :, 0], clean.video[:, :, 0])
        torch.testing.assert_close(step.latent.audio[:, :, 1], clean.audio[:, :, 1])
    assert not torch.equal(steps[-1].latent.video[:, :, 1], clean.video[:, :, 1])


@every
def test_the_dtype_stays(name):
    for step in run(name, Toy(), av_latent(1)):
        assert step.latent.video.dtype == torch.float32 == step.x0.audio.dtype


# In parts


@deterministic
@pytest.mark.parametrize("cut", [1, 2, 3])
def test_two_parts_are_the_whole(name, cut):
    whole = run(name, Toy(), av_latent(1))
    first = run(name, Toy(), av_latent(1), SIGMAS[: cut + 1])
    second = run(name, Toy(), first[-1].latent, SIGMAS[cut:], last=first[-1])
    for step, expected in zip(first + second, whole, strict=True):
        assert same(step.latent, expected.latent) and same(step.x0, expected.x0)


@multistep
def test_without_its_last_step_a_multistep_sampler_begins_anew(name):
    whole, rest = run(name, Toy(), av_latent(1)), SIGMAS[2:]
    here = whole[1].latent
    alone = run(name, Toy(), here, rest)[0].latent
    assert not torch.allclose(alone.video, whole[2].latent.video)
    torch.testing.assert_close(alone.video, next(euler(Toy(), here, rest)).latent.video)
    for start, levels in ((here * 1.01, rest), (here, [0.5, 0.2])):  # what led to another latent, or level
        results = [run(name, Toy(), start, levels, last=last)[0].latent for last in (None, whole[1])]
        assert same(*results)


# Noise


@stochastic
def test_a_seed_is_a_clip(name):
    results = [run(name, Toy(), av_latent(1), seed=seed)[-1].latent for seed in (5, 5, 6)]
    assert same(results[0], results[1]) and not same(results[0], results[2])


@stochastic
def test_a_sampler_that_draws_needs_a_source(name):
    with pytest.raises(ValueError, match=r"draws fresh noise at every step; give it a source, such as Noise\(seed\)"):
        list(SAMPLERS[name](Toy(), av_latent(1), SIGMAS))


@pytest.mark.parametrize("name, draws", [("euler_ancestral", [3]), ("euler_ancestral_cfg_pp", [3]), ("res_2s", [4, 4])])
def test_what_is_drawn(name, draws, monkeypatch):
    counts = {}
    draw = Noise.__call__
    monkeypatch.setattr(
        Noise,
        "__call__",
        lambda self, latent: counts.update({self.seed: counts.get(self.seed, 0) + 1}) or draw(self, latent),
    )
    run(name, Toy(), av_latent(1), seed=7)
    assert counts == dict(zip((7, 10_007), draws))


def test_noise_goes_on_where_it_stopped():
    latent = AVLatent(torch.zeros(1, 4, 128), torch.zeros(1, 3, 128))
    noise, generator = Noise(-1), torch.Generator().manual_seed(-1)
    assert same(noise(latent), Noise(-1)(latent))
    torch.randn(1, 4, 128, generator=generator), torch.randn(1, 3, 128, generator=generator)
    assert torch.equal(noise(latent).video, torch.randn(1, 4, 128, generator=generator))
    assert same(noise.fork(11)(latent), Noise(10)(latent))


def test_fine_noise_for_fine_latents():
    noise = Noise(3)(AVLatent(torch.zeros(1, 128, 1, 1, 1, dtype=torch.float64), None)).video.flatten()
    drawn = torch.randn(128, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert torch.equal(noise, drawn)


def test_without_eta_the_ancestral_samplers_are_euler():
    expected = list(euler(Toy(), av_latent(1), SIGMAS))[-1].latent
    model = Toy()
    model.both = lambda latent, sigma: (model(latent, sigma),) * 2
    for result in (
        samplers.euler_ancestral(model, av_latent(1), SIGMAS, eta=0.0),
        samplers.euler_cfg_pp(model, av_latent(1), SIGMAS),
    ):
        torch.testing.assert_close(list(result)[-1].latent.video, expected.video, rtol=1e-5, atol=1e-6)


# Numbers of the spec


def test_an_euler_step_of_the_spec():
    (step,) = euler(lambda latent, sigma: one(0.1, 0.2), one(0.5, -1), [0.9875, 0.725])
    assert step.latent.video[0].tolist() == pytest.approx([0.393671, -0.681013], abs=1e-6)


def test_an_ancestral_step_of_the_spec():
    x, x0, noise = one(0.5, -1.0), one(0.1, 0.2), one(0.3, -0.7)
    (step,) = samplers.euler_ancestral(Toy(lambda latent, sigma: x0), x, [0.9875, 0.725], lambda latent: noise)
    down, rescale, fresh = 0.532278, 0.587957, 0.653975
    expected = (x * (down / 0.9875) + x0 * (1 - down / 0.9875)) * rescale + noise * fresh
    torch.testing.assert_close(step.latent.video, expected.video, rtol=0, atol=2e-6)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("sigma, sigma_next", [(0.9875, 0.725), (0.4, 0.1), (1.0, 0.9)])
def test_a_cfg_pp_step_of_the_spec(eta, sigma, sigma_next):
    x, x0, noise = one(0.5, -1.0), one(0.1, 0.2), one(0.3, -0.7)
    (step,) = samplers.euler_cfg_pp(Toy(lambda latent, sigma: x0), x, [sigma, sigma_next], lambda latent: noise, eta)
    alpha, alpha_next = max(1 - sigma, torch.finfo(torch.float32).eps), 1 - sigma_next
    s, t = sigma / alpha, sigma_next / alpha_next
    up = min(eta * math.sqrt(t**2 * (s**2 - t**2) / s**2), t)
    direction = (x - x0 * (alpha * 0.5)) * (1 / sigma)
    expected = (x0 + direction * math.sqrt(t**2 - up**2) + noise * up) * alpha_next
    torch.testing.assert_close(step.latent.video, expected.video, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    "name, expected",
    [
        ("euler", [0.05704, -0.11408, 0.22816, 0.011408]),
        ("gradient_estimation", [0.05046, -0.10092, 0.20184, 0.010092]),
        ("res_2s", [-3.7257e-4, 7.4513e-4, -1.49026e-3, -7.4513e-5]),
    ],
)
def test_toys_of_the_spec(name, expected, monkeypatch):
    monkeypatch.setattr(samplers, "_standardised", torch.zeros_like)  # the spec's res_2s has silent noise
    start = AVLatent(None, torch.tensor([0.5, -1, 2, 0.1]).reshape(1, 1, 1, 4))
    monkeypatch.setattr(Noise, "__call__", lambda self, latent: latent)
    model = Toy(lambda latent, sigma: latent * 0.3)
    assert run(name, model, start)[-1].latent.audio.flatten().tolist() == pytest.approx(expected, rel=2e-5)


# Order


def bent(latent: AVLatent, sigma: float) -> AVLatent:
    """A model whose trajectory is 2 cos(2 sigma), whatever leads a latent off it."""
    path, slope = 2 * math.cos(2 * sigma), -4 * math.sin(2 * sigma)
    return latent.map(lambda x: path - sigma * slope + 0.7 * torch.sin(x - path))


@pytest.mark.parametrize(
    "solve, order",
    [
        (SAMPLERS["euler"], 1),
        (lambda *run: samplers.euler_ancestral(*run, eta=0), 1),
        (SAMPLERS["heun"], 2),
        (SAMPLERS["dpmpp_2m"], 2),
        (lambda *run: samplers.res_2s(*run, eta=0, middle_eta=0), 2),
    ],
    ids=["euler", "euler_ancestral", "heun", "dpmpp_2m", "res_2s"],
)
def test_order(solve, order):
    """The slope of the error over the step size, from 0.9 to 0.2 (log-SNR, the time of dpmpp_2m, is infinite at 1)."""

    def error(steps: int) -> float:
        sigmas = torch.linspace(0.9, 0.2, steps + 1, dtype=torch.float64).tolist()
        *_, last = solve(Toy(bent), one(2 * math.cos(1.8), dtype=torch.float64), sigmas)
        return abs(last.latent.video.item() - 2 * math.cos(0.4))

    slope = math.log2(error(64) / error(128))
    assert slope == pytest.approx(order, abs=0.15)


# Beside the official steppers and diffusers


def waves(x: Tensor, sigma) -> Tensor:
    return torch.sin(x * (1 + float(sigma))) / 2


def waving() -> Toy:
    return Toy(lambda latent, sigma: latent.map(lambda x: waves(x, sigma)))


def test_euler_agrees():
    steps = pytest.importorskip("ltx_core.components.diffusion_steps")
    sigmas, x = torch.tensor(ltx2(8)), av_latent(1).video
    for i, sigma in enumerate(sigmas[:-1]):
        x = steps.EulerDiffusionStep().step(x, waves(x, sigma), sigmas, i)
    compare("euler, 8 steps", run("euler", waving(), av_latent(1), ltx2(8))[-1].latent.video, x)


def test_gradient_estimation_agrees():
    """The loop of the spec, which is not on PyPI, around the official step."""
    steps = pytest.importorskip("ltx_core.components.diffusion_steps")
    from ltx_core.utils import to_velocity

    sigmas, x, before = torch.tensor(ltx2(8)), av_latent(1).video, None
    for i, sigma in enumerate(sigmas[:-1]):
        x0 = waves(x, sigma)
        if sigmas[i + 1] == 0:
            x = x0
            break
        velocity = to_velocity(x, sigma, x0)
        if before is not None:
            x0 = x - sigma * (before + 2 * (velocity - before))
        x, before = steps.EulerDiffusionStep().step(x, x0, sigmas, i), velocity
    ours = run("gradient_estimation", waving(), av_latent(1), ltx2(8))[-1]
    compare("gradient estimation, 8 steps", ours.latent.video, x)


@pytest.mark.parametrize("eta", [0.5, 0, 1])
@pytest.mark.parametrize("sigmas", [SIGMAS, ltx2(12), [0.8, 0.7, 0.5]], ids=["toy", "ltx2", "part"])
def test_res_2s_agrees(sigmas, eta):
    """The loop of 1.2.0 with both streams, its hundred refinements and its noise, and the official coefficients.

    There, eta is that of the end of a step; its middle always has 0.5. What is kept, in part, too, is put back after
    either.
    """
    steps = pytest.importorskip("ltx_core.components.diffusion_steps")
    from ltx2_core import geometry

    def phi(j, z):
        return (math.exp(z) - sum(z**k / math.factorial(k) for k in range(j))) / z**j

    def noise(x, generator):
        n = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        n = (n - n.mean()) / n.std()
        return (n - n.mean((-2, -1), keepdim=True)) / n.std((-2, -1), keepdim=True)

    def sde(sample, after, sigma, sigma_next, generator, eta=0.5):
        level = torch.tensor(sigma_next, dtype=torch.float64)
        share, down, up = steps.Res2sDiffusionStep.get_sde_coeff(level, sigma_up=level * eta)

        def step(a, b):
            direction, fresh = (a - b) / (sigma - sigma_next), noise(a, generator)
            return share * (a - sigma * direction + down * direction) + up * fresh if eta else b

        return hold([step(a, b) for a, b in zip(sample, after)])

    def hold(state):
        return [x * m + c.to(x) * (1 - m) for x, m, c in zip(state, masks, clean)]

    state = [geometry.video_tokens(av_latent(1).video), geometry.audio_tokens(av_latent(1).audio)]
    clean, masks = [x.flip(1) for x in state], [torch.ones_like(x[..., :1]) for x in state]
    masks[0][:, :2], masks[1][:, 1] = 0.3, 0
    start = AVLatent(*state)
    step_noise, half_noise = (torch.Generator().manual_seed(seed) for seed in (-1, 9999))
    levels = [*sigmas[:-1], 0.0011, 0.0] if sigmas[-1] == 0 else sigmas
    for sigma, end in pairwise(levels[: len(sigmas)]):
        h, middle = math.log(sigma / end), math.sqrt(sigma * end)
        a21, b2 = phi(1, -h / 2) / 2, phi(2, -h) * 2
        b1 = phi(1, -h) - b2
        anchor, first = [x.double() for x in state], [x.double() for x in hold([waves(x, sigma) for x in state])]
        half = [x + h * a21 * (d - x) for x, d in zip(anchor, first)]
        half = sde(anchor, half, sigma, middle, half_noise)
        for _ in range(100 if h < 0.5 and sigma > 0.03 else 0):
            anchor = [m - h * a21 * (d - x) for m, d, x in zip(half, first, anchor)]
        second = [x.double() for x in hold([waves(x.float(), middle) for x in half])]
        whole = [x + h * (b1 * (d1 - x) + b2 * (d2 - x)) for x, d1, d2 in zip(anchor, first, second)]
        state = [x.float() for x in sde(anchor, whole, sigma, end, step_noise, eta)]
    if levels[-1] == 0:
        state = hold([waves(x, 0.0011) for x in state])
    model = replace(waving(), mask=AVLatent(*masks), clean=AVLatent(*clean))
    *_, ours = SAMPLERS["res_2s"].with_eta(eta)(model, start, sigmas, Noise(-1))
    compare("res_2s with noise", ours.latent.video, state[0])
    compare("res_2s with noise", ours.latent.audio, state[1])


@pytest.mark.parametrize(
    ("sampler", "plain"), [("euler_ancestral", "euler"), ("euler_ancestral_cfg_pp", "euler_cfg_pp")]
)
def test_without_fresh_noise_a_stochastic_sampler_is_its_plain_one(sampler, plain):
    def ends(row):
        *_, last = row(waving(), av_latent(1), ltx2(8), Noise(3))
        return last.latent.video

    assert_close(ends(SAMPLERS[sampler].with_eta(0)), ends(SAMPLERS[plain]))
    assert torch.equal(ends(SAMPLERS[sampler].with_eta(1)), ends(SAMPLERS[sampler]))
    assert not torch.equal(ends(SAMPLERS[sampler].with_eta(0.5)), ends(SAMPLERS[sampler]))
    assert torch.equal(ends(SAMPLERS["res_2s"].with_eta(0.5)), ends(SAMPLERS["res_2s"]))
    assert SAMPLERS[plain].with_eta(0.5) is SAMPLERS[plain]
    settings = SamplingSettings(sampler=sampler)
    assert Sampling((1.0, 0.0), settings=settings).sampler is SAMPLERS[sampler]
    assert Sampling((1.0, 0.0), settings=replace(settings, eta=0.5)).sampler.solve.keywords == {"eta": 0.5}


@pytest.mark.parametrize("sigmas", [(math.nan, 0.0), (1.0,), (0.5, 0.7, 0.0), (2.0, 0.0)])
def test_levels_that_no_sampler_can_follow_are_neither_planned_nor_sampled(sigmas):
    with pytest.raises(SettingError, match=r"[Ss]igma"):
        Sampling(sigmas)


def from_diffusers(scheduler, sigmas: list[float], order: int = 1) -> Tensor:
    """The same model with a scheduler of diffusers on our levels."""
    x = av_latent(1).video
    scheduler.set_timesteps(len(sigmas) - 1)
    scheduler.sigmas = torch.tensor(sigmas)
    if order == 2:
        scheduler.sigmas = torch.cat(
            (scheduler.sigmas[:1], scheduler.sigmas[1:-1].repeat_interleave(2), torch.zeros(1))
        )
    scheduler.timesteps = scheduler.sigmas[:-1] * 1000
    scheduler.set_begin_index(0)
    for t, sigma in zip(scheduler.timesteps, scheduler.sigmas):
        x = scheduler.step((x - waves(x, sigma)) / sigma, t, x, generator=GENERATOR).prev_sample
    return x


GENERATOR = torch.Generator()


def test_dpmpp_2m_agrees_with_diffusers():
    schedulers = pytest.importorskip("diffusers.schedulers")
    scheduler = schedulers.DPMSolverMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", final_sigmas_type="zero"
    )
    ours = run("dpmpp_2m", waving(), av_latent(1), ltx2(9))
    compare("dpmpp_2m, 9 steps (diffusers)", ours[-1].latent.video, from_diffusers(scheduler, ltx2(9)))


def test_heun_agrees_with_diffusers():
    schedulers = pytest.importorskip("diffusers.schedulers")
    theirs = from_diffusers(schedulers.FlowMatchHeunDiscreteScheduler(), ltx2(9), order=2)
    ours = run("heun", waving(), av_latent(1), ltx2(9))
    compare("heun, 9 steps (diffusers)", ours[-1].latent.video, theirs)


@pytest.mark.parametrize("eta", [1.0, 0.5])
def test_euler_ancestral_agrees_with_diffusers(eta):
    module = pytest.importorskip("diffusers.schedulers.scheduling_ltx_euler_ancestral_rf")
    scheduler = module.LTXEulerAncestralRFScheduler(eta=eta)
    GENERATOR.manual_seed(4)
    theirs = from_diffusers(scheduler, ltx2(9))
    start = AVLatent(av_latent(1).video, None)
    *_, ours = samplers.euler_ancestral(waving(), start, ltx2(9), Noise(4), eta)
    compare("euler_ancestral, 9 steps (diffusers)", ours.latent.video, theirs)
