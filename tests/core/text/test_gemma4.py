"""Gemma 4, the text encoder of 2.5: the packed file, and the numbers of the transformers library."""

import json
import math

import golden
import pytest
import torch
from agreement import compare
from safetensors.torch import load_file, save_file

from ltx2_core import tiny
from ltx2_core.checkpoint import open_models
from ltx2_core.checkpoint.files import TensorFile
from ltx2_core.checkpoint.keys.gemma import GEMMA4
from ltx2_core.checkpoint.text_encoder import ENCODERS, build_text_encoder, open_text_encoder
from ltx2_core.errors import CheckpointError
from ltx2_core.memory.store import Store
from ltx2_core.text import Gemma4Config, TextFeatures, TextFeaturesConfig

PROMPTS = ["a red ball bounces twice on the left", "", "word " * 1500]
VECTOR = golden.vectors("2.5")["gemma4_text_tiny"]


@pytest.fixture(scope="module")
def files(tiny_files):
    """The folder and the packed file."""
    return tiny_files("2.5")[1:]


@pytest.fixture(scope="module")
def formula():
    """The network of the vector, with the weights that its recipe gives."""
    encoder = Gemma4Config.from_json(VECTOR["text_config"]).build()
    state = encoder.model.state_dict()
    for k, name in enumerate(sorted(state)):
        tensor = state[name]
        s = torch.sin(0.7 * torch.arange(tensor.numel(), dtype=torch.float64) + 1.3 * k).reshape(tensor.shape)
        if name.endswith("layer_scalar"):
            tensor.copy_(0.8 + 0.1 * s)
        elif tensor.ndim >= 2:
            tensor.copy_(s * 1.5 / math.sqrt(tensor.numel() / tensor.shape[0]))
        else:
            tensor.copy_(1 + 0.1 * s)
    return encoder


def test_the_vector(formula):
    shapes = {name: list(tensor.shape) for name, tensor in formula.model.state_dict().items()}
    assert shapes == VECTOR["keys"]
    states = formula(torch.tensor(VECTOR["input_ids"]), torch.tensor(VECTOR["attention_mask"]))
    assert len(states) == 7
    for expected in VECTOR["states"]:
        found = states[expected["index"]][0]
        for row in (3, 11):
            compare(f"Gemma 4, row {row}", found[row, :4], torch.tensor(expected[f"row{row}_first4"]), 1e-5)
        assert found[3:].std().item() == pytest.approx(expected["std_valid"], abs=1e-5)


def test_every_key_of_the_packed_file_has_its_place():
    listed = golden.shapes("text_encoder_2.5_gemma4_packed")
    with torch.device("meta"):
        encoder = Gemma4Config().build()
        projection = TextFeatures(TextFeaturesConfig.from_json(golden.config("2.5")["transformer"]))
    kind = ENCODERS[0]
    names = {GEMMA4.ours(key, "model."): shape for key, shape in listed.items() if GEMMA4.knows(key, "model.")}
    own = {name: tuple(value.shape) for name, value in encoder.state_dict().items()}
    assert len(listed) == 686 and names == own
    assert sum(map(math.prod, own.values())) == 11_907_350_320
    assert Gemma4Config.from_shapes(own) == Gemma4Config()
    unseen = encoder.config  # what no shape shows
    assert (unseen.window, unseen.eps) == (1024, 1e-6) and unseen.frequencies(False).count_nonzero() == 128
    near, far = unseen.frequencies(False), unseen.frequencies(True)
    assert near[1].item() == pytest.approx(0.93057203) and far[1].item() == pytest.approx(0.94746351)
    assert (len(far), far.count_nonzero(), far[63:65].count_nonzero()) == (256, 64, 1)
    rest = {key for key in listed if not GEMMA4.knows(key, "model.")}
    assert all(key.startswith(kind.ignored) for key in rest)
    projected = [shape for key, shape in listed.items() if key.startswith("text_embedding_projection.")]
    assert sum(map(math.prod, projected)) == sum(each.numel() for each in projection.parameters()) == 1_156_061_184


def test_the_numbers_of_the_library():
    configuration = pytest.importorskip("transformers.models.gemma4_unified.configuration_gemma4_unified")
    modeling = pytest.importorskip("transformers.models.gemma4_unified.modeling_gemma4_unified")
    ours = Gemma4Config(
        layers=6, width=32, hidden=48, heads=4, kv_heads=2, head_dim=8, full_kv_heads=1, full_head_dim=16,
        vocabulary=64, window=8, full_every=3,
    )  # fmt: skip
    config = configuration.Gemma4UnifiedTextConfig(**ours.to_json(), _attn_implementation="sdpa")
    theirs = modeling.Gemma4UnifiedTextModel(config).eval()
    with torch.no_grad():
        for name, parameter in [*theirs.named_parameters(), *theirs.named_buffers()]:
            if name.endswith("layer_scalar"):
                parameter.fill_(0.7)
            elif "weight" in name:
                parameter.copy_(torch.randn(parameter.shape) / math.sqrt(parameter.shape[-1]) + ("norm" in name))
    encoder = ours.build()
    state = {name: theirs.state_dict()[name] for name in encoder.model.state_dict()}
    encoder.model.load_state_dict(state)
    ids = torch.randint(3, 64, (2, 20))
    mask = torch.ones_like(ids)
    mask[0, :7] = 0
    with torch.no_grad():
        expected = theirs(ids, mask, output_hidden_states=True, use_cache=False,
                          position_ids=torch.arange(20)[None].expand(2, -1)).hidden_states  # fmt: skip
    found = encoder(ids, mask)
    assert len(found) == len(expected) == 7
    for a, b in zip(found, expected):
        assert a.isfinite().all()
        compare("Gemma 4 hidden states", a[mask == 1], b[mask == 1])


def read(path, dtype=torch.float32):
    opened = open_text_encoder(path)
    ids, mask = (tokens[:, -64:] for tokens in opened.tokenizer()(PROMPTS))
    return build_text_encoder(opened, dtype)(ids, mask)


def same(a, b) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b))


def test_both_layouts_read_alike(files, tmp_path):
    folder, packed = files
    whole = read(packed)
    assert same(whole, read(folder)) and len(whole) == 3
    tensors = load_file(packed)
    renamed = {key.replace("model.", "model.language_model.", 1): value for key, value in tensors.items()}
    towers = ("vision_embedder.patch_dense", "embed_vision.embedding_projection", "embed_audio.embedding_projection")
    more = {f"model.{name}.weight": torch.zeros(4) for name in towers}
    more["hf_asset__tokenizer_config.json"] = torch.zeros(4, dtype=torch.uint8)
    renamed["tokenizer_json"] = tensors["tokenizer_json"].view(torch.int8)
    header, path = TensorFile(packed).metadata, tmp_path / "packed.safetensors"
    save_file(
        renamed | more, path, header | {"gemma_config": header["gemma_config"].replace("gemma4", "gemma4_unified")}
    )
    assert '"model_type": "gemma4_unified"' in TensorFile(path).metadata["gemma_config"], "as the published file says"
    assert same(whole, read(path))


def test_sizes_are_those_of_the_header_else_of_the_tensors(files, tmp_path):
    folder, packed = files
    stated = open_text_encoder(packed)
    assert stated.config == open_text_encoder(folder).config == tiny._GEMMA["Gemma 4"]
    assert stated.gemma_version == open_text_encoder(folder).gemma_version == "gemma4-tiny-v1"
    save_file(load_file(packed), tmp_path / "bare.safetensors")
    bare = open_text_encoder(tmp_path / "bare.safetensors")
    assert bare.config == stated.config and bare.gemma_version is None


def test_weights_are_streamed(files):
    opened = open_text_encoder(files[1])
    ids, mask = (tokens[:, -64:] for tokens in opened.tokenizer()(PROMPTS[:1]))
    whole = build_text_encoder(opened, torch.float32)(ids, mask)
    encoder = build_text_encoder(opened, torch.float32)
    store = Store(encoder, "cpu")
    with store.use():
        assert same(whole, encoder(ids, mask))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("layers.0.per_layer_input_gate.weight", r"is a Gemma 4 with embeddings for each layer \(E2B, E4B\), .*dense"),
        ("embed_tokens_per_layer.weight", r"is a Gemma 4 with embeddings for each layer \(E2B, E4B\), .*dense"),
        ("layers.0.experts.down_proj", r"is a Gemma 4 of several experts \(26B-A4B\), .*to enhance them"),
        ("layers.0.another.weight", r"not a Gemma 4 that we know: it has model\.layers\.0\.another"),
    ],
)
def test_a_gemma_4_of_another_kind_is_refused_by_what_it_has_more(files, tmp_path, more, said):
    state = load_file(files[1]) | {f"model.{more}": torch.zeros(4, 4)}
    save_file(state, tmp_path / "other.safetensors", TensorFile(files[1]).metadata)
    with pytest.raises(CheckpointError, match=said):
        build_text_encoder(open_text_encoder(tmp_path / "other.safetensors"))


@pytest.mark.parametrize(
    "broken, said", [("{", "is not valid JSON"), ('{"text_config": 3}', "text_config is a number")]
)
def test_a_broken_header_is_named(files, tmp_path, broken, said):
    save_file(load_file(files[1]), tmp_path / "gemma.safetensors", {"gemma_config": broken})
    with pytest.raises(CheckpointError, match=f"gemma_config in the header of gemma.safetensors.*{said}"):
        read(tmp_path / "gemma.safetensors")


def test_a_model_of_2_5_knows_what_it_needs(tiny_files):
    models = open_models(*tiny_files("2.5")[:2])
    assert (models.version, models.kind) == ("2.5", "LTX-2.5 dev")
    assert json.loads(models.files[0].metadata["gemma_source_checkpoint"])["gemma_version"] == "gemma4-tiny-v1"
