"""The transformer against the official one, and against the newest official numbers where the two differ."""

import math
from dataclasses import replace

import golden
import pytest
import torch
import torch.nn.functional as F
from agreement import compare
from formula import waves
from official import (
    PERTURBATIONS,
    audio_positions,
    inputs,
    matrix,
    official,
    official_velocity,
    tiny_section,
    use_rule_of_1_0_0,
    video_positions,
)

from ltx2_core.checkpoint.components import COMPONENTS
from ltx2_core.checkpoint.keys.layouts import official_names
from ltx2_core.checkpoint.keys.transformer import TRANSFORMER
from ltx2_core.errors import CheckpointError
from ltx2_core.layers import Attention, KeyValue, Query, Visibility
from ltx2_core.transformer import UNPERTURBED, Pass, Perturbation, StreamInput, Transformer, TransformerConfig

TOTALS = {"2.0": (3510, 18_876_174_592), "2.3": (4186, 18_988_838_144), "2.5": (4091, 18_987_859_200)}


@pytest.fixture
def rule_of_1_0_0(monkeypatch):
    use_rule_of_1_0_0(monkeypatch)


def check(seam: str, ours, theirs) -> None:
    for stream, a, b in zip(("video", "audio"), ours, theirs):
        assert (a is None) == (b is None)
        if a is not None:
            compare(f"velocity {seam} ({stream})", a, b)


@pytest.mark.parametrize("version", ["2.0", "2.3"])
@torch.no_grad()
def test_velocity(version):
    section = tiny_section(version, norm_eps=0.01)  # so much that every norm shows it
    theirs, ours = official(section)
    video, audio = inputs(section, batch=2)
    check(version, ours(video, audio), official_velocity(theirs, video, audio))


@pytest.mark.parametrize("version", ["2.0", "2.3"])
@torch.no_grad()
def test_velocity_per_token(version, rule_of_1_0_0):
    section = tiny_section(version)
    theirs, ours = official(section)
    video, audio = inputs(section, sigma=(0.725, 0.5), first_frame=0.0)
    check(f"{version} per-token timesteps", ours(video, audio), official_velocity(theirs, video, audio))


@pytest.mark.parametrize("version", ["2.0", "2.3"])
@pytest.mark.parametrize("name", PERTURBATIONS)
@torch.no_grad()
def test_velocity_perturbed(version, name):
    section = tiny_section(version)
    theirs, ours = official(section)
    video, audio = inputs(section)
    plain = ours(video, audio)
    perturbed = ours(video, audio, PERTURBATIONS[name])
    assert any((a - b).abs().max() > 1e-3 for a, b in zip(plain, perturbed))
    check(f"{version} {name}", perturbed, official_velocity(theirs, video, audio, PERTURBATIONS[name]))


@pytest.mark.parametrize("version", ["2.0", "2.3"])
@pytest.mark.parametrize("absent", ["video", "audio"])
@torch.no_grad()
def test_velocity_of_one_stream(version, absent):
    section = tiny_section(version)
    theirs, ours = official(section)
    video, audio = inputs(section)
    pair = (None, audio) if absent == "video" else (video, None)
    check(f"{version} without {absent}", ours(*pair), official_velocity(theirs, *pair))


@torch.no_grad()
def test_masks():
    section = tiny_section("2.3")
    theirs, ours = official(section)
    video, audio = inputs(section)
    visibility = Visibility(torch.tensor([0, 0, 0, 1, 1, 2, 3, 3]), torch.tensor([1, 1, 1, 0.3, 0.3, 1, 0, 0.5]), 3)
    video = replace(video, visibility=visibility)
    check("2.3 masked", ours(video, audio), official_velocity(theirs, video, audio))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_visibility_needs_no_matrix(monkeypatch, dtype):
    """Also with so many heads that they attend one after the other."""
    monkeypatch.setattr("ltx2_core.layers.attention.HEADS_AT_ONCE", 1)
    attention = Attention(16, heads=2, head_dim=8)
    attention.load_state_dict({key: torch.randn(value.shape) for key, value in attention.state_dict().items()})
    visibility = Visibility(torch.tensor([0] * 5 + [1, 2, 2]), torch.tensor([1] * 5 + [0.0, 0.2, 0.7]), 2)
    x = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(0))
    query, key_value = attention.project_query(x), attention.project_key_value(x)
    q, k, v = (each.to(dtype) for each in (query.q, key_value.k, key_value.v))
    whole = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=matrix(visibility).log())
    found = attention.attend(Query(q, None), KeyValue(k, v), visibility).float()
    compare(f"attention by groups, {dtype}", found, whole, 1e-5 if dtype == torch.float32 else 5e-3)


@torch.no_grad()
def test_block_and_rope():
    """One block alone, given the official block's own inputs: the state after it, and both kinds of rotation."""
    section = tiny_section("2.3", num_layers=1, audio_positional_embedding_max_pos=[30])
    theirs, ours = official(section)
    video, audio = inputs(section)
    seen = {}
    theirs.transformer_blocks[0].register_forward_hook(
        lambda module, args, kwargs, output: seen.update(before=kwargs, after=output), with_kwargs=True
    )
    official_velocity(theirs, video, audio)
    ((video_state, audio_state),) = ours.embed([Pass(video, audio, UNPERTURBED)])
    for stream, state in ("video", video_state), ("audio", audio_state):
        before = seen["before"][stream]
        cos, sin = before.positional_embeddings
        cross_cos, cross_sin = before.cross_positional_embeddings
        compare(f"rope {stream}", state.rotation.cos, cos)
        compare(f"rope {stream}", state.rotation.sin, sin)
        compare(f"rope {stream} across", state.cross_rotation.cos, cross_cos)
        compare(f"rope {stream} across", state.cross_rotation.sin, cross_sin)
    (after,) = ours.blocks[0]([(video_state, audio_state)], 0, [Perturbation()])
    for stream, state, expected in zip(("video", "audio"), after, seen["after"]):
        compare(f"one block ({stream})", state.x, expected.x)


@torch.no_grad()
def test_a_stream_that_is_not_updated_still_shows_itself():
    section = tiny_section("2.3")
    _, ours = official(section)
    video, audio = inputs(section)
    frozen = StreamInput(audio.tokens, audio.sigma, audio.positions, audio.context, updated=False)
    seen = ours(video, frozen)[0]
    assert not torch.allclose(seen, ours(video, None)[0], atol=1e-4)


ACROSS = {"audio_to_video", "video_to_audio"}


@pytest.mark.parametrize(
    ("there", "updated", "perturbation", "called"),
    [
        (True, True, UNPERTURBED, {"video", "audio", *ACROSS}),
        (True, True, PERTURBATIONS["isolated"], {"video", "audio"}),
        (True, True, PERTURBATIONS["skip_a2v"], {"video", "audio", "video_to_audio"}),
        (True, False, UNPERTURBED, {"video", "audio_to_video"}),
        (False, True, UNPERTURBED, {"video"}),
    ],
)
@torch.no_grad()
def test_layers_that_no_pass_needs_are_not_called(there, updated, perturbation, called):
    """Weights that are streamed would travel for nothing."""
    _, ours = official(section := tiny_section("2.3", num_layers=1))
    video, audio = inputs(section)
    seen = set()
    for name, module in ours.blocks[0].named_modules():
        module.register_forward_hook(lambda *_, name=name: seen.update({name.partition(".")[0]} - {""}))
    ours(video, replace(audio, updated=updated) if there else None, perturbation)
    assert seen == called


def wave(shape, a, b) -> torch.Tensor:
    i = torch.arange(math.prod(shape), dtype=torch.float64)
    return (0.5 * torch.sin(a + b * (i + 1))).float().reshape(shape)


VECTOR_CASES = {
    "2.0/t2v": {}, "2.0/i2v": {"image": True}, "2.3/t2v": {}, "2.3/i2v": {"image": True},
    "2.3/t2v/skip_video_self_attn_block1": {"perturbation": Perturbation(video_values_only=frozenset({1}))},
    "2.3/t2v/skip_both_av_cross_all_blocks": {"perturbation": PERTURBATIONS["isolated"]},
    "2.3/t2v/rope_interleaved": {"rope_type": "interleaved"},
}  # fmt: skip


@pytest.mark.parametrize("case", VECTOR_CASES)
@torch.no_grad()
def test_newest_official_numbers(case):
    version, choices = case[:3], VECTOR_CASES[case]
    section = tiny_section(version, rope_type=choices.get("rope_type", "split"))
    model = Transformer(TransformerConfig.from_json(section))
    prefix = "model.diffusion_model."
    model.load_state_dict(waves(model, lambda name: TRANSFORMER.official(name).removeprefix(prefix)))
    timesteps = torch.full((1, 8), 0.725)
    if choices.get("image"):
        timesteps[:, :4] = 0
    widths = (24, 24) if version == "2.0" else (32, 16)
    video = StreamInput(wave((1, 8, 8), 0.3, 0.9), torch.tensor([0.725]), video_positions(),
                        wave((1, 6, widths[0]), 0.1, 0.77), timesteps)  # fmt: skip
    audio = StreamInput(wave((1, 5, 8), 1.1, 0.61), torch.tensor([0.5]), audio_positions(),
                        wave((1, 6, widths[1]), 0.2, 0.53))  # fmt: skip
    expected = golden.vectors("transformer_text")["own_ss_cross_gate"][case]
    result = model(video, audio, choices.get("perturbation", Perturbation()))
    for stream, found in zip(("video", "audio"), result):
        compare(f"newest {case} ({stream})", found, torch.tensor(expected[stream]).reshape(found.shape), 1e-5)


@pytest.mark.parametrize("version", ["2.0", "2.3", "2.5"])
def test_every_released_key_has_its_place(version):
    with torch.device("meta"):
        model = Transformer(TransformerConfig.from_json(golden.config(version)["transformer"]))
    listed = golden.key_list("transformer_text", version, "transformer")
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert {TRANSFORMER.ours(key, "model.diffusion_model."): shape for key, shape in listed.items()} == shapes
    assert {TRANSFORMER.official(name) for name in shapes} == set(listed)
    assert (len(shapes), sum(math.prod(shape) for shape in shapes.values())) == TOTALS[version]


def test_what_a_config_leaves_out_is_as_in_the_official_reader():
    """As in 2.0, but for two numbers that this says otherwise; biases are those of each stream alone."""
    silent, told = ({"caption_channels": 3840}, golden.config("2.0")["transformer"])
    found, expected = TransformerConfig.from_json(silent), TransformerConfig.from_json(told)
    assert found == replace(expected, cross_gate_scale=1.0, rope_double=False)
    assert found.audio.channels_in == 128 and found.video.feed_forward_bias and found.audio.feed_forward_bias
    for name, biases in (("ff_bias", (False, True)), ("audio_ff_bias", (True, False))):
        other = TransformerConfig.from_json(silent | {name: False})
        assert (other.video.feed_forward_bias, other.audio.feed_forward_bias) == biases


def test_an_unknown_architecture_is_refused():
    with pytest.raises(CheckpointError, match="qk_norm"):
        TransformerConfig.from_json(tiny_section("2.3", qk_norm="layer_norm"))


# 2.5: no bias in the video's feed-forward, and a mark on what stands for one frame.


def marked(video: StreamInput, *tokens: int) -> StreamInput:
    """``video`` with the mark on its first latent frame of four tokens, or on ``tokens``."""
    keyframes = torch.zeros(len(video.tokens), video.tokens.shape[1], 1)
    keyframes[:, list(tokens or range(4))] = 1
    return replace(video, keyframes=keyframes)


@pytest.mark.parametrize("tokens", [(), (0, 1, 2, 3, 6, 7)])
@torch.no_grad()
def test_the_mark_of_keyframes_in_diffusers(tokens):
    """Diffusers adds the mark where it is told to."""
    theirs, ours = in_diffusers(section := tiny_section("2.5"))
    video, audio = inputs(section)
    video = marked(video, *tokens)
    plain = ours(replace(video, keyframes=None), audio)[0]
    found = ours(video, audio)
    assert (found[0] - plain).abs().max() > 1e-2
    scaled = {name: each.sigma[:, None] * 1000 for name, each in (("video", video), ("audio", audio))}
    expected = theirs(
        video.tokens, audio.tokens, video.context, audio.context,
        scaled["video"].expand(-1, video.tokens.shape[1]), scaled["audio"].expand(-1, audio.tokens.shape[1]),
        sigma=scaled["video"][:, 0], audio_sigma=scaled["audio"][:, 0], video_coords=video.positions,
        audio_coords=audio.positions, video_keyframes_mask=video.keyframes, return_dict=False,
    )  # fmt: skip
    check("2.5, keyframes marked, diffusers", found, expected)


def in_diffusers(section: dict):
    """Diffusers' transformer with random weights, and ours with the same."""
    transformers = pytest.importorskip("diffusers.models.transformers.transformer_ltx2")
    theirs = transformers.LTX2VideoTransformer3DModel(
        in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=16, cross_attention_dim=32,
        gated_attn=True, cross_attn_mod=True, audio_in_channels=8, audio_out_channels=8, audio_num_attention_heads=2,
        audio_attention_head_dim=8, audio_cross_attention_dim=16, audio_gated_attn=True, audio_cross_attn_mod=True,
        num_layers=2, caption_channels=24, rope_type="split", use_prompt_embeddings=False, ff_bias=False,
        use_keyframes_abs_pos_embedding=True,
    )  # fmt: skip
    for name, parameter in theirs.named_parameters():
        scale = 1 / math.sqrt(parameter.shape[-1]) if parameter.ndim > 1 else 0.2
        parameter.copy_(torch.randn(parameter.shape) * scale + ("norm" in name))
    state = theirs.state_dict()
    ours = Transformer(TransformerConfig.from_json(section))
    names = official_names(state)
    ours.load_state_dict({TRANSFORMER.ours(name, "model.diffusion_model."): state[key] for name, key in names.items()})
    return theirs.eval(), ours


@torch.no_grad()
def test_a_repacked_file_without_the_mark_has_none():
    config = {"transformer": tiny_section("2.5")}
    whole = COMPONENTS["transformer"].make(config, {})
    shapes = {name: tuple(value.shape) for name, value in whole.state_dict().items()}
    assert shapes.pop("video.keyframe_mark") == (1, 32)
    bare = COMPONENTS["transformer"].make(config, shapes)
    assert {*bare.state_dict()} == {*shapes} and not any("feed_forward.up.bias" in n for n in shapes if "video" in n)
    bare.load_state_dict({name: torch.randn(shape) / 6 for name, shape in shapes.items()})
    video, audio = inputs(config["transformer"])
    assert torch.equal(bare(marked(video), audio)[0], bare(video, audio)[0])
