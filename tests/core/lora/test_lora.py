"""LoRA files of all trainers: which layers they mean, and how well they fit a model."""

import json
import re
from contextlib import nullcontext
from pathlib import Path

import golden
import pytest
import torch
from diffusers_parts import transformer_and_connectors
from safetensors.torch import save_file

from ltx2_core.__main__ import main
from ltx2_core.checkpoint import CheckpointError, TensorFile, open_models
from ltx2_core.checkpoint.components import COMPONENTS
from ltx2_core.checkpoint.files import Entry
from ltx2_core.checkpoint.keys.layouts import diffusers_name
from ltx2_core.lora import Strengths, compare, open_lora
from ltx2_core.lora.names import STREAMS, find_parameter
from ltx2_core.lora.parse import read_lora
from ltx2_core.lora.report import compare_with_release
from ltx2_core.lora.stack import reference_scale

VERSIONS = ("2.0", "2.3")
PREFIX = "model.diffusion_model."
_WISHES = "reference_downscale_factor", "reference_temporal_scale_factor"


def tensors(version: str) -> dict[str, tuple[int, ...]]:
    """Names, without their prefix, and shapes of all that a LoRA may change."""
    return {key.removeprefix(PREFIX): shape for key, shape in golden.key_list("transformer_text", version).items()}


def linears(version: str) -> dict[str, tuple[int, ...]]:
    """The same of linear layers, without ".weight"."""
    return {
        key.removesuffix(".weight"): shape
        for key, shape in tensors(version).items()
        if key.endswith(".weight") and len(shape) == 2
    }


def ours(name: str) -> tuple[str, str]:
    """What the tables for checkpoints say."""
    for component, each in COMPONENTS.items():
        for key in (PREFIX + name, name):
            if found := each.find([key]):
                return component, next(iter(found[1]))
    raise KeyError(name)


class Header(TensorFile):
    """A file of which there is only the header."""

    def __init__(self, shapes: dict[str, tuple[int, ...]], name: str = "lora.safetensors", **metadata: str):
        self.path, self.metadata = Path(name), metadata
        self.entries = {key: Entry("BF16", shape, 0) for key, shape in shapes.items()}


def low_rank(layers: dict[str, tuple[int, ...]], rank: int = 4, prefix: str = "diffusion_model.") -> dict:
    """Names and shapes as the official trainer writes them."""
    return {f"{prefix}{name}.lora_A.weight": (rank, shape[1]) for name, shape in layers.items()} | {
        f"{prefix}{name}.lora_B.weight": (shape[0], rank) for name, shape in layers.items()
    }


# -- Names -------------------------------------------------------------------------------------------------------------

NAMINGS = {
    "official, ComfyUI": lambda name: f"diffusion_model.{name}",
    "checkpoint": lambda name: f"model.diffusion_model.{name}",
    "bare": lambda name: name,
    "PEFT": lambda name: f"base_model.model.{name}",
    "diffusers": lambda name: f"transformer.{diffusers_name(name)}",
    "diffusers connectors": lambda name: f"connectors.{diffusers_name(name)}",
    "kohya": lambda name: "lora_unet_" + name.replace(".", "_"),
    "musubi": lambda name: "lora_unet_model_" + name.replace(".", "_"),
    "LyCORIS": lambda name: "lycoris_" + name.replace(".", "_"),
    "LyCORIS on diffusers": lambda name: "lycoris_" + diffusers_name(name).replace(".", "_"),
    "OneTrainer": lambda name: f"lora_transformer.{diffusers_name(name)}",
    "compiled": lambda name: f"base_model.model._orig_mod.{name}",
    "blocks compiled": lambda name: "dit." + re.sub(r"(_blocks\.\d+\.)", r"\1_orig_mod.", name),
    "wrapped": lambda name: (
        "dit._fsdp_wrapped_module."
        + re.sub(r"(_blocks\.\d+\.)", r"\1_fsdp_wrapped_module._checkpoint_wrapped_module.", name)
    ),
    "ltx-core": lambda name: f"velocity_model.{name}",
    "shared by processes": lambda name: f"module.{diffusers_name(name)}",
    "DiffSynth, as it trains": lambda name: f"pipe.dit.{name}",
    "a distilled student": lambda name: f"generator.model.{name}",
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.sample(6)
def test_every_linear_layer_is_found_in_every_naming(version, naming):
    names = linears(version)
    found = {name: find_parameter(f"{NAMINGS[naming](name)}.weight") for name in names}
    assert found == {name: ours(f"{name}.weight") for name in names}
    assert len(set(found.values())) == len(names) == {"2.0": 1395, "2.3": 1774}[version]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_tensor_is_found_by_the_name_that_diffusers_gives_it(version):
    networks = transformer_and_connectors(version)
    shapes = {
        find_parameter(f"{prefix}.{name}"): tuple(value.shape)
        for prefix, network in networks.items()
        for name, value in network.named_parameters()
    }
    assert shapes == {ours(name): shape for name, shape in tensors(version).items()}


def test_foreign_names_are_not_found():
    for name in (
        "transformer.single_transformer_blocks.0.attn.to_q",
        "diffusion_model.double_blocks.0.img_attn.qkv",
        "transformer_blocks.0.attn3.to_q",
        "lora_te_text_model_encoder_layers_0_mlp_fc1",
        "audio_unheard_of.proj_out",
    ):
        assert find_parameter(f"{name}.weight") is None


# -- Files -------------------------------------------------------------------------------------------------------------

SPELLINGS = {
    "PEFT": ("lora_A.weight", "lora_B.weight"),
    "PEFT with the adapter's name": ("lora_A.default.weight", "lora_B.default.weight"),
    "PEFT with a name of several words": ("lora_A.my style, v1.weight", "lora_B.my style, v1.weight"),
    "kohya": ("lora_down.weight", "lora_up.weight"),
    "older diffusers": ("lora.down.weight", "lora.up.weight"),
}


@pytest.mark.parametrize(("spelling", "rank"), zip(SPELLINGS, (16, 384, 450, 16, 384)))
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.sample(2)
def test_a_lora_of_everything_is_complete(spelling, version, rank):
    down, up = SPELLINGS[spelling]
    layers = linears(version)
    shapes = {f"diffusion_model.{name}.{down}": (rank, shape[1]) for name, shape in layers.items()}
    shapes |= {f"diffusion_model.{name}.{up}": (shape[0], rank) for name, shape in layers.items()}
    lora = read_lora(Header(shapes))
    assert {(component, name): delta.shape for component, name, delta in lora.layers} == {
        ours(f"{name}.weight"): shape for name, shape in layers.items()
    }
    assert {delta.rank for _, _, delta in lora.layers} == {rank} and not lora.unknown


def test_what_is_not_understood_is_named():
    layer = "diffusion_model.transformer_blocks.0.attn1.to_q"
    shapes = low_rank({"transformer_blocks.0.attn1.to_q": (4096, 4096)}) | {
        f"{layer}.lora_mid.weight": (4, 4),
        "diffusion_model.transformer_blocks.0.attn1.to_k.lora_A.weight": (4, 4096),
        "diffusion_model.somewhere.lora_A.weight": (4, 8),
        "diffusion_model.somewhere.lora_B.weight": (8, 4),
        f"base_model.model.{layer}.lora_A.weight": (4, 4096),
        f"base_model.model.{layer}.lora_B.weight": (4096, 4),
    }
    lora = read_lora(Header(shapes))
    assert len(lora.layers) == 1 and len(lora.unknown) == len(shapes) - 2
    assert set(lora.unknown) == shapes.keys() - set(lora.layers[0][2].keys.values())


@pytest.mark.slow
def test_names_of_a_file_are_no_lines_of_ours():
    shapes = low_rank({"transformer_blocks.0.attn1.to_q": (4096, 4096)}) | {"a\nerror: b.lora_A.weight": (4, 8)}
    report = compare_with_release(read_lora(Header(shapes)), "2.0")
    assert "\n" not in report.line and not any(line.startswith("error") for line in str(report).splitlines())


def test_factors_that_do_not_belong_together_fit_nothing():
    layer = "diffusion_model.transformer_blocks.0.attn1.to_q"
    lora = read_lora(Header({f"{layer}.lora_A.weight": (8, 4096), f"{layer}.lora_B.weight": (4096, 4)}))
    assert compare_with_release(lora, "2.3").misshapen["video"] == [f"{layer} is for () and meets (4096, 4096)"]


@pytest.mark.slow
def test_factors_of_an_ic_lora():
    shapes = low_rank({"proj_out": (128, 4096)})
    plain = read_lora(Header(shapes))
    assert (plain.downscale, plain.temporal_downscale, plain.is_in_context) == (1, 1, False)
    assert read_lora(Header(shapes, "ltx-2-19b-ic-lora-canny-control.safetensors")).is_in_context
    assert not read_lora(Header(shapes, "magic-lora.safetensors")).is_in_context
    half = read_lora(Header(shapes, reference_downscale_factor="2", reference_temporal_scale_factor="4"))
    assert (half.downscale, half.temporal_downscale, half.is_in_context) == (2, 4, True)
    assert "1/2 of the clip's width and height, one of 4 frames" in str(compare_with_release(half, "2.3"))
    assert read_lora(Header(shapes, reference_spatial_scale_factor="2")).downscale == 2
    small, rare = (read_lora(Header(shapes, **{name: "8"})) for name in _WISHES)
    for stack, wanted in (((), (1, 1)), ((small, half), (8, 4)), ((half, rare), (2, 8)), ((small, rare), (8, 8))):
        assert reference_scale(tuple((lora, Strengths()) for lora in stack)) == wanted  # officially each by itself
    with pytest.raises(CheckpointError, match="reference_downscale_factor = 'half', which should be a whole number"):
        _ = read_lora(Header(shapes, reference_downscale_factor="half")).downscale


def test_something_else_is_not_a_lora(model):
    with pytest.raises(
        CheckpointError, match=r"ltx-2\.3-tiny\.safetensors is not a LoRA: it is a part of an LTX model"
    ):
        open_lora(model)


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        (["lora_A.weight"], r"holds no whole change of a layer: .*lora_A\.weight.* lack the factor"),
        (["lora_up.weight", "alpha"], "lack the factor"),
        (["hada_w1_a", "hada_w1_b"], "lack the factor"),
        (["a1.weight", "a2.weight", "b1.weight"], "lack the factor"),
        (["boft_R"], "lack the factor"),
        (["oft_diag"], "an adapter of a kind that is not read here"),
        (["oft_R.weight", "oft_R.clipped_oft"], "an adapter of a kind"),
        (["oft_R.weight", "dora_log_multiplier"], "an adapter of a kind"),
        (["weight", "on_input"], "an adapter of a kind"),
        (["vera_lambda_b", "vera_lambda_d"], "an adapter of a kind"),
        (["set_weight"], "an adapter of a kind"),
    ],
)
def test_half_a_lora_and_other_adapters_are_called_what_they_are(tmp_path, ends, words):
    """Not a part of a model, and no LoRA to be chosen where it was chosen."""
    layers = [f"diffusion_model.transformer_blocks.{block}.attn1.to_q" for block in range(4)]
    save_file({f"{layer}.{end}": torch.ones(4, 4) for layer in layers for end in ends}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=words):
        open_lora(tmp_path / "x.safetensors")


def test_what_musubi_tuner_notes_beside_a_layer_is_no_change(tmp_path):
    """Nor is it called so; a layer that it changes and turns at once is refused, since only one of both is read."""
    layer, one = "lora_unet_transformer_blocks_0_attn1_to_q", torch.ones(())
    notes = "oft_block_size", "oft_block_share", "oft_coft", "scaled_oft"
    oft = {
        "oft_R.weight": torch.ones(1024, 6),
        "oft_R.scaled_oft": one,
        "alpha": one * 4,
        "dora_scale": torch.ones(4096, 1),
    }
    oft |= {f"{note}_metadata": one.clone() for note in notes} | {"initial_norm": torch.ones(4096, 1)}
    save_file({f"{layer}.{end}": value.clone() for end, value in oft.items()}, tmp_path / "oft.safetensors")
    lora = open_lora(tmp_path / "oft.safetensors")
    assert [delta.name for _, _, delta in lora.layers] == [layer] and not lora.left_out
    both = oft | {"lokr_w1": torch.ones(2, 2), "lokr_w2": torch.ones(2048, 2048)}
    save_file({f"{layer}.{end}": value.clone() for end, value in both.items()}, tmp_path / "both.safetensors")
    with pytest.raises(CheckpointError, match=f"both.safetensors changes {layer} by LoKr and turns it by OFT"):
        open_lora(tmp_path / "both.safetensors")


@pytest.mark.parametrize("end", ["hra_u", "glora_A.u", "delora_A", "fourierft_spectrum"])
def test_other_adapters_of_peft_are_called_so(tmp_path, end):
    state = {f"base_model.model.transformer_blocks.{block}.attn1.to_q.{end}": torch.ones(4, 4) for block in range(4)}
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="an adapter of a kind that is not read here"):
        open_lora(tmp_path / "x.safetensors")


# -- Strengths ---------------------------------------------------------------------------------------------------------


def stream_by_official_name(name: str) -> str:
    if "connector" in name or name.startswith("text_"):
        return "text"
    if "audio_to_video_attn" in name or "a2v_gate" in name:
        return "audio_to_video"
    if "video_to_audio_attn" in name or "v2a_gate" in name:
        return "video_to_audio"
    return "audio" if "audio" in name else "video"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("stream", STREAMS)
def test_the_strength_of_a_stream_is_that_of_its_layers(version, stream):
    strengths, touched = Strengths(strength=0.5, **{stream: 3.0}), 0
    for name in tensors(version):
        belongs = stream_by_official_name(name) == stream
        assert strengths.constant_for(*ours(name)) == (1.5 if belongs else 0.5), name
        touched += belongs
    assert touched > 50


@pytest.mark.parametrize("version", VERSIONS)
def test_the_strength_of_some_blocks(version):
    strengths = Strengths(strength=-0.5, video=2.0, blocks=range(10, 20))
    for name in linears(version):
        inside = name.startswith(tuple(f"transformer_blocks.{index}." for index in range(10, 20)))
        video = stream_by_official_name(name) == "video"
        assert strengths.constant_for(*ours(f"{name}.weight")) == (-1.0 if video else -0.5) * inside, name


@pytest.mark.parametrize("dialect", ["", "ss_", "modelspec."])
def test_the_factors_of_a_reference_count_in_every_dialect(dialect):
    shapes = low_rank({"proj_out": (128, 32)})
    stated = {f"{dialect}reference_downscale_factor": "2", f"{dialect}reference_temporal_scale_factor": "4"}
    lora = read_lora(Header(shapes, **stated))
    assert (lora.downscale, lora.temporal_downscale, lora.is_in_context) == (2, 4, True)
    nothing = read_lora(Header(shapes, **dict.fromkeys(stated, "None")))
    assert (nothing.downscale, nothing.temporal_downscale, nothing.is_in_context) == (1, 1, False)


@pytest.mark.parametrize(
    "stated",
    [
        {"reference_downscale_factor": "2.5"},
        {"reference_downscale_factor": "0"},
        {"reference_downscale_factor": "nan"},
        {"reference_downscale_factor": "[2]"},
        {"reference_downscale_factor": "2", "ss_reference_downscale_factor": "4"},
        {"reference_downscale_factor": "2", "reference_spatial_scale_factor": "1"},
    ],
)
def test_a_factor_that_is_not_whole_or_said_in_two_ways_is_refused(stated):
    shapes = low_rank({"proj_out": (128, 32)})
    with pytest.raises(CheckpointError, match="which should be a whole number from 1 to 64, and the same"):
        _ = read_lora(Header(shapes, **stated)).downscale
    agreed = {"reference_downscale_factor": "2.0", "ss_reference_downscale_factor": " 2"}
    assert read_lora(Header(shapes, **agreed)).downscale == 2


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "my_style.safetensors"])
@pytest.mark.parametrize("rank, scale", [(4, 0.5), (8, 1.0)])
def test_the_settings_of_peft_beside_a_renamed_file_count_if_they_are_its_own(tmp_path, name, rank, scale):
    path = write(tmp_path / name, low_rank({"proj_out": (128, 32)}, rank))
    settings = {"r": 4, "lora_alpha": 2, "base_model_name_or_path": "Lightricks/LTX-2.3"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    ((_, _, delta),) = open_lora(path).layers
    assert delta.scale == (2 / rank if name.startswith("adapter_model") else scale)
    if scale == 0.5:
        assert compare_with_release(open_lora(path), "2.3").made_for == ("2.3",)


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({"target_modules": ["proj_out"]}, 0.5),
        ({"target_modules": ["diffusion_model.proj_out", "to_q"]}, 0.5),
        ({"target_modules": ["to_q", "to_k"]}, 1.0),
        ({"target_modules": "all-linear"}, 0.5),
        (None, 1.0),
    ],
)
def test_the_settings_of_another_lora_in_the_folder_do_not_count(tmp_path, settings, scale):
    """Of one rank are many; what is broken beside a file says nothing about it."""
    path, config = (
        write(tmp_path / "my_style.safetensors", low_rank({"proj_out": (128, 32)})),
        {"r": 4, "lora_alpha": 2},
    )
    text = "<html>" if settings is None else json.dumps(config | settings)
    (tmp_path / "adapter_config.json").write_text(text)
    ((_, _, delta),) = open_lora(path).layers
    assert delta.scale == scale
    write(tmp_path / "adapter_model.safetensors", low_rank({"proj_out": (128, 32)}))  # whose they are then
    assert open_lora(path).layers[0][2].scale == 1


# -- Reports -----------------------------------------------------------------------------------------------------------

ATTENTION = {f"transformer_blocks.{index}.attn1.to_q": (4096, 4096) for index in range(48)}


@pytest.mark.parametrize(
    "layers, name, metadata, versions",
    [
        (linears("2.0"), "style", {}, ("2.0",)),
        (linears("2.3"), "style", {}, ("2.3", "2.5")),
        (ATTENTION, "style", {}, ("2.0", "2.3", "2.5")),
        ({"transformer_blocks.0.attn1.to_q": (7, 9)}, "style", {}, ()),
        (ATTENTION, "ltx-2-19b-lora-camera-control-dolly-in", {}, ("2.0",)),
        (ATTENTION, "ltx-2.3-22b-distilled-lora-384", {}, ("2.3",)),
        (ATTENTION, "ltx-2.5-22b-distilled-lora-450-bf16", {}, ("2.5",)),
        (ATTENTION, "LTX2.0_style_30", {}, ("2.0",)),
        (ATTENTION, "style_ltx23_v2", {}, ("2.3",)),
        (ATTENTION, "ltxv-13b-0.9.7-style", {}, ("0.9",)),
        (ATTENTION, "ltx2_v1", {}, ("2.0", "2.3", "2.5")),
        (ATTENTION, "ltx2_style_v2.5", {}, ("2.0", "2.3", "2.5")),
        (ATTENTION, "ltx2_rank_20", {}, ("2.0", "2.3", "2.5")),
        (ATTENTION, "ltx2_20steps", {}, ("2.0", "2.3", "2.5")),
        (ATTENTION, "style", {"ss_base_model_version": "ltx2_v2.3"}, ("2.3",)),
        (ATTENTION, "style", {"model_version": '"2.5.0"'}, ("2.5",)),
        (ATTENTION, "ltx-2-19b-style", {"model_version": "2.3.rc1"}, ("2.3",)),
        (ATTENTION, "style", {"ss_base_model_version": "ltx2.3"}, ("2.3",)),
        (ATTENTION, "style", {"modelspec.architecture": "ltx-video-2.3/lora"}, ("2.3",)),
    ],
)
def test_the_version_that_a_lora_was_made_for(layers, name, metadata, versions):
    lora = read_lora(Header(low_rank(layers), f"{name}.safetensors", **metadata))
    assert compare_with_release(lora, "2.3").made_for == versions


def test_a_lora_of_another_version():
    lora = read_lora(Header(low_rank(linears("2.0"), 32), "style.safetensors"))
    fitting = compare_with_release(lora, "2.0")
    assert fitting.warning is None and fitting.fitting == 1395
    report = compare_with_release(lora, "2.3")
    assert report.warning == "made for 2.0; this model is 2.3: 1,364 of 1,395 layers fit"
    said = str(report).splitlines()
    assert said[:7] == [
        "style.safetensors: LoRA of rank 32, 1,395 layers, made for 2.0",
        "  fits LTX-2.3     1,364 of 1,395 layers",
        "    video          487 of 490",
        "    audio          487 of 490",
        "    audio to video 195 of 195",
        "    video to audio 195 of 195",
        "    text           0 of 25",
    ]
    assert "not in the model diffusion_model.caption_projection.linear_1" in said[7] and "and 2 more" in said[7]
    assert "adaln_single.linear is for (24576, 4096) and meets (36864, 4096)" in said[8] and "and 23 more" in said[8]
    assert said[9:] == [f"  warning          {report.warning}"]


@pytest.fixture(scope="module")
def model(tiny_files) -> Path:
    return tiny_files("2.3")[0]


def write(path: Path, shapes: dict, **metadata: str) -> Path:
    save_file({key: torch.ones(shape) for key, shape in shapes.items()}, path, metadata or None)
    return path


def test_a_report_reads_headers_only(model, tmp_path, monkeypatch):
    path = write(tmp_path / "a.safetensors", low_rank({"transformer_blocks.1.attn1.to_q": (32, 32)}))
    monkeypatch.setattr(TensorFile, "get", lambda *_: pytest.fail("weights were read"))
    report = compare(open_lora(path), open_models(model))
    assert report.fitting == 1 and report.warning is None


@pytest.mark.parametrize(
    "layers",
    [
        {"double_blocks.0.img_attn.qkv": (32, 32)},
        {"transformer_blocks.1.attn1.to_q": (64, 64)},
        {"transformer_blocks.9.attn1.to_q": (32, 32)},
    ],
)
def test_a_lora_for_another_model_gives_one_sentence(model, tmp_path, layers):
    lora = open_lora(write(tmp_path / "other.safetensors", low_rank(layers)))
    with pytest.raises(CheckpointError) as error:
        compare(lora, open_models(model))
    said = str(error.value)
    assert "other.safetensors changes nothing in this LTX-2.3 model" in said and next(iter(layers)) in said
    assert "\n" not in said and len(said) < 400


def test_inspect(tmp_path, capsys):
    path = write(
        tmp_path / "ltx-2-19b-ic.safetensors",
        low_rank({"transformer_blocks.1.audio_attn1.to_q": (2048, 2048), "caption_projection.linear_1": (4096, 3840)}),
        reference_downscale_factor="2",
    )
    assert main(["inspect", str(path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "ltx-2-19b-ic.safetensors: LoRA of rank 4, 2 layers, made for 2.0",
        "  fits LTX-2.0     2 of 2 layers",
        "    video          1 of 1",
        "    audio          1 of 1",
        "  reference        1/2 of the clip's width and height",
        "  fits LTX-2.3     1",
        "  fits LTX-2.5     1",
    ]


@pytest.mark.parametrize("began", ["pissa_niter_4", "olora", "loftq"])
def test_a_lora_that_means_another_model_is_refused(tmp_path, began):
    layer = {"diffusion_model.transformer_blocks.0.attn1.to_q.lora_A.weight": torch.ones(1, 4)}
    layer |= {"diffusion_model.transformer_blocks.0.attn1.to_q.lora_B.weight": torch.ones(4, 1)}
    for stated in (True, began):
        header = {"lora_adapter_metadata": json.dumps({"transformer.r": 1, "transformer.init_lora_weights": stated})}
        save_file(layer, tmp_path / "x.safetensors", header)
        with nullcontext() if stated is True else pytest.raises(CheckpointError, match=f"weights = '{began}'"):
            open_lora(tmp_path / "x.safetensors")


def test_settings_that_are_not_json(tmp_path):
    write(tmp_path / "adapter_model.safetensors", low_rank({"proj_out": (128, 32)}))
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        open_lora(tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 8}))
    assert open_lora(tmp_path / "adapter_model.safetensors").layers[0][2].scale == 2


def test_layers_whose_alpha_or_rank_is_0_are_told(tmp_path):
    state = {f"{name}.lora_{part}.weight": torch.ones(shape) for name, rank in (("a", 2), ("b", 0), ("c", 2))
             for part, shape in (("A", (rank, 4096)), ("B", (4096, rank)))}  # fmt: skip
    layers = {name: f"diffusion_model.transformer_blocks.{number}.attn1.to_q" for number, name in enumerate("abc")}
    state = {layers[key[0]] + key[1:]: value for key, value in state.items()}
    save_file(state | {f"{layers['c']}.alpha": torch.tensor(0.0)}, tmp_path / "x.safetensors")
    report, said = compare_with_release(open_lora(tmp_path / "x.safetensors"), "2.3"), "2 of 3 layers without effect"
    assert said in report.line and said in str(report)
