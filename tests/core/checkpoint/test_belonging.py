"""Which of many files goes with a model, and what is said of one that does not."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from ltx2_core import tiny
from ltx2_core.checkpoint import open_models
from ltx2_core.checkpoint.belonging import (
    FollowsModel,
    check_own_part,
    check_text_encoder,
    find_by_name,
    find_text_encoder,
)
from ltx2_core.checkpoint.files import TensorFile
from ltx2_core.checkpoint.models import BUILT_IN_GEMMA as GEMMA
from ltx2_core.checkpoint.models import MINIATURE
from ltx2_core.checkpoint.text_encoder import open_text_encoder
from ltx2_core.checkpoint.upscaler import BUILT_IN, find_upscaler
from ltx2_core.errors import MissingFileError, SettingError
from ltx2_core.lora.stack import find_distilled_lora
from ltx2_core.pipeline.needs.blueprint import Blueprint


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    tiny.write(folder, "2.3")
    return folder


@pytest.fixture(scope="module")
def real(files):
    return open_models(files / "ltx-2.3-tiny.safetensors")


def test_what_follows_the_model_is_opened_anew_for_another_model():
    opened = []
    follows = FollowsModel(lambda models: opened.append(models) or f"of {models}")
    assert [follows.of(models) for models in ("2.3", "2.3", "2.5", "2.3")] == ["of 2.3", "of 2.3", "of 2.5", "of 2.3"]
    assert opened == ["2.3", "2.5", "2.3"]
    with pytest.raises(AttributeError, match="open the file with ComfyUI's own loader"):
        _ = follows.load_device


@pytest.mark.slow
def test_the_first_text_encoder_that_the_model_can_read_is_taken(files, real, miniature):
    folder = files / "gemma-tiny"
    assert find_text_encoder(real, [files / "ltx-2.3-tiny.safetensors", GEMMA, folder]) == folder
    assert find_text_encoder(miniature, [folder]) == GEMMA
    with pytest.raises(MissingFileError, match=r"LTX-2.3 dev needs its text encoder, and there is no file. Put Gemma"):
        find_text_encoder(real, [])
    with pytest.raises(MissingFileError, match=r"there is none among 1 files .*still that of the built-in miniature"):
        find_text_encoder(real, [GEMMA])


@pytest.mark.slow
def test_a_text_encoder_of_another_model_is_refused_before_anything_is_read(files, real, miniature):
    own, other = open_text_encoder(files / "gemma-tiny"), open_text_encoder(GEMMA)
    check_text_encoder(own, real)
    check_text_encoder(other, miniature)
    with pytest.raises(SettingError, match=r"text encoder \(Gemma 3\) is still that of the built-in miniature .*but"):
        check_text_encoder(other, real)
    with pytest.raises(SettingError, match="The model is the built-in miniature, but the text encoder is gemma-tiny"):
        check_text_encoder(own, miniature)
    with pytest.raises(SettingError, match="built-in miniature"):
        Blueprint.of_files(real, other, dict.fromkeys((*real.sources, "text_encoder"), torch.float32))


@pytest.mark.slow
def test_one_of_other_sizes_says_what_it_gives_and_what_is_read(files, real, tmp_path):
    shutil.copytree(GEMMA, tmp_path / "other")
    with pytest.raises(SettingError, match=r"other gives 7 hidden states of width 64, and LTX-2.3 dev reads 3"):
        check_text_encoder(open_text_encoder(tmp_path / "other"), real)


@pytest.mark.slow
def test_parts_of_the_miniature_stay_with_it(real, miniature):
    check_own_part(BUILT_IN, "upscaler", miniature)
    with pytest.raises(SettingError, match=r"upscaler is still .*\(upscaler-mini\), but the model is LTX-2.3 dev"):
        check_own_part(BUILT_IN, "upscaler", real)
    with pytest.raises(SettingError, match=r"LoRA is still .*\(golden-ball\)"):
        check_own_part(MINIATURE / "loras" / "golden-ball.safetensors", "LoRA", real)


def test_files_are_found_by_their_official_names(files, real, miniature):
    names = ["ltx-2.3-spatial-upscaler-x2-1.0.safetensors", "ltx-2.3-spatial-upscaler-x2-1.1.safetensors"]
    paths = [files / each for each in [*names, "ltx-2-spatial-upscaler-x2-1.2.safetensors"]]
    assert find_by_name("ltx-2.3-spatial-upscaler-x2-*", real, (), paths, "") == paths[1]
    loras = ["ltx_2.3_22b_distilled_1.1_lora_dynamic_fro09_avg_rank_111_bf16", "ltx-2.3-22b-distilled-lora-384-1.1"]
    paths += [files / f"{each}.safetensors" for each in loras]
    assert find_distilled_lora(real, paths[:-1]) == paths[3] and find_distilled_lora(real, paths) == paths[4]
    assert find_upscaler(miniature, 2, []).file.path == BUILT_IN
    with pytest.raises(MissingFileError, match=r"no ltx-2.3-spatial-upscaler-x2-\*.safetensors in the model folders"):
        find_upscaler(real, 2, paths[2:])


def test_the_folder_in_which_a_file_was_looked_for_is_called_by_its_name(real, monkeypatch):
    path = real.source("transformer").file.path
    monkeypatch.chdir(path.parent)
    beside = open_models(path.name)
    with pytest.raises(MissingFileError, match=re.escape(f"safetensors in {path.parent}; download it")):
        find_upscaler(beside, 2, None)


# The version table of 2.5: what the transformer's header names, and what the text encoder is.

TRAINED = {"gemma_source_checkpoint": json.dumps({"ltx_version": "2.5.0", "gemma_version": "gemma4-tiny-v1"})}
NAMELESS = {"gemma_source_checkpoint": json.dumps({"ltx_version": "2.5.0"})}
NEW, OLD = {"model_version": "2.5.0"}, {"model_version": "2.3.0"}


@pytest.fixture(scope="module")
def encoders(tiny_files, tmp_path_factory):
    """Text encoders by what they are: trained, of another training, as published, and Gemma 3."""
    folder, trained = tmp_path_factory.mktemp("encoders"), tiny_files("2.5")[2]
    about = json.loads(TensorFile(trained).metadata["gemma_config"])
    paths = {"trained": trained, "Gemma 3": tiny_files("2.3")[2]}
    for name, version in (("another", "gemma4-tiny-v2"), ("stock", None)):
        paths[name] = folder / f"{name}.safetensors"
        header = {"gemma_config": json.dumps(about | {"gemma_version": version} if version else about["text_config"])}
        save_file(load_file(trained), paths[name], header)
    return {name: open_text_encoder(path) for name, path in paths.items()}


@pytest.fixture(scope="module")
def with_header(tiny_files, tmp_path_factory):
    """A model whose transformer has this header beside its config."""
    folder = tmp_path_factory.mktemp("headers")

    def write(version: str, header: dict[str, str]):
        checkpoint = tiny_files(version)[0]
        config = TensorFile(checkpoint).metadata["config"]
        path = folder / f"ltx-{version}-{len(list(folder.iterdir()))}.safetensors"
        save_file(load_file(checkpoint), path, {"config": config} | header)
        return open_models(path)

    return write


@pytest.mark.parametrize(
    "version, header, encoder, said",
    [
        ("2.5", NEW | TRAINED, "trained", ""),
        ("2.5", NEW | TRAINED, "another", "trained with the text encoder gemma4-tiny-v1, and another.* gemma4-tiny-v2"),
        ("2.5", NEW | TRAINED, "stock", r"stock\.safetensors is Gemma 4 as it was published, without that training"),
        ("2.5", NEW | TRAINED, "Gemma 3", "is Gemma 3 as it was published, .*gemma4-12b-with-proj-ltx-2.5"),
        ("2.5", NEW | NAMELESS, "stock", ""),
        ("2.5", NEW | NAMELESS, "trained", "text encoder of no name"),
        ("2.5", NEW, "stock", "warned"),
        ("2.5", {}, "stock", "warned"),
        ("2.5", NEW, "Gemma 3", "warned"),
        ("2.5", NEW, "trained", "does not say which one it was trained with"),
        ("2.3", OLD, "Gemma 3", ""),
        ("2.3", {}, "Gemma 3", ""),
        ("2.3", OLD, "trained", "is Gemma 4, which LTX-2.3 dev does not read: Gemma 3 12B"),
        ("2.3", {}, "stock", "is Gemma 4, which LTX-2.3 dev does not read"),
    ],
)
def test_a_text_encoder_of_another_training_is_refused(encoders, with_header, caplog, version, header, encoder, said):
    models = with_header(version, header)
    if said and said != "warned":
        with pytest.raises(SettingError, match=said):
            check_text_encoder(encoders[encoder], models)
        return
    check_text_encoder(encoders[encoder], models)
    assert ("whether they were trained together" in caplog.text) == (said == "warned")
