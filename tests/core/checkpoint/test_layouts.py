"""Files that name their tensors otherwise, files in the wrong place, and several files that hold the same part."""

import json
import logging
import re
import shutil
from functools import cache
from pathlib import Path

import golden
import pytest
import tiny_parts
import torch
from diffusers_parts import transformer_and_connectors
from safetensors.torch import load_file, save_file

from ltx2_core.checkpoint import CheckpointError, TensorFile, build, open_models
from ltx2_core.checkpoint.belonging import find_text_encoder
from ltx2_core.checkpoint.components import COMPONENTS
from ltx2_core.checkpoint.convert import convert
from ltx2_core.checkpoint.keys.layouts import LAYOUTS, official_names
from ltx2_core.checkpoint.models import sources_in
from ltx2_core.checkpoint.text_encoder import build_text_encoder, open_text_encoder
from ltx2_core.checkpoint.upscaler import BUILT_IN as UPSCALER
from ltx2_core.checkpoint.upscaler import open_upscaler
from ltx2_core.checkpoint.versions import VERSIONS
from ltx2_core.cli.inspect import inspect
from ltx2_core.errors import MissingFileError
from ltx2_core.lora import open_lora

pytestmark = pytest.mark.slow

PREFIX = "model.diffusion_model."
MINI = UPSCALER.parent


@pytest.fixture(scope="module")
def whole(tiny_files) -> dict[str, Path]:
    return {version: tiny_files(version)[0] for version in VERSIONS}


@cache
def content(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of one of the whole files, read once."""
    return load_file(path)


@cache
def official(path: Path, name: str) -> dict[str, torch.Tensor]:
    """The weights of a network of one of the whole files, built once."""
    return build(open_models(path), name).state_dict()


def part(source: Path, target: Path, *begins: str, strip: str = "", rename=str, metadata=True, **changes) -> Path:
    """The tensors of a file whose names begin like this, under other names."""
    tensors = {rename(k.removeprefix(strip)): v for k, v in content(source).items() if k.startswith(begins)}
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors | changes, target, TensorFile(source).metadata if metadata else {})
    return target


def assert_same(models, path, names):
    for name in names:
        ours, theirs = build(models, name).state_dict(), official(path, name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name


BARE = {
    "transformer": (PREFIX, PREFIX, ("transformer", "video_connector", "audio_connector")),
    "video_vae": ("vae.", "vae.", ("video_encoder", "video_decoder")),
    "audio_vae": ("audio_vae.", "audio_vae.", ("audio_encoder", "audio_decoder")),
    "vocoder": ("vocoder.", "vocoder.", ("vocoder",)),
    "projection": ("text_embedding_projection.", "text_embedding_projection.", ("text_features",)),
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", BARE)
def test_a_file_of_one_part_without_prefix_is_read_as_that_part(whole, tmp_path, version, name):
    begin, strip, components = BARE[name]
    bare = part(whole[version], tmp_path / "bare.safetensors", begin, strip=strip)
    models = open_models(bare)
    assert {*models.sources} == {*components} and not models.unknown(models.files[0])
    assert_same(models, whole[version], components)


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: f"pipe.dit.{name}",
        lambda name: f"model.diffusion_model.module.{name}",
        lambda name: f"base_model.model.{name}",
        lambda name: f"_orig_mod.{name}",
        lambda name: re.sub(r"(_blocks\.\d+\.)", r"\1_orig_mod._checkpoint_wrapped_module.", name),
    ],
)
def test_a_transformer_is_read_whatever_its_trainer_has_around_it(whole, tmp_path, rename):
    source = whole["2.3"]
    wrapped = part(source, tmp_path / "x.safetensors", PREFIX, strip=PREFIX, rename=rename)
    models = open_models(wrapped)
    assert not models.unknown(models.files[0])
    assert_same(models, source, ("transformer", "video_connector", "audio_connector"))
    assert "cannot be read" not in inspect(wrapped)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("prefix", ["first_stage_model.", "model.", "vae.", "pipe.vae.module."])
@pytest.mark.parametrize("name", ["video_vae", "audio_vae"])
def test_a_vae_is_read_whatever_its_program_has_around_it(whole, tmp_path, version, prefix, name):
    begin, strip, components = BARE[name]
    models = open_models(part(whole[version], tmp_path / "x.safetensors", begin, strip=strip, rename=prefix.__add__))
    assert {*models.sources} == {*components} and not models.unknown(models.files[0])
    assert_same(models, whole[version], components)


def test_connectors_alone_are_read_behind_each_prefix(whole, tmp_path):
    tensors = {key: value for key, value in content(whole["2.3"]).items() if "embeddings_connector" in key}
    for prefix in ("model.diffusion_model.", "diffusion_model.", "transformer.", ""):
        path = tmp_path / "connectors.safetensors"
        save_file({key.replace("model.diffusion_model.", prefix, 1): value for key, value in tensors.items()}, path)
        assert {*dict(sources_in(TensorFile(path)))} == {"video_connector", "audio_connector"}
    save_file({key.replace("model.", "net.", 1): value for key, value in tensors.items()}, path)
    with pytest.raises(CheckpointError, match="under names or of a generation that are not known here"):
        open_models([whole["2.3"], path])


@pytest.mark.parametrize("first, second", [("audio_vae", "video_vae"), ("video_vae", "audio_vae")])
def test_bare_files_do_not_take_each_others_place(whole, tmp_path, first, second):
    paths = []
    for name in (first, second):
        begin, strip, _ = BARE[name]
        paths.append(part(whole["2.3"], tmp_path / f"{name}.safetensors", begin, strip=strip))
    models = open_models(paths)
    for name, (_, _, components) in BARE.items():
        if name in (first, second):
            assert {models.source(each).file.path.stem for each in components} == {name}


@pytest.mark.parametrize("lost", ["vocoder.bwe_generator.conv_pre.weight", "vae.decoder.conv_in.conv.bias"])
def test_a_part_that_lacks_a_tensor_is_refused_by_its_header(whole, tmp_path, lost):
    """So a plan says it; it was said when that part was built, which for decoders is after sampling."""
    state = dict(content(whole["2.3"]))
    del state[lost]
    save_file(state, tmp_path / "x.safetensors", TensorFile(whole["2.3"]).metadata)
    name = "vocoder" if lost.startswith("vocoder") else "video_decoder"
    with pytest.raises(CheckpointError, match=rf"lacks tensors: {re.escape(lost)}"):
        open_models(tmp_path / "x.safetensors").network(name)


def test_a_fine_tune_without_prefix_counts_before_the_full_checkpoint(whole, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    tuned = tmp_path / "model_weights_step_01000.safetensors"
    tensors = {
        key.removeprefix(PREFIX): torch.zeros_like(value)
        for key, value in content(whole["2.3"]).items()
        if key.startswith(f"{PREFIX}transformer_blocks.") or (key.startswith(PREFIX) and "connector" not in key)
    }
    save_file(tensors, tuned)
    models = open_models([tuned, whole["2.3"]])
    assert not build(models, "transformer").state_dict()["video.project_in.weight"].any()
    assert models.source("video_connector").file.path == whole["2.3"]
    said = caplog.text
    assert f"{whole['2.3'].name} also holds what is not used: transformer ({tuned.name} counts)" in said


@pytest.mark.parametrize("names", [("video", "audio"), ("latent_tensor", "latent_format_version_0")])
def test_a_latent_is_no_model(tmp_path, names):
    """Nor is what was kept of a prompt, which has the same names."""
    save_file({name: torch.ones(2) for name in names}, tmp_path / "x.safetensors")
    for look in (open_models, inspect, open_lora, open_text_encoder):
        with pytest.raises(CheckpointError, match=r"x\.safetensors is .*a latent, or what was kept of a prompt"):
            look(tmp_path / "x.safetensors")


def test_a_whole_file_that_processes_shared_is_read(whole, tmp_path):
    wrapped = part(whole["2.3"], tmp_path / "x.safetensors", "", rename="module.".__add__)
    models = open_models(wrapped)
    assert {*models.sources} == {*open_models(whole["2.3"]).sources} and not models.unknown(models.files[0])
    assert_same(models, whole["2.3"], ("transformer", "text_features", "vocoder"))


def test_a_file_of_which_nothing_is_used_is_told(whole, tmp_path, caplog):
    copy = part(whole["2.0"], tmp_path / "copy.safetensors", "vocoder.")
    open_models([whole["2.0"], copy])
    assert "Nothing of copy.safetensors is used" in caplog.text


def test_the_parts_own_input_gives_that_part_and_no_other(whole, tmp_path):
    other = part(whole["2.0"], tmp_path / "other.safetensors", "")
    models = open_models(whole["2.0"], video_vae=other)
    from_other = {name for name, source in models.sources.items() if source.file.path == other}
    assert from_other == {"video_encoder", "video_decoder"}
    vocoder = part(whole["2.0"], tmp_path / "vocoder.safetensors", "vocoder.")
    with pytest.raises(CheckpointError, match=r"vocoder\.safetensors has no video encoder.*it holds vocoder"):
        open_models(whole["2.0"], video_vae=vocoder)


def test_of_a_set_without_its_transformer_that_is_missing(tmp_path):
    """And not the connectors, which are asked for first and lie in the same file."""
    transformer, encoder, *vaes = tiny_parts.write_split(tmp_path)
    with pytest.raises(CheckpointError, match="have no transformer; choose the file that holds it as checkpoint in"):
        open_models(vaes, encoder).source("video_connector")
    with pytest.raises(CheckpointError, match=r"-transformer\.safetensors has no video decoder"):
        open_models(transformer).source("video_decoder")


# -- As ComfyUI saves them, and whole models with their text encoder ---------------------------------------------------

SAVED = {
    "CheckpointSave": ("text_encoders.gemma3_12b.transformer.", "text_encoders."),
    "CLIPSave": ("gemma3_12b.transformer.", ""),
    "a merge by hand": ("", ""),
}


@pytest.fixture(params=SAVED)
def all_in_one(request, whole, tiny_files, tmp_path) -> Path:
    """A model of 2.3 and its Gemma in one file."""
    tokenizer, (model, outside) = "spiece_model", SAVED[request.param]
    gemma = load_file(tiny_files("2.3")[2])
    state = content(whole["2.3"]) | {f"{outside}{tokenizer}": gemma.pop(tokenizer)}
    state |= {f"{model}{key}": value for key, value in gemma.items()}
    if model:
        state[f"{model.removesuffix('transformer.')}logit_scale"] = torch.ones(())
    path = tmp_path / "all-in-one.safetensors"
    save_file(state, path, TensorFile(whole["2.3"]).metadata)
    return path


def test_the_text_encoder_inside_a_whole_model_is_the_models_own(whole, tiny_files, all_in_one):
    models = open_models(all_in_one)
    assert not models.missing and models.text_encoder == all_in_one and not models.unknown(models.files[0])
    assert_same(models, whole["2.3"], models.sources)
    assert find_text_encoder(models, []) == all_in_one
    inside, alone = map(open_text_encoder, (all_in_one, tiny_files("2.3")[2]))
    assert inside.tokenizer().tokens("a red ball") == alone.tokenizer().tokens("a red ball")
    theirs = build_text_encoder(alone).state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in build_text_encoder(inside).state_dict().items())
    assert "text_encoder " in inspect(all_in_one) and "needs: nothing else" in inspect(all_in_one)


def test_a_whole_model_with_its_text_encoder_stays_one_beside_other_files(whole, tiny_files, all_in_one, tmp_path):
    vae = part(whole["2.3"], tmp_path / "vae.safetensors", "vae.")
    models = open_models([vae, all_in_one])
    assert models.source("transformer").file.path == all_in_one and models.source("video_decoder").file.path == vae
    assert open_models([all_in_one], tiny_files("2.3")[1]).text_encoder == tiny_files("2.3")[1]
    convert(all_in_one, tmp_path / "small.safetensors", "fp8", [])
    small = TensorFile(tmp_path / "small.safetensors")
    assert "fp8" in small.formats(key for key in small.entries if key.startswith(PREFIX))
    assert "fp8" not in small.formats(key for key in small.entries if "mlp" in key)


def test_unknown_tensors_beside_a_text_encoder_are_told_all_the_same(all_in_one):
    save_file(load_file(all_in_one) | {f"{PREFIX}odd.weight": torch.ones(2)}, all_in_one,
              TensorFile(all_in_one).metadata)  # fmt: skip
    assert "not known here   model.diffusion_model.odd.weight\n" in inspect(all_in_one)
    with pytest.raises(CheckpointError, match=r"has unknown tensors: model\.diffusion_model\.odd\.weight"):
        open_models(all_in_one).network("transformer")


def test_an_audio_vae_that_comfyui_saved_is_read(whole, tmp_path):
    saved = part(
        whole["2.3"], tmp_path / "saved.safetensors", "audio_vae.", "vocoder.", metadata=False,
        rename=lambda key: key.replace("audio_vae.", "autoencoder.", 1),
    )  # fmt: skip
    models = open_models(whole["2.3"], audio_vae=saved)
    assert models.source("audio_decoder").file.path == saved and not models.unknown(models.files[1])
    assert_same(models, whole["2.3"], ("audio_encoder", "audio_decoder", "vocoder"))


@pytest.fixture(scope="module")
def split(tmp_path_factory) -> list[Path]:
    """A model of 2.5 in its parts."""
    return tiny_parts.write_split(tmp_path_factory.mktemp("split"))


def test_a_video_vae_of_2_3_goes_with_2_5_whose_latents_it_has(whole, split, tmp_path):
    vae = part(whole["2.3"], tmp_path / "vae.safetensors", "vae.")
    models = open_models(split, video_vae=vae)
    assert models.version == "2.5" and models.source("video_decoder").file.path == vae
    assert_same(models, whole["2.3"], ("video_encoder", "video_decoder"))
    assert open_models(vae).version == "2.3" and open_models(models.source("transformer").file.path).version == "2.5"
    for other, begin in (("2.0", "vae."), ("2.3", "vocoder."), ("2.3", ("vae.", "vocoder."))):
        wrong = part(whole[other], tmp_path / "wrong.safetensors", *([begin] if isinstance(begin, str) else begin))
        with pytest.raises(CheckpointError, match=rf"do not belong together: .*wrong\.safetensors is LTX-{other}"):
            open_models([*split, wrong])


# -- In the wrong place ------------------------------------------------------------------------------------------------

FOREIGN = {
    "flux": ({"double_blocks.0.img_attn.qkv.weight": torch.ones(1)}, "Flux"),
    "t5": ({"encoder.block.0.layer.0.SelfAttention.q.weight": torch.ones(1)}, "T5"),
    "sdxl": (
        {"model.diffusion_model.input_blocks.0.0.weight": torch.ones(1)}
        | {"conditioner.embedders.0.transformer.text_model.encoder.layers.0.mlp.fc1.weight": torch.ones(1)},
        "Stable Diffusion",
    ),
    "ae": ({"decoder.up.0.block.0.conv1.weight": torch.ones(1)}, "a VAE of another model"),
    "lokr": ({"lora_unet_x.lokr_w1": torch.ones(1)}, "is a LoRA.*--lora"),
    "unknown": ({"weight": torch.ones(1)}, "weight"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_file_beside_a_checkpoint_is_refused_by_what_it_is(whole, tmp_path, name):
    tensors, words = FOREIGN[name]
    save_file(tensors, tmp_path / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match=rf"{name}\.safetensors .*{words}"):
        open_models([whole["2.0"], tmp_path / f"{name}.safetensors"])


def test_loras_upscalers_and_gemma_are_named_with_their_place(whole, tiny_files):
    lora = sorted((MINI / "loras").glob("*.safetensors"))[0]
    gemma = tiny_files("2.0")[2]
    for path, words in ((lora, "LoRA.*--lora"), (UPSCALER, "upscaler.*--upscaler"), (gemma, "Gemma.*--text-encoder")):
        among = [] if path == gemma else [[whole["2.0"], path], [path, whole["2.0"]]]
        for files in (*among, [path]):
            with pytest.raises(CheckpointError, match=f"{path.name} is a .*{words}"):
                open_models(files)
    assert open_models([gemma, whole["2.0"]]).text_encoder == gemma


# -- diffusers ---------------------------------------------------------------------------------------------------------


def diffusers_state(version: str) -> dict[str, dict[str, tuple[int, ...]]]:
    """Names and shapes of what diffusers has in each subfolder."""
    import diffusers
    from diffusers.pipelines.ltx2 import vocoder

    new = version != "2.0"
    networks = transformer_and_connectors(version)
    with torch.device("meta"):
        networks |= {
            "audio_vae": diffusers.AutoencoderKLLTX2Audio(),
            "vocoder": (vocoder.LTX2VocoderWithBWE if new else vocoder.LTX2Vocoder)(),
        }
        if not new:
            networks["vae"] = diffusers.AutoencoderKLLTX2Video()
    return {name: {k: tuple(v.shape) for k, v in net.state_dict().items()} for name, net in networks.items()}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_tensor_of_a_folder_of_diffusers_has_its_official_name(version):
    pytest.importorskip("diffusers.pipelines.ltx2.vocoder")
    kinds = {"vae": "video_vae", "audio_vae": "audio_vae", "vocoder": "vocoder"}
    for folder, shapes in diffusers_state(version).items():
        official = {name: shapes[key] for name, key in official_names(shapes).items()}
        if folder == "vae":
            assert official_names({f"pipe.vae.{key}": shape for key, shape in shapes.items()}).keys() == official.keys()
        known = golden.key_list(kinds.get(folder, "transformer_text"), version)
        for name, shape in official.items():
            assert known[name] == shape, (folder, name)
            assert any(component.claims(name) for component in COMPONENTS.values())
        components = {name: component.find(official) for name, component in COMPONENTS.items()}
        for name, found in components.items():
            whole = COMPONENTS[name].find(known)
            assert found is None or found[1].keys() == whole[1].keys(), name


def inverse(layout_mark: str) -> dict[str, str]:
    """Official pattern to file pattern of a layout."""
    layout = next(each for each in LAYOUTS if layout_mark in each.marks)
    return {str(official): name for name, official in layout.keys.rows.items()}


def as_diffusers(official: str, mark: str) -> str:
    """What a folder of diffusers calls a tensor; of names without their own it keeps the official one."""
    for pattern, name in inverse(mark).items():
        if found := re.fullmatch(re.escape(pattern).replace(r"\{\}", r"(\d+)"), official):
            return name.format(*found.groups())
    return official


def write_diffusers(source: Path, folder: Path) -> Path:
    """A model as diffusers has it, but with the small config of a miniature in the headers."""
    marks = {"transformer": "time_embed.linear.bias", "connectors": "video_connector.learnable_registers"}
    marks |= {"vocoder": "bwe_generator.upsamplers.0.bias"}
    begins = {"transformer": (PREFIX,), "connectors": (PREFIX, "text_"), "vocoder": ("vocoder.",)}
    whole, metadata = load_file(source), TensorFile(source).metadata
    for name, mark in marks.items():
        mine = {k: v for k, v in whole.items() if k.startswith(begins[name])}
        if name in ("transformer", "connectors"):
            mine = {
                k: v for k, v in mine.items() if ("connector" in k or k.startswith("text_")) == (name != "transformer")
            }
        tensors = {as_diffusers(key, mark): value for key, value in mine.items()}
        (folder / name).mkdir(parents=True)
        names = sorted(tensors)
        halves = [names[: len(names) // 2], names[len(names) // 2 :]] if name == "transformer" else [names]
        files = [f"diffusion_pytorch_model-{n}.safetensors" for n in range(len(halves))]
        for file, half in zip(files, halves):
            save_file({each: tensors[each] for each in half}, folder / name / file, metadata)
        if len(halves) > 1:
            index = {"weight_map": {each: file for file, half in zip(files, halves) for each in half}}
            (folder / name / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    part(source, folder / "audio_vae" / "diffusion_pytorch_model.safetensors", "audio_vae.", strip="audio_vae.",
         rename=lambda key: {"per_channel_statistics.mean-of-means": "latents_mean",
                             "per_channel_statistics.std-of-means": "latents_std"}.get(key, key))  # fmt: skip
    return folder


def test_a_folder_of_diffusers_is_a_model(whole, tmp_path, tiny_files):
    folder = write_diffusers(whole["2.3"], tmp_path / "LTX-2.3")
    (folder / "text_encoder").mkdir()
    models = open_models(folder)
    assert models.version == "2.3" and models.text_encoder == folder / "text_encoder"
    assert {*models.missing} == {"video_encoder", "video_decoder"}
    assert_same(models, whole["2.3"], models.sources)
    (alone,) = open_models(folder / "audio_vae").files
    assert {*open_models(alone.path).sources} == {"audio_encoder", "audio_decoder"}


def without_headers(folder: Path) -> None:
    for path in folder.glob("[tc]*/*.safetensors"):
        tensors = {key: value.clone() for key, value in load_file(path).items()}
        path.unlink()  # which they may lie in
        save_file(tensors, path)
    sizes = {"num_attention_heads": 2, "attention_head_dim": 16}
    audio = {"audio_num_attention_heads": 2, "audio_attention_head_dim": 8, "audio_cross_attention_dim": 16}
    transformer = sizes | audio | {"num_layers": 2, "cross_attention_dim": 32, "rope_type": "split"}
    both = {f"{stream}_connector_{name}": value for stream in ("video", "audio") for name, value in sizes.items()}
    connectors = both | {"audio_connector_attention_head_dim": 8, "video_connector_num_layers": 1}
    for name, kind, config in (("transformer", "LTX2VideoTransformer3DModel", transformer),
                               ("connectors", "LTX2TextConnectors", connectors)):  # fmt: skip
        (folder / name / "config.json").write_text(json.dumps({"_class_name": kind} | config))


def test_the_configs_of_diffusers_are_read_where_headers_have_none(whole, tmp_path):
    """Heads cannot be seen in the shapes of tensors."""
    folder = write_diffusers(whole["2.3"], tmp_path / "LTX-2.3")
    without_headers(folder)
    models, names = open_models(folder), ("transformer", "video_connector", "audio_connector")
    assert_same(models, whole["2.3"], {name: models.sources[name] for name in names})


@pytest.mark.parametrize("field, value, said", [
    ("num_layers", 3, "lacks tensors"), ("audio_attention_head_dim", 16, "wrongly shaped"),
    ("num_attention_heads", "two", "num_attention_heads"),
])  # fmt: skip
def test_a_config_of_diffusers_that_does_not_fit_its_tensors_is_told(whole, tmp_path, field, value, said):
    folder = write_diffusers(whole["2.3"], tmp_path / "LTX-2.3")
    without_headers(folder)
    path = folder / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(CheckpointError, match=said):
        build(open_models(folder), "transformer")


def test_inspect_names_the_parts_of_a_folder_of_diffusers(whole, tmp_path):
    folder = write_diffusers(whole["2.3"], tmp_path / "LTX-2.3")
    said = inspect(folder)
    assert all(word in said for word in ("transformer", "video_connector", "vocoder", "audio_decoder"))
    alone = inspect(folder / "audio_vae")
    assert "audio_decoder" in alone.split("needs:")[0] and "video_decoder" not in alone.split("needs:")[0]


def test_a_part_of_what_was_expected_is_not_sent_where_it_was_chosen(tiny_files, tmp_path):
    """A shard under another name, and an upscaler of another kind."""
    gemma = {key: value for key, value in load_file(tiny_files("2.3")[2]).items() if "layers.1." in key}
    odd = load_file(UPSCALER) | {"upsampler.gate.weight": torch.ones(2)}
    for tensors, opened in ((gemma, open_text_encoder), (odd, open_upscaler)):
        save_file(tensors, tmp_path / "x.safetensors")
        with pytest.raises(CheckpointError, match="looks like a part of one, or like one of") as told:
            opened(tmp_path / "x.safetensors")
        assert "choose it in" not in str(told.value)


def test_inspect_tells_of_the_one_file_in_a_folder_of_its_own(tmp_path):
    """As libraries write an upscaler, or a LoRA with its settings."""
    for name, source in (("latent_upsampler", UPSCALER), ("style", next((MINI / "loras").glob("*.safetensors")))):
        (tmp_path / name).mkdir()
        copy = shutil.copy(source, tmp_path / name)
        assert inspect(tmp_path / name) == inspect(copy)


def test_a_folder_of_several_models_says_which_file_does_not_belong(tiny_files, tmp_path):
    (tmp_path / "gemma.safetensors").write_bytes(tiny_files("2.3")[2].read_bytes())
    save_file({"text_model.encoder.layers.0.mlp.fc1.weight": torch.ones(2, 2)}, tmp_path / "clip_l.safetensors")
    with pytest.raises(
        CheckpointError, match=r"files of other models, too, such as clip_l\.safetensors: choose the file"
    ):
        _ = open_text_encoder(tmp_path).names


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("mmproj.gguf", "gemma-Q4_K_M.gguf"), "choose the file gemma-Q4_K_M.gguf in it"),
        (("._x.gguf", "gemma/model.safetensors"), "choose the folder gemma in it"),
        (("snapshots/0f/model.safetensors", "config.json"), "choose the folder snapshots.0f in it"),
        (("pytorch_model.bin",), "pytorch_model.bin there is a pickle"),
        (("model-00001-of-00002.safetensors.incomplete",), "safetensors.incomplete there is a download that is not"),
        ((), "choose the folder with Gemma's weights"),
    ],
)
def test_a_folder_without_safetensors_says_what_to_choose_in_it(tmp_path, names, said):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(MissingFileError, match=said):
        open_text_encoder(tmp_path)


def test_a_folder_without_weights_is_told(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingFileError, match=r"No \.safetensors file is in .*empty"):
        open_models(tmp_path / "empty")


# -- Dev or distilled --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, distilled",
    [
        ("ltx-2-19b-distilled", True),
        ("ltx-2-19b-dev", False),
        ("ltx-2.3-dev-not-distilled", False),
        ("mine-undistilled", False),
        ("nano-distilled", True),
        ("LTX2_Distill_v1", True),
        ("ltx2.5_distil_fp8", True),
        ("ltx-2.5-turbo-Q4_K_M", True),
        ("distilled/ltx-2-19b", True),
        ("distilled/ltx-2-19b-dev", False),
        ("dev/ltx-2-distilled-v2", True),
        ("developers/ltx2", False),
    ],
)
def test_names_tell_distilled_models_and_a_person_decides(whole, tmp_path, name, distilled, caplog):
    caplog.set_level(logging.INFO)
    path = part(whole["2.0"], tmp_path / "models" / f"{name}.safetensors", "model.")
    assert open_models(path).distilled is distilled
    assert f"Taken as LTX-2.0 {'distilled' if distilled else 'dev'}" in caplog.text
    assert open_models(path, distilled=not distilled).distilled is not distilled
