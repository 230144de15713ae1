"""Gemma 3 as people have it on disk, against the transformers library and the official encoder."""

import json
import logging
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from agreement import compare, relative_error
from safetensors.torch import load_file, save_file

from ltx2_core.checkpoint.files import CheckpointError, TensorFile
from ltx2_core.checkpoint.keys.gemma import GEMMA
from ltx2_core.checkpoint.keys.text import AUDIO_CONNECTOR, TEXT_FEATURES, VIDEO_CONNECTOR
from ltx2_core.checkpoint.models import MINIATURE
from ltx2_core.checkpoint.text_encoder import build_text_encoder, open_text_encoder
from ltx2_core.quantization.fp8 import Fp8Linear
from ltx2_core.text import (
    Connector,
    ConnectorConfig,
    GemmaConfig,
    GemmaEncoder,
    TextFeatures,
    TextFeaturesConfig,
    connect,
    encode_prompts,
)

PROMPTS = ["a red ball bounces twice on the left", "", "word " * 1500]
TOKENIZER = MINIATURE / "gemma-mini"
HF, COMFYUI = "language_model.model.", "model."


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """A tiny Gemma 3 with picture part and random weights, norms included, as transformers makes and saves it."""
    transformers = pytest.importorskip("transformers")
    config = json.loads((TOKENIZER / "config.json").read_text())
    config["text_config"] |= {"num_hidden_layers": 7, "torch_dtype": "float32"}
    config["torch_dtype"] = "float32"
    torch.manual_seed(0)
    model = transformers.Gemma3ForConditionalGeneration(transformers.Gemma3Config(**config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) / math.sqrt(parameter.shape[-1]))
    folder = tmp_path_factory.mktemp("gemma")
    model.save_pretrained(folder, max_shard_size="400KB")
    for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json"):
        shutil.copy(TOKENIZER / name, folder)
    return model, folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The Gemma of the miniature in float32 and in two files with an index, as larger ones are published."""
    folder = tmp_path_factory.mktemp("gemma") / "gemma"
    shutil.copytree(TOKENIZER, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    state = {key: value.float() for key, value in everything(TOKENIZER).items()}
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    places = {key: names[number * 2 // len(state)] for number, key in enumerate(sorted(state))}
    for name in names:
        save_file({key: state[key] for key, place in places.items() if place == name}, folder / name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


def everything(folder: Path) -> dict[str, torch.Tensor]:
    return {key: value for file in folder.glob("*.safetensors") for key, value in load_file(file).items()}


def rename(state: dict, prefix: str) -> dict:
    """The text part of a saved model under another prefix."""
    text = {k.split("embed_tokens")[0] for k in state if k.endswith("embed_tokens.weight")}.pop()
    return {prefix + key.removeprefix(text): value for key, value in state.items() if key.startswith(text)}


def embedded(name: str = "tokenizer.model") -> torch.Tensor:
    return torch.frombuffer(bytearray((TOKENIZER / name).read_bytes()), dtype=torch.uint8)


def read(path: Path, dtype=torch.float32) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Hidden states of the last 64 tokens of the prompts, and their mask."""
    files = open_text_encoder(path)
    ids, mask = (tokens[:, -64:] for tokens in files.tokenizer()(PROMPTS))
    return build_text_encoder(files, dtype)(ids, mask), mask


@pytest.fixture(scope="module")
def reading(folder):
    """What ``read`` gives for the folder."""
    return read(folder)


def same(a, b) -> bool:
    return len(a[0]) == len(b[0]) and all(torch.equal(x, y) for x, y in zip(a[0], b[0]))


def test_hidden_states(official):
    model, folder = official
    found, mask = read(folder)
    ids = open_text_encoder(folder).tokenizer()(PROMPTS)[0][:, -64:]
    with torch.no_grad():
        expected = model.model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
    assert len(list(folder.glob("*.safetensors"))) > 1 and len(found) == len(expected) == 8
    for a, b in zip(found, expected):
        assert a.isfinite().all()  # padding, too: a NaN there would reach every token
        compare("Gemma hidden states", a[mask == 1], b[mask == 1])
    embeddings = model.get_input_embeddings().weight[ids] * math.sqrt(64)
    assert torch.allclose(found[0][mask == 1], embeddings[mask == 1])


def test_the_official_encoder_gives_the_same(official):
    gemma = pytest.importorskip("ltx_core.text_encoders.gemma")
    tokenizer = pytest.importorskip("ltx_core.text_encoders.gemma.tokenizer").LTXVGemmaTokenizer
    model, folder = official
    files = open_text_encoder(folder)
    ids, mask = files.tokenizer()(PROMPTS)
    found = build_text_encoder(files, torch.float32)(ids, mask)
    encoder = gemma.GemmaTextEncoder(model=model, tokenizer=tokenizer(str(folder), 1024))
    for i, prompt in enumerate(PROMPTS):
        expected, expected_mask = encoder.encode(prompt)
        assert torch.equal(mask[i], expected_mask[0])
        for a, b in zip(found, expected):
            compare("Gemma hidden states, official encoder", a[i][mask[i] == 1], b[0][mask[i] == 1])


def test_padding_changes_only_the_rounding(folder, reading):
    files = open_text_encoder(folder)
    tokens = torch.tensor([files.tokenizer().tokens(PROMPTS[0])])
    short = build_text_encoder(files, torch.float32)(tokens, torch.ones_like(tokens))
    for a, b in zip(reading[0], short):
        assert relative_error(a[:1, -tokens.shape[1] :], b) < 1e-4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_one_file_as_comfyui_has_it_reads_like_the_folder(folder, tmp_path, dtype):
    state = rename(everything(folder), COMFYUI)
    state |= {"vision_model.post_layernorm.bias": torch.zeros(4), "multi_modal_projector.mm": torch.zeros(4)}
    save_file(state | {"spiece_model": embedded()}, tmp_path / "gemma.safetensors")
    assert same(read(tmp_path / "gemma.safetensors", dtype), read(folder, dtype))


@pytest.mark.parametrize("prefix", [*GEMMA.prefixes, "", "language_model.", "module.model."])
def test_every_layout_is_known(folder, reading, tmp_path, prefix):
    state = rename(everything(folder), prefix) | {"lm_head.weight": torch.zeros(4)}
    save_file(state | {"tokenizer_json": embedded("tokenizer.json").view(torch.int8)}, tmp_path / "gemma.safetensors")
    assert same(read(tmp_path / "gemma.safetensors"), reading)


def test_the_text_model_that_transformers_saves_by_itself_is_read(official, tmp_path):
    """It writes nothing before the names then."""
    model, folder = official
    model.model.language_model.save_pretrained(tmp_path)
    shutil.copy(folder / "tokenizer.json", tmp_path)
    assert same(read(tmp_path), read(folder))


def test_weights_stay_in_the_file(tmp_path):
    """No second copy: what needs no conversion is the memory map of the file itself."""
    files = open_text_encoder(TOKENIZER)
    encoder = build_text_encoder(files)
    for ours, key in files.names.items():
        assert encoder.get_parameter(ours).data_ptr() == files.file.get(key).data_ptr()
    assert encoder.model.embed_tokens.weight.dtype == torch.bfloat16


@pytest.mark.parametrize(("scale", "more"), [("weight_scale", "comfy_quant"), ("scale_weight", "scaled_fp8")])
def test_fp8_reads_like_its_expanded_weights(folder, reading, tmp_path, scale, more):
    plain = rename(everything(folder), COMFYUI) | {"spiece_model": embedded()}
    small, expanded = dict(plain), dict(plain)
    for key in [key for key in plain if "_proj.weight" in key or "embed_tokens" in key]:
        factor = plain[key].abs().max() / 448
        small[key] = (plain[key] / factor).to(torch.float8_e4m3fn)
        small[key.replace("weight", scale)] = factor
        expanded[key] = small[key].float() * factor
        if more == "comfy_quant":
            marker = bytearray(b'{"format": "float8_e4m3fn"}')
            small[key.replace("weight", more)] = torch.frombuffer(marker, dtype=torch.uint8).clone()
    if more == "scaled_fp8":
        small[more] = torch.zeros(0, dtype=torch.float8_e4m3fn)
    save_file(small, tmp_path / "small.safetensors")
    save_file(expanded, tmp_path / "expanded.safetensors")
    encoder = build_text_encoder(open_text_encoder(tmp_path / "small.safetensors"), torch.float32)
    assert sum(isinstance(module, Fp8Linear) for module in encoder.modules()) == 6 * 7
    found, mask = read(tmp_path / "small.safetensors")
    assert same((found, mask), read(tmp_path / "expanded.safetensors"))
    valid = mask == 1
    error = [((a - b)[valid].norm() / b[valid].norm()).item() for a, b in zip(found, reading[0])]
    assert min(error) > 0.005 and max(error) < 0.25  # random weights amplify what fp8 rounds


def test_the_full_size_is_that_of_gemma_12b():
    with torch.device("meta"):
        encoder = GemmaEncoder(GemmaConfig())
    shapes = {name: tuple(value.shape) for name, value in encoder.state_dict().items()}
    assert sum(math.prod(shape) for shape in shapes.values()) == 11_766_034_176
    assert GemmaConfig.from_shapes(shapes) == GemmaConfig()
    assert {GEMMA.ours(GEMMA.official(name), HF): shapes[name] for name in shapes} == shapes
    assert [i for i in range(48) if encoder.config.is_full(i)] == [5, 11, 17, 23, 29, 35, 41, 47]
    unseen = encoder.config  # what no shape shows
    assert (unseen.window, unseen.eps, unseen.attention_scalar) == (1024, 1e-6, 256)
    near, far = (unseen.frequencies(full)[1].item() for full in (False, True))
    assert (near, far) == (pytest.approx(1e4 ** (-2 / 256)), pytest.approx(1e6 ** (-2 / 256) / 8))


@pytest.mark.parametrize(
    ("sizes", "factor", "window", "scalar"),
    [
        ({"width": 640, "layers": 18, "hidden": 2048, "heads": 4, "kv_heads": 1}, 1.0, 512, 256),
        ({"width": 1152, "layers": 26, "hidden": 6912, "heads": 4, "kv_heads": 1}, 1.0, 512, 256),
        ({"width": 2560, "layers": 34, "hidden": 10240, "heads": 8, "kv_heads": 4}, 8.0, 1024, 256),
        ({"width": 5376, "layers": 62, "hidden": 21504, "heads": 32, "kv_heads": 16, "head_dim": 128}, 8.0, 1024, 168),
    ],
    ids=["270M", "1B", "4B", "27B"],
)
def test_of_other_sizes_is_known_what_no_shape_shows(sizes, factor, window, scalar):
    """As their config.json says: google/gemma-3-270m, -1b-it, -4b-it and -27b-it."""
    with torch.device("meta"):
        encoder = GemmaEncoder(GemmaConfig(**sizes))
    found = GemmaConfig.from_shapes({name: tuple(value.shape) for name, value in encoder.state_dict().items()})
    assert (found.rope_factor, found.window, found.attention_scalar) == (factor, window, scalar)
    assert (found.layers, found.heads, found.kv_heads) == (sizes["layers"], sizes["heads"], sizes["kv_heads"])


def test_configs_of_older_and_newer_transformers_say_the_same():
    older = {"num_hidden_layers": 7, "rope_theta": 5e5, "rope_local_base_freq": 2e4, "sliding_window_pattern": 3,
             "rope_scaling": {"rope_type": "linear", "factor": 4.0}, "hidden_size": 64}  # fmt: skip
    newer = {"num_hidden_layers": 7, "hidden_size": 64,
             "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
             "rope_parameters": {
                 "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5},
                 "sliding_attention": {"rope_type": "default", "rope_theta": 2e4}}}  # fmt: skip
    assert GemmaConfig.from_json(older) == GemmaConfig.from_json(newer)
    assert GemmaConfig.from_json(older).rope_factor == 4 and GemmaConfig.from_json(newer).full_every == 3
    assert GemmaConfig.from_json({"rope_scaling": None}).rope_factor == 1
    assert GemmaConfig.from_json({}) == GemmaConfig()


@torch.no_grad()
def test_every_setting_means_what_it_means_to_transformers():
    """Other windows, scales of scores and rotary tables than the usual ones, and padding, state by state."""
    transformers = pytest.importorskip("transformers")
    ours = GemmaConfig(layers=4, width=64, hidden=96, heads=4, kv_heads=2, head_dim=16, vocabulary=32,
                       attention_scalar=9, window=5, full_every=2, theta=5e3, local_theta=2e2, rope_factor=4.0,
                       eps=1e-3)  # fmt: skip
    theirs = transformers.Gemma3TextModel(transformers.Gemma3TextConfig(**ours.to_json())).eval()
    for parameter in theirs.parameters():
        parameter.copy_(torch.randn(parameter.shape) / math.sqrt(parameter.shape[-1]))
    encoder = ours.build()
    encoder.model.load_state_dict({name: theirs.state_dict()[name] for name in encoder.model.state_dict()})
    assert GemmaConfig.from_json(theirs.config.to_dict()) == ours
    ids, mask = torch.randint(3, 32, (3, 20)), torch.ones(3, 20, dtype=torch.int64)
    mask[0, :7] = mask[1, :19] = 0
    expected = theirs(ids, mask, output_hidden_states=True, use_cache=False).hidden_states
    for a, b in zip(encoder(ids, mask), expected, strict=True):
        assert a.isfinite().all()
        compare("Gemma 3 hidden states, unusual settings", a[mask == 1], b[mask == 1], 1e-5)


@pytest.mark.slow
def test_a_prompt_is_read_without_the_modelling_code_of_transformers():
    script = (
        "import sys; from ltx2_core.checkpoint.text_encoder import *; files = open_text_encoder(sys.argv[1]);"
        "build_text_encoder(files)(*files.tokenizer()(['x'])); sys.exit('transformers' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script, str(TOKENIZER)], cwd=Path(__file__).parents[3], check=True)


def copy(folder: Path, target: Path, without: str = "") -> Path:
    return Path(shutil.copytree(folder, target / "gemma", ignore=lambda _, names: [n for n in names if n == without]))


def make_pointer(file: Path) -> None:
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 33384568\n")


def test_a_missing_tokenizer_is_named(folder, tmp_path):
    folder = copy(folder, tmp_path, without="tokenizer.json")
    assert open_text_encoder(folder).tokenizer().tokens("")  # tokenizer.model serves as well
    (folder / "tokenizer.model").unlink()
    files = open_text_encoder(folder)
    with pytest.raises(FileNotFoundError, match=r"gemma has no tokenizer: no tokenizer.json or tokenizer.model lies"):
        files.tokenizer()
    (folder / "tokenizer").mkdir()
    shutil.copy(TOKENIZER / "tokenizer.json", folder / "tokenizer")
    assert files.tokenizer().tokens("")


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "model-00001-of-00002.safetensors"])
def test_a_git_lfs_pointer_is_named(folder, tmp_path, name):
    folder = copy(folder, tmp_path)
    name = sorted(folder.glob("*.safetensors"))[0].name if name.endswith("safetensors") else name
    make_pointer(folder / name)
    with pytest.raises(CheckpointError, match=rf"{name} is a git-LFS pointer.*git lfs pull"):
        files = open_text_encoder(folder)
        assert files.tokenizer() and files.config


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model", "config.json"])
def test_a_damaged_file_is_named(folder, tmp_path, name):
    folder = copy(folder, tmp_path, without="tokenizer.json" if name == "tokenizer.model" else "")
    (folder / name).write_bytes((folder / name).read_bytes()[:100])
    with pytest.raises(CheckpointError, match=rf"{name} .*download it again"):
        files = open_text_encoder(folder)
        assert files.tokenizer() and files.config


def damage(change: Callable[[dict], object]) -> Callable[[Path, Path], Path]:
    """A single file whose tensors were changed."""

    def make(folder: Path, target: Path) -> Path:
        state = rename(everything(folder), COMFYUI)
        change(state)
        save_file({key: value.contiguous() for key, value in state.items()}, target / "gemma.safetensors")
        return target / "gemma.safetensors"

    return make


def without_shard(folder: Path, target: Path) -> Path:
    return copy(folder, target, without=sorted(folder.glob("*.safetensors"))[0].name)


def another_kind(folder: Path, target: Path) -> Path:
    folder = copy(folder, target)
    (folder / "config.json").write_text(json.dumps({"model_type": "gemma2", "hidden_size": 64}))
    return folder


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (damage(lambda s: s.pop("model.layers.3.mlp.up_proj.weight")), r"lacks tensors: .*layers\.3\.mlp\.up_proj"),
        (damage(lambda s: s.pop("model.embed_tokens.weight")), r"lacks embed_tokens\.weight"),
        (damage(lambda s: s.pop("model.norm.weight")), r"lacks tensors: language_model\.model\.norm\.weight"),
        (damage(lambda s: s.update({"t5.weight": torch.zeros(2)})), r"not a Gemma 3 that we know: it has t5\.weight"),
        (damage(lambda s: s.update({"model.layers.2.mlp.up_proj.weight": torch.zeros(2, 3)})), r"is \(2, 3\) and shou"),
        (damage(lambda s: [s.pop(k) for k in list(s) if "post_feed" in k]), r"not a Gemma 3 or Gemma 4 text encoder"),
        (damage(lambda s: s.update({"model.layers.0.layer_scalar": torch.ones(1)})),
         r"lacks tensors: model\.layers\.1\.layer_scalar"),
        (damage(lambda s: s.update({"model.layers.1.mlp.up_proj.comfy_quant": torch.frombuffer(
            bytearray(b'{"format": "nvfp4"}'), dtype=torch.uint8)})), r"up_proj.weight is marked as nvfp4"),
        (without_shard, r"lacks model-00001-of-\d+\.safetensors, which model\.safetensors\.index\.json names"),
        (another_kind, r"is that of gemma2\. LTX-2\.0 and 2\.3 read prompts with Gemma 3 12B"),
        (lambda _, target: target, r"No \.safetensors file is in"),
        (lambda _, target: target / "nothing", r"There is no file"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(folder, tmp_path, make, sentence):
    with pytest.raises((FileNotFoundError, ValueError), match=sentence):
        build_text_encoder(open_text_encoder(make(folder, tmp_path)))


@torch.no_grad()
def test_contexts_of_the_miniature_are_the_official_ones(caplog):
    """Prompts to contexts with trained weights of version 2.0, every part against its official counterpart."""
    gemma = pytest.importorskip("ltx_core.text_encoders.gemma")
    official = pytest.importorskip("ltx_core.text_encoders.gemma.encoders.encoder_configurator")
    extractors = pytest.importorskip("ltx_core.text_encoders.gemma.feature_extractor")
    tokenizer = pytest.importorskip("ltx_core.text_encoders.gemma.tokenizer").LTXVGemmaTokenizer
    transformers = pytest.importorskip("transformers")

    file = TensorFile(MINIATURE / "ltx2-mini.safetensors")
    section = file.config["transformer"]
    tables = {table: table.prefixes[0] for table in (TEXT_FEATURES, VIDEO_CONNECTOR, AUDIO_CONNECTOR)}
    state = [
        {table.ours(key, prefix): file.get(key).float() for key in file.entries if table.knows(key, prefix)}
        for table, prefix in tables.items()
    ]
    features = TextFeatures(TextFeaturesConfig.from_json(section, {k: tuple(v.shape) for k, v in state[0].items()}))
    connectors = [Connector(ConnectorConfig.from_json(section, stream)) for stream in ("video", "audio")]
    for module, values in zip((features, *connectors), state):
        module.load_state_dict(values)

    processor = gemma.EmbeddingsProcessor(
        feature_extractor=extractors.FeatureExtractorV1(features.both, is_av=True),
        video_connector=official.Embeddings1DConnectorConfigurator.from_config({"transformer": section}),
        audio_connector=official.AudioEmbeddings1DConnectorConfigurator.from_config({"transformer": section}),
    )
    for stream, table, values in zip(("video", "audio"), (VIDEO_CONNECTOR, AUDIO_CONNECTOR), state[1:]):
        prefix = f"model.diffusion_model.{stream}_embeddings_connector."
        theirs = {table.official(name).removeprefix(prefix): value for name, value in values.items()}
        processor.get_submodule(f"{stream}_connector").float().load_state_dict(theirs)
    model = transformers.Gemma3ForConditionalGeneration.from_pretrained(TOKENIZER, dtype=torch.float32)
    theirs = gemma.GemmaTextEncoder(model=model, tokenizer=tokenizer(str(TOKENIZER), 1024))

    files = open_text_encoder(TOKENIZER)
    with caplog.at_level(logging.ERROR):
        found = encode_prompts(build_text_encoder(files, torch.float32), files.tokenizer(), features, PROMPTS)
    for prompt, each in zip(PROMPTS, found):
        assert each.joined().shape[1] == len(files.tokenizer().tokens(prompt))
        expected = processor.process_hidden_states(*theirs.encode(prompt))
        contexts = connect(each, *connectors)
        compare("prompt to contexts, miniature (video)", contexts.video, expected.video_encoding)
        compare("prompt to contexts, miniature (audio)", contexts.audio, expected.audio_encoding)
