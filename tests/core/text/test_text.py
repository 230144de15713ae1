"""From hidden states to contexts, against the official implementation and its golden numbers."""

import math

import golden
import pytest
import torch
from agreement import compare, relative_error
from formula import waves

from ltx2_core.checkpoint import build, open_models
from ltx2_core.checkpoint.keys.text import AUDIO_CONNECTOR, TEXT_FEATURES, VIDEO_CONNECTOR
from ltx2_core.checkpoint.text_encoder import build_text_encoder, open_text_encoder
from ltx2_core.checkpoint.versions import VERSIONS
from ltx2_core.errors import CheckpointError, SettingError
from ltx2_core.text import (
    Connector,
    ConnectorConfig,
    Contexts,
    Features,
    TextFeatures,
    TextFeaturesConfig,
    compute_hidden_states,
    connect,
    extract_features,
)
from ltx2_core.text.features import normalise_prompt, normalise_tokens
from ltx2_core.text.prompts import describe_prompts, foreign_syntax

PREFIX = "model.diffusion_model."
TABLES = {"text_projection": TEXT_FEATURES, "video_connector": VIDEO_CONNECTOR, "audio_connector": AUDIO_CONNECTOR}
TOTALS = {
    "2.0": {"text_projection": 722_534_400, "video_connector": 354_470_400, "audio_connector": 354_470_400},
    "2.3": {"text_projection": 1_156_061_184, "video_connector": 1_612_546_304, "audio_connector": 403_620_096},
}
WIDTH, STATES, ROWS = 16, 3, 16  # of the miniatures below; eight registers


def section(version: str, **changes) -> dict:
    small = {
        "caption_channels": WIDTH,
        "num_attention_heads": 2, "attention_head_dim": 12,
        "audio_num_attention_heads": 2, "audio_attention_head_dim": 6,
        "connector_num_attention_heads": 2, "connector_attention_head_dim": 8, "connector_num_layers": 2,
        "connector_num_learnable_registers": 8,
    }  # fmt: skip
    audio = {"audio_connector_num_attention_heads": 2, "audio_connector_attention_head_dim": 6}
    widths = {"connector_attention_head_dim": 12} | audio if version == "2.3" else {}
    return golden.config(version)["transformer"] | small | widths | changes


def features_config(version: str) -> TextFeaturesConfig:
    return TextFeaturesConfig.from_json(section(version), {"both.weight": (WIDTH, WIDTH * STATES)})


def connector_config(config: dict, stream: str, rows: int = ROWS) -> ConnectorConfig:
    return ConnectorConfig(**vars(ConnectorConfig.from_json(config, stream)) | {"rows": rows})


def randomise(module: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            scale = 0.2 if parameter.ndim == 1 or "registers" in name else 1 / math.sqrt(parameter.shape[-1])
            parameter.copy_(torch.randn(parameter.shape) * scale + ("norm" in name))
    return module.float()


def official_features(version: str):
    """The official feature extractor with random weights, and ours with the same."""
    extractors = pytest.importorskip("ltx_core.text_encoders.gemma.feature_extractor")
    flat = WIDTH * STATES
    if version == "2.0":
        theirs = extractors.FeatureExtractorV1(torch.nn.Linear(flat, WIDTH, bias=False), is_av=True)
    else:
        theirs = extractors.FeatureExtractorV2(torch.nn.Linear(flat, 24), WIDTH, torch.nn.Linear(flat, 12))
    ours = TextFeatures(features_config(version))
    state = randomise(theirs).state_dict()
    ours.load_state_dict({TEXT_FEATURES.ours(f"text_embedding_projection.{k}", ""): v for k, v in state.items()})
    return theirs, ours


def official_connector(config: dict, stream: str):
    """The official connector with random weights, and ours with the same."""
    connectors = pytest.importorskip("ltx_core.text_encoders.gemma.embeddings_connector")
    kind = {"video": "Embeddings1DConnectorConfigurator", "audio": "AudioEmbeddings1DConnectorConfigurator"}[stream]
    theirs = getattr(connectors, kind).from_config({"transformer": config})
    theirs.num_learnable_registers = 8
    theirs.learnable_registers = torch.nn.Parameter(torch.empty(8, theirs.inner_dim))
    ours = Connector(connector_config(config, stream))
    table = TABLES[f"{stream}_connector"]
    state = randomise(theirs).state_dict()
    ours.load_state_dict({table.ours(f"{stream}_embeddings_connector.{k}", ""): v for k, v in state.items()})
    return theirs, ours


def additive(mask: torch.Tensor, dtype=torch.float32) -> torch.Tensor:
    return pytest.importorskip("ltx_core.text_encoders.gemma").convert_to_additive_mask(mask, dtype)


def left_padded(*lengths: int) -> torch.Tensor:
    return torch.tensor([[0] * (ROWS - n) + [1] * n for n in lengths])


def hidden_states(batch: int, dtype=torch.float32) -> list[torch.Tensor]:
    return [(torch.randn(batch, ROWS, WIDTH) * (1 + 3 * i) + i).to(dtype) for i in range(STATES)]


@pytest.mark.parametrize("version", ["2.0", "2.3"])
@torch.no_grad()
def test_features(version):
    theirs, ours = official_features(version)
    states, mask = hidden_states(3), left_padded(16, 5, 1)
    found = ours(states, mask)
    for stream, a, b in zip(("video", "audio"), found, theirs(states, mask)):
        compare(f"text features {version} ({stream})", a, b)
    assert (found[0] is found[1]) == (version == "2.0")


@pytest.mark.parametrize("version", ["2.0", "2.3"])
@torch.no_grad()
def test_features_in_bfloat16_are_equal_to_the_last_bit(version):
    theirs, ours = official_features(version)
    theirs, ours = theirs.bfloat16(), ours.bfloat16()
    for _ in range(20):
        states, mask = hidden_states(2, torch.bfloat16), left_padded(11, 4)
        for a, b in zip(ours(states, mask), theirs(states, mask)):
            assert a.dtype == torch.bfloat16 and torch.equal(a, b)


@pytest.mark.parametrize("normalise", [normalise_prompt, normalise_tokens])
def test_padding_does_not_reach_the_features(normalise):
    x, mask = torch.stack(hidden_states(2), dim=-1), left_padded(7, 2)
    clean = normalise(x, mask)
    x[mask == 0] = math.nan
    assert torch.equal(normalise(x, mask), clean)
    assert not clean[mask == 0].any()


@pytest.mark.parametrize("version", ["2.0", "2.3"])
def test_features_join_as_comfyui_carries_them(version):
    config = features_config(version)
    video, audio = torch.randn(1, 5, config.video_width), torch.randn(1, 5, config.audio_width)
    features = Features(video, audio if config.per_stream else video)
    assert features.joined().shape == (1, 5, {"2.0": 16, "2.3": 24 + 12}[version])
    back = Features.from_joined(features.joined(), config)
    assert torch.equal(back.video, features.video) and torch.equal(back.audio, features.audio)
    with pytest.raises(SettingError, match="to 7 numbers"):
        Features.from_joined(torch.zeros(1, 5, 7), config)


@pytest.mark.parametrize("stream", ["video", "audio"])
@pytest.mark.parametrize(
    ("version", "changes"),
    [("2.0", {}), ("2.3", {}), ("2.3", {"rope_type": "interleaved", "frequencies_precision": "float32"})],
    ids=["2.0", "2.3", "2.3 interleaved"],
)
@torch.no_grad()
def test_connector(version, changes, stream):
    theirs, ours = official_connector(section(version, **changes), stream)
    lengths = (16, 9, 5, 1)
    x, mask = torch.randn(len(lengths), ROWS, ours.config.width), left_padded(*lengths)
    found = ours(x, mask)
    for i, n in enumerate(lengths):  # the official one fills registers for one length at a time
        expected, _ = theirs(x[i : i + 1], additive(mask[i : i + 1]))
        compare(f"connector {version} {stream}", found[i : i + 1], expected)
        assert torch.equal(ours(x[i : i + 1, ROWS - n :]), ours(x[i : i + 1], mask[i : i + 1]))


@torch.no_grad()
def test_connector_in_bfloat16_is_as_exact_as_the_official_one():
    theirs, ours = official_connector(section("2.3"), "video")
    x, mask = torch.randn(1, ROWS, 24), left_padded(5)
    exact = ours(x, mask)
    found = ours.bfloat16()(x.bfloat16(), mask)
    official, _ = theirs.bfloat16()(x.bfloat16(), additive(mask, torch.bfloat16))
    assert found.dtype == torch.bfloat16
    assert relative_error(found, exact) < 2 * relative_error(official, exact) < 0.05


@pytest.mark.parametrize(
    ("rows", "length", "valid", "expected"),
    [
        (8, 8, 3, "tok0 tok1 tok2 reg3 reg4 reg5 reg6 reg7"),
        (16, 16, 5, "tok0 tok1 tok2 tok3 tok4 reg5 reg6 reg7 reg0 reg1 reg2 reg3 reg4 reg5 reg6 reg7"),
        (8, 2, 2, "tok0 tok1 reg2 reg3 reg4 reg5 reg6 reg7"),
        (8, 9, 9, "tok0 tok1 tok2 tok3 tok4 tok5 tok6 tok7 tok8 reg1 reg2 reg3 reg4 reg5 reg6 reg7"),
    ],
)
def test_thinking_tokens_are_chosen_by_absolute_position(rows, length, valid, expected):
    connector = Connector(connector_config(section("2.0"), "video", rows))
    connector.registers.data = torch.arange(8.0)[:, None].expand(-1, WIDTH) + 100
    tokens = torch.arange(float(length)) - (length - valid)
    mask = tokens >= 0
    filled = connector.fill(tokens[None, :, None].expand(1, -1, WIDTH), mask[None])[0]
    names = [f"reg{int(n) - 100}" if n >= 100 else f"tok{int(n)}" for n in filled[:, 0]]
    assert " ".join(names) == expected
    assert (filled == filled[:, :1]).all()


@pytest.mark.parametrize(("length", "rows"), [(1, 1024), (1024, 1024), (1025, 1152), (1300, 1408)])
def test_a_context_has_1024_rows_or_as_many_as_a_longer_prompt_needs(length, rows):
    connector = Connector(ConnectorConfig.from_json(section("2.0", connector_num_learnable_registers=128), "video"))
    assert connector.fill(torch.zeros(1, length, WIDTH), torch.ones(1, length)).shape == (1, rows, WIDTH)


def golden_features(version: str) -> tuple[torch.Tensor, ...]:
    module = TextFeatures(features_config(version))
    prefix = "text_embedding_projection."
    module.load_state_dict(waves(module, lambda name: TEXT_FEATURES.official(name).removeprefix(prefix)))
    i = torch.arange(ROWS * WIDTH, dtype=torch.float64) + 1
    states = [(1 + s) * 0.5 * torch.sin(0.4 + 0.3 * s + (0.37 + 0.11 * s) * i) for s in range(STATES)]
    return module([state.float().reshape(1, ROWS, WIDTH) for state in states], left_padded(5))


def check(seam: str, found: torch.Tensor, key: str) -> None:
    expected = torch.tensor(golden.vectors("transformer_text")["text"][key])
    compare(seam, found, expected.reshape(found.shape))


@torch.no_grad()
def test_golden_features():
    check("newest text features 2.0", golden_features("2.0")[0][:, -5:], "feature_v1_last5")
    video, audio = golden_features("2.3")
    check("newest text features 2.3 (video)", video[:, -5:], "feature_v2_video_last5")
    check("newest text features 2.3 (audio)", audio[:, -5:], "feature_v2_audio_last5")


@pytest.mark.parametrize("gated", [False, True])
@torch.no_grad()
def test_golden_connector(gated):
    module = Connector(connector_config(section("2.0", connector_apply_gated_attention=gated), "video"))
    prefix = f"{PREFIX}video_embeddings_connector."
    module.load_state_dict(waves(module, lambda name: VIDEO_CONNECTOR.official(name).removeprefix(prefix)))
    found = module(golden_features("2.0")[0], left_padded(5))
    check(f"newest connector{' gated' * gated}", found, f"connector_gated_{str(gated).lower()}")


def full_size(version: str, component: str) -> torch.nn.Module:
    config = golden.config(version)["transformer"]
    with torch.device("meta"):
        if component == "text_projection":
            return TextFeatures(TextFeaturesConfig.from_json(config))
        return Connector(ConnectorConfig.from_json(config, component.removesuffix("_connector")))


@pytest.mark.parametrize("version", ["2.0", "2.3"])
@pytest.mark.parametrize("component", TABLES)
def test_every_released_key_has_its_place(version, component):
    shapes = {name: tuple(value.shape) for name, value in full_size(version, component).state_dict().items()}
    table, listed = TABLES[component], golden.key_list("transformer_text", version, component)
    assert {table.ours(key, table.prefixes[0]): shape for key, shape in listed.items()} == shapes
    assert {table.official(name) for name in shapes} == set(listed)
    assert sum(math.prod(shape) for shape in shapes.values()) == TOTALS[version][component]


def test_full_size_contexts_have_the_width_that_the_transformer_reads():
    for version, widths in {"2.0": (3840, 3840), "2.3": (4096, 2048)}.items():
        features = TextFeaturesConfig.from_json(golden.config(version)["transformer"])
        assert (features.video_width, features.audio_width) == widths
        assert tuple(full_size(version, f"{s}_connector").config.width for s in ("video", "audio")) == widths


def test_rotary_positions_of_the_full_size():
    """The numbers that the spec gives for 2.0."""
    rotation = full_size("2.0", "video_connector").rope(torch.arange(2.0).view(1, 1, -1))
    cos, sin = rotation.cos[0, 0], rotation.sin[0, 0]
    assert cos[0, :3].tolist() == pytest.approx([0, -0.0075571, -0.0151502], abs=1e-7)
    assert sin[0, :3].tolist() == pytest.approx([-1, -0.9999714, -0.9998852], abs=1e-7)
    assert cos[1, :3].tolist() == pytest.approx([0.0007670, -0.0067865, -0.0143760], abs=1e-7)


def test_what_is_added_before_states_are_divided():
    """A millionth, to the mean square of a token and to the range of a prompt."""
    token = normalise_tokens(torch.full((1, 1, 4, 2), 1e-3), torch.ones(1, 1))
    torch.testing.assert_close(token, torch.full((1, 1, 8), 0.5**0.5))
    prompt = normalise_prompt(torch.tensor([0.0, 1e-6]).view(1, 1, 2, 1), torch.ones(1, 1))
    torch.testing.assert_close(prompt, torch.tensor([[[-2.0, 2.0]]]), rtol=1e-4, atol=0)


def test_official_defaults_where_the_config_is_silent():
    silent = ConnectorConfig.from_json({}, "audio")
    assert (silent.heads, silent.head_dim, silent.layers, silent.max_position) == (30, 128, 2, 1)
    assert not (silent.gated or silent.rope_interleaved or silent.rope_double)
    assert silent.ff_bias and (silent.registers, silent.rows) == (128, 1024)
    assert ConnectorConfig.from_json({"connector_num_layers": 5}, "audio").layers == 5
    assert ConnectorConfig.from_json({"ff_bias": False}, "audio").ff_bias
    assert not ConnectorConfig.from_json({"connector_ff_bias": False}, "audio").ff_bias
    both, each = (TextFeaturesConfig.from_json(flags) for flags in ({}, _PER_STREAM))
    assert both == TextFeaturesConfig(3840, 49, 3840, 3840, per_stream=False)
    assert each == TextFeaturesConfig(3840, 49, 4096, 2048, per_stream=True)


_PER_STREAM = {
    "caption_proj_before_connector": True, "caption_projection_first_linear": False,
    "caption_proj_input_norm": False, "caption_projection_second_linear": False,
}  # fmt: skip


@pytest.mark.parametrize("change", [{"caption_proj_input_norm": True}, {"caption_projection_first_linear": None}])
def test_an_unknown_projection_is_refused(change):
    with pytest.raises(CheckpointError, match="text projection"):
        TextFeaturesConfig.from_json(section("2.3", **change))
    with pytest.raises(CheckpointError, match="text projection"):
        TextFeaturesConfig.from_json({"caption_proj_before_connector": True})


def test_parts_of_different_versions_are_named():
    with pytest.raises(SettingError, match=r"2 hidden states of width 16, .* 3 of width 16"):
        TextFeatures(features_config("2.3"))([torch.zeros(1, 4, WIDTH)] * 2, torch.ones(1, 4))
    video, audio = (Connector(connector_config(section("2.0"), stream)) for stream in ("video", "audio"))
    with pytest.raises(SettingError, match=r"24 wide, .* 16"):
        connect(Features(torch.zeros(1, 4, 24), torch.zeros(1, 4, 12)), video, audio)


@torch.no_grad()
def test_contexts_from_hidden_states():
    """2.3: the whole way behind Gemma, for two prompts of different length."""
    extractor, features = official_features("2.3")
    connectors = {stream: official_connector(section("2.3"), stream) for stream in ("video", "audio")}
    processor = pytest.importorskip("ltx_core.text_encoders.gemma").EmbeddingsProcessor(
        feature_extractor=extractor, video_connector=connectors["video"][0], audio_connector=connectors["audio"][0]
    )
    for length in (12, 3):
        states, mask = hidden_states(1), left_padded(length)
        expected = processor.process_hidden_states(states, mask)
        video, audio = features(states, mask)
        cut = Features(video[:, -length:], audio[:, -length:])
        found = connect(cut, connectors["video"][1], connectors["audio"][1])
        assert isinstance(found, Contexts)
        compare("hidden states to contexts 2.3 (video)", found.video, expected.video_encoding)
        compare("hidden states to contexts 2.3 (audio)", found.audio, expected.audio_encoding)


@torch.no_grad()
@pytest.mark.parametrize("version", VERSIONS)
def test_prompts_without_padding_are_read_like_padded_ones(tiny_files, version):
    """Rows that nothing attends to are not computed; the official way, all 1024 of them, gives the same."""
    checkpoint, _, encoder_file = tiny_files(version)
    models, files = open_models(checkpoint, encoder_file), open_text_encoder(encoder_file)
    encoder, projection = build_text_encoder(files, torch.float32), build(models, "text_features", torch.float32)
    prompts = ["a red ball bounces twice on the left", "", "a blue one"]
    ids, mask = files.tokenizer()(prompts)
    video, audio = projection(encoder(ids, mask), mask)
    hidden = compute_hidden_states(encoder, files.tokenizer(), prompts)
    assert torch.equal(hidden.mask, mask[:, -max(hidden.lengths) :])
    assert hidden.lengths == tuple(mask.sum(dim=1).tolist()) and len({*hidden.lengths}) == 3
    assert {tuple(state.shape[:2]) for state in hidden.states} == {(3, max(hidden.lengths))}
    for number, features in enumerate(extract_features(projection, hidden)):
        rows = mask[number].bool()
        compare("prompts without padding (video)", features.video[0], video[number, rows], 2e-6)
        compare("prompts without padding (audio)", features.audio[0], audio[number, rows], 2e-6)


@torch.no_grad()
@pytest.mark.parametrize("version", VERSIONS)
def test_a_prompt_is_read_to_the_same_bits_whatever_is_read_with_it(tiny_files, version):
    """So a clip of a batch, or with a prompt that is kept, is that of ``generate`` alone."""
    files = open_text_encoder(tiny_files(version)[2])
    encoder, prompts = (
        build_text_encoder(files, torch.float32),
        ["a red ball bounces twice on the left", "", "blue " * 70],
    )
    together = compute_hidden_states(encoder, files.tokenizer(), prompts)
    for number, prompt in enumerate(prompts):
        alone = compute_hidden_states(encoder, files.tokenizer(), [prompt])
        for state, other in zip(alone.states, together.states, strict=True):
            assert torch.equal(state[0], other[number, -alone.lengths[0] :])


@pytest.mark.parametrize(
    ("prompt", "facts"),
    [
        ("a (red ball:1.4) bounces", ["(red ball:1.4)"]),
        ("(best quality: .8), <LoRA:style_v2:0.8>", ["(best quality: .8)", "<LoRA:style_v2:0.8>"]),
        ("<lora:style>", ["<lora:style>"]),
        ("she says (quietly): 1.5 litres; John (3:16), (16:9), (at 5:30), (see fig. 1.4), <smile>, (a:b)", []),
        ("a clock (it shows 10:1.5), [a red ball], {one|two}, ((twice))", []),
    ],
)
def test_syntax_of_other_programs_is_told(prompt, facts):
    found = foreign_syntax(prompt)
    assert len(found) == len(facts) and all(fact in sentence for fact, sentence in zip(facts, found))


def test_an_empty_prompt_is_told_and_which_one_it_is():
    assert describe_prompts(["a red ball"], "") == []
    (alone,) = describe_prompts([" "], "blurry")
    (second,) = describe_prompts(["a red ball", "", "then blue"], "")
    assert alone.startswith("The prompt is empty") and second.startswith("Prompt 2 of 3 is empty")
