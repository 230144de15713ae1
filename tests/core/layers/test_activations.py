"""How much a forward holds at most, and the paths that hold less beside the plain ones."""

import pytest
import torch
import torch.nn.functional as F
from agreement import relative_error
from official import PERTURBATIONS, audio_positions, tiny_section, video_positions
from peak import Peak

from ltx2_core.layers import Attention, FeedForward, Rope, Visibility, norms, rms_norm
from ltx2_core.layers.kernels import SUM_NORM
from ltx2_core.layers.norms import RMSNorm
from ltx2_core.memory import Store
from ltx2_core.transformer import UNPERTURBED, Pass, Perturbation, StreamInput, Transformer, TransformerConfig
from ltx2_core.transformer.modulation import Modulation, gated_sum, modulate

WIDTH, TOKENS, FIRST_FRAME = 256, 1024, 64
HIDDEN = TOKENS * WIDTH * 4  # bytes of the hidden states of the video: the unit here


def network(version: str) -> Transformer:
    """Three layers at random, in which text and audio are short beside the video."""
    section = tiny_section(
        version, num_layers=3, attention_head_dim=WIDTH // 2, audio_attention_head_dim=WIDTH // 4,
        cross_attention_dim=WIDTH, audio_cross_attention_dim=WIDTH // 2, caption_channels=WIDTH,
    )  # fmt: skip
    net = Transformer(TransformerConfig.from_json(section)).requires_grad_(False)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return net


def streams(net: Transformer, given_first_frame: bool = False) -> tuple[StreamInput, StreamInput]:
    sigma, timesteps = torch.tensor([0.7]), None
    if given_first_frame:
        timesteps = sigma.repeat(1, TOKENS)
        timesteps[:, :FIRST_FRAME] = 0
    widths = [net.config.caption_width or stream.context_width for stream in (net.config.video, net.config.audio)]
    contexts = [torch.randn(1, 16, width) for width in widths]
    positions = video_positions(TOKENS // FIRST_FRAME, 8, FIRST_FRAME // 8)
    return (
        StreamInput(torch.randn(1, TOKENS, 8), sigma, positions, contexts[0], timesteps),
        StreamInput(torch.randn(1, 5, 8), sigma, audio_positions(), contexts[1]),
    )


def peak_of(net: Transformer, passes: list[Pass]) -> float:
    with Peak() as peak:
        net.sweep(passes)
    return peak.bytes / HIDDEN


@pytest.mark.slow
def test_the_counter_sees_what_is_alive():
    given = torch.zeros(1000)
    with Peak() as peak:
        one = given + 1
        view = one.view(10, 100).mul_(2)
        del one
        two = given.view(10, 100) + 1
        del view, two
        given.add_(1)
    assert (peak.bytes, peak.live) == (8000, 0)


@pytest.mark.parametrize("version", ["2.0", "2.3"])
@pytest.mark.parametrize("given_first_frame", [False, True])
@pytest.mark.slow
def test_peak_of_a_forward(version, given_first_frame):
    net = network(version)
    assert peak_of(net, [Pass(*streams(net, given_first_frame), UNPERTURBED)]) <= 9
    for block in net.blocks:
        block.video.feed_forward.chunk = TOKENS // 2  # which real clips come to by their length
    assert peak_of(net, [Pass(*streams(net, given_first_frame), UNPERTURBED)]) <= 7.25


@pytest.mark.slow
def test_peak_of_four_passes():
    """Every further pass adds its own hidden states and nothing else."""
    net = network("2.3")
    passes = four_passes(net)
    assert peak_of(net, passes) <= peak_of(net, [Pass(*streams(net, True), UNPERTURBED)]) + 3.25


@pytest.mark.parametrize("version", ["2.0", "2.3"])
@pytest.mark.slow
def test_a_sum_that_waits_for_its_norm_is_the_same(monkeypatch, version):
    """With the plain way as its kernel, where passes share states, diverge, have no other stream, and are trained."""
    monkeypatch.setitem(globals(), "TOKENS", 2 * FIRST_FRAME)  # more would show no more
    net, seen = network(version), []

    def kernel(x, *others):
        seen.append(x.shape)
        return SUM_NORM.plain(x, *others)

    passes = four_passes(net)
    cases = passes, passes[:1], passes[3:], [Pass(passes[0].video, None, UNPERTURBED)]
    expected = [net.sweep(each) for each in cases]
    monkeypatch.setattr(SUM_NORM, "_chosen", {(torch.device("cpu"), torch.float32, False): ("fake", kernel)})
    for case, before, waited in zip(cases, expected, (None, 3 * 2, 2 * 2, 2)):  # in each of three layers
        seen.clear()
        for found, one in zip(net.sweep(case), before):
            for stream, plain in zip(found, one):
                assert plain is None or torch.equal(stream, plain)
        assert waited is None or len(seen) == 3 * waited
    net.requires_grad_(True)
    seen.clear()
    net.sweep(passes[:1])[0][0].sum().backward()
    assert not seen and net.blocks[0].video.self_attn.q.weight.grad is not None


def four_passes(net: Transformer) -> list[Pass]:
    video, audio = streams(net, given_first_frame=True)
    other = [StreamInput(s.tokens, s.sigma, s.positions, s.context + 1, s.timesteps) for s in (video, audio)]
    perturbed = Perturbation(frozenset({1}), frozenset({1}))
    return [
        Pass(video, audio, UNPERTURBED), Pass(*other, UNPERTURBED),
        Pass(video, audio, perturbed), Pass(video, audio, PERTURBATIONS["isolated"]),
    ]  # fmt: skip


@torch.no_grad()
def test_groups_of_tokens_need_no_matrix():
    attention, x = Attention(16, heads=1, head_dim=16), torch.randn(1, 8192, 16)
    groups = Visibility(torch.arange(8192) // 4096, torch.full((8192,), 0.5), 1)
    query, key_value = attention.project_query(x), attention.project_key_value(x)
    with Peak() as peak:
        attention.attend(query, key_value, groups)
    assert peak.bytes < 0.25 * 8192 * 8192 * 4


@pytest.mark.slow
def test_rotations_live_as_long_as_their_positions():
    net = network("2.3")
    video, audio = streams(net)
    both, alone, others = (
        Pass(video, audio, UNPERTURBED), Pass(video, None, UNPERTURBED), Pass(streams(net)[0], None, UNPERTURBED),
    )  # fmt: skip
    first, second, third = (state for state, _ in net.embed([both, alone, others]))
    assert first.rotation is second.rotation and first.cross_rotation is not None
    assert third.rotation is not first.rotation
    del first, second, third
    with Peak() as peak:
        net.sweep([Pass(*streams(net), UNPERTURBED)])
    assert peak.live == 0


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotation_in_place_is_complex_multiplication(interleaved):
    rotation = Rope(2, 8, (20.0,), interleaved=interleaved)(torch.rand(3, 1, 5))
    x = torch.randn(3, 2, 5, 8)
    pairs = x.unflatten(-1, (-1, 2)) if interleaved else x.unflatten(-1, (2, -1)).mT
    turned = torch.view_as_real(torch.view_as_complex(pairs.contiguous()) * torch.complex(rotation.cos, rotation.sin))
    expected = turned.flatten(-2) if interleaved else turned.mT.flatten(-2)
    torch.testing.assert_close(rotation(x.clone()), expected)


LEVELS = {
    "one": torch.tensor([[1], [0]]),
    "runs": torch.tensor([[0] * 10 + [1] * 20 + [2] * 10, [0] * 15 + [1] * 25]),
    "all over": torch.arange(80).reshape(2, 40) % 3,
}


@pytest.mark.parametrize("level", LEVELS.values(), ids=LEVELS)
def test_modulation_by_runs_is_that_of_each_token(level):
    table, rows, x, change = (torch.randn(*shape) for shape in ((3, 6), (3, 3, 6), (2, 40, 6), (2, 40, 6)))
    shift, scale, gate = (table + rows)[level].unbind(-2)
    by_runs = Modulation(rows, level)(table, 0, 1, 2)
    torch.testing.assert_close(modulate(x.clone(), *by_runs[:2]), x * (1 + scale) + shift)
    torch.testing.assert_close(gated_sum(x, by_runs[2], change.clone()), x + gate * change)
    pieces = [(0, 12), (12, 33), (33, 40)]
    sums = [gated_sum(x[:, a:b], by_runs[2].within(a, b), change[:, a:b].clone()) for a, b in pieces]
    torch.testing.assert_close(torch.cat(sums, dim=1), x + gate * change)
    trained = Modulation(rows.requires_grad_(), level)(table, 0, 1, 2)  # alone, of tokens that need no gradient
    (modulate(x.clone(), *trained[:2]) + gated_sum(x, trained[2], change.clone())).sum().backward()
    assert rows.grad is not None and rows.grad.abs().sum() > 0


@torch.no_grad()
def test_feed_forward_in_chunks_is_that_of_all_tokens():
    network, x = FeedForward(32), torch.randn(2, 50, 32)
    whole = network.transform(x)
    torch.testing.assert_close(whole, network.down(F.gelu(network.up(x), approximate="tanh")))
    for network.chunk in (99, 33, 7):
        assert torch.equal(network.transform(x), whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_rms_norm_is_that_of_torch(dtype):
    x, norm = (3 * torch.randn(2, 5, 64)).to(dtype), RMSNorm(64, eps=1e-3).to(dtype)
    norm.weight.normal_()
    tolerance = 1e-6 if dtype == torch.float32 else 1e-2
    assert relative_error(rms_norm(x, 1e-3), F.rms_norm(x, (64,), eps=1e-3)) < tolerance
    assert relative_error(norm(x), F.rms_norm(x, (64,), norm.weight, 1e-3)) < tolerance


def test_norms_add_a_millionth_where_nothing_else_is_said():
    """As connectors and the diffusion decoder need it; in inputs of usual size it hardly shows."""
    assert rms_norm(torch.full((2, 4), 1e-3)).tolist() == [[pytest.approx(0.5**0.5)] * 4] * 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm_in_pieces_has_the_same_bits(monkeypatch, dtype):
    """Of what lies in one piece or not, with a last piece that is smaller, and of rows larger than a piece."""
    x = torch.randn(2, 37, 96, generator=torch.Generator().manual_seed(0)).to(dtype)
    with torch.inference_mode():
        whole = [rms_norm(each, 1e-6, torch.full((96,), 0.5, dtype=dtype)) for each in (x, x[:, ::2])]
        for numbers in (5 * 96, 10):
            monkeypatch.setattr(norms, "AT_ONCE", numbers)
            for each, expected in zip((x, x[:, ::2]), whole):
                assert torch.equal(rms_norm(each, 1e-6, torch.full((96,), 0.5, dtype=dtype)), expected)
    attention = Attention(8, 2, 4)
    assert RMSNorm(4).eps == attention.q_norm.eps == attention.k_norm.eps == 1e-6


@pytest.mark.parametrize("unit, passes, more", [("block", 1, 1), ("block", 3, 3), ("part", 1, 0), ("part", 3, 2)])
@pytest.mark.slow
def test_streaming_holds_on_to_what_would_be_run_again(unit, passes, more):
    """The hidden states of all passes before the block; of those before a part, one is there in any case."""
    net = network("2.3")
    given = [Pass(*streams(net, True), UNPERTURBED) for _ in range(passes)]
    net.sweep(given)  # rotations are kept with the positions
    plain, store = peak_of(net, given), Store(net, "cpu")
    store.stream_by(unit)
    with store.use():
        assert peak_of(net, given) <= plain + more + 0.1
