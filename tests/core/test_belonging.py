"""Which of many files goes with a model, and what is said of one that does not."""

import shutil

import pytest
import torch

from ltx2_core import tiny
from ltx2_core.checkpoint import open_models
from ltx2_core.checkpoint.belonging import GEMMA, check_own_part, check_text_encoder, find_by_name, find_text_encoder
from ltx2_core.checkpoint.models import MINIATURE
from ltx2_core.checkpoint.text_encoder import open_text_encoder
from ltx2_core.checkpoint.upscaler import BUILT_IN, find_upscaler
from ltx2_core.errors import MissingFileError, SettingError
from ltx2_core.pipeline.blueprint import Blueprint


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    tiny.write(folder, "2.3")
    return folder


@pytest.fixture(scope="module")
def real(files):
    return open_models(files / "ltx-2.3-tiny.safetensors")


@pytest.fixture(scope="module")
def miniature():
    return open_models("miniature")


@pytest.mark.slow
def test_the_first_text_encoder_that_the_model_can_read_is_taken(files, real, miniature):
    folder = files / "gemma-tiny"
    assert find_text_encoder(real, [files / "ltx-2.3-tiny.safetensors", GEMMA, folder]) == folder
    assert find_text_encoder(miniature, [folder]) == GEMMA
    with pytest.raises(MissingFileError, match=r"LTX-2.3 dev needs its text encoder, and there is no file. Put Gemma"):
        find_text_encoder(real, [])
    with pytest.raises(MissingFileError, match=r"there is none among 1 files .*still that of the built-in miniature"):
        find_text_encoder(real, [GEMMA])


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


def test_one_of_other_sizes_says_what_it_gives_and_what_is_read(files, real, tmp_path):
    shutil.copytree(GEMMA, tmp_path / "other")
    with pytest.raises(SettingError, match=r"other gives 7 hidden states of width 64, and LTX-2.3 dev reads 3"):
        check_text_encoder(open_text_encoder(tmp_path / "other"), real)


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
    assert find_upscaler(miniature, 2, []).file.path == BUILT_IN
    with pytest.raises(MissingFileError, match=r"no ltx-2.3-spatial-upscaler-x2-\*.safetensors in the model folders"):
        find_upscaler(real, 2, paths[2:])
