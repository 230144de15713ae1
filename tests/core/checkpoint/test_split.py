"""The files of 2.5 as they are published: one for each part, found by content."""

import shutil
from fractions import Fraction

import pytest
import tiny_parts
import torch
from safetensors.torch import load_file, save_file

import ltx2_core as ltx2
from ltx2_core.checkpoint import open_models
from ltx2_core.checkpoint.components import COMPONENTS
from ltx2_core.checkpoint.files import TensorFile
from ltx2_core.checkpoint.parts import find_parts
from ltx2_core.checkpoint.upscaler import find_upscaler
from ltx2_core.checkpoint.versions import VERSIONS
from ltx2_core.conditioning import State
from ltx2_core.conditioning.pictures import Picture
from ltx2_core.conditioning.state import apply_conditions
from ltx2_core.errors import CheckpointError
from ltx2_core.latents import AVLatent
from ltx2_core.lora.stack import find_distilled_lora
from ltx2_core.pipeline.encode_conditions import EngineEncoders
from ltx2_core.pipeline.engines.local import LocalEngine
from ltx2_core.pipeline.long import WithinWindow
from ltx2_core.sampling.windows import split_windows
from ltx2_core.settings import Resources
from ltx2_core.transformer.model import StreamIO

CLIP = {"width": 64, "height": 64, "frames": 9, "seed": 3, "cache": False, "device": "cpu"}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return tiny_parts.write_split(tmp_path_factory.mktemp("split"))


@pytest.mark.slow
def test_the_parts_are_one_model_in_any_order(parts):
    for order in (parts, parts[::-1]):
        models = open_models(order)
        assert not models.missing and (models.kind, models.text_encoder) == ("LTX-2.5 dev", parts[1])
        assert not any(models.unknown(file) for file in models.files)
        places = {name: source.file.path for name, source in models.sources.items()}
        assert places["transformer"] == places["video_connector"] == parts[0]
        assert (places["text_features"], places["video_decoder"], places["vocoder"]) == tuple(parts[1:])


@pytest.mark.slow
def test_the_projection_comes_with_a_text_encoder_that_was_given_apart(parts):
    transformer, encoder, *vaes = parts
    models = open_models([transformer, *vaes], encoder)
    assert not models.missing and models.sources["text_features"].file.path == encoder


def test_unknown_tensors_of_the_projection_beside_a_text_encoder_are_told(parts, tmp_path):
    encoder, key = tmp_path / parts[1].name, "text_embedding_projection.video_aggregate_embed.x"
    save_file(load_file(parts[1]) | {key: torch.ones(2)}, encoder, TensorFile(parts[1]).metadata)
    models = open_models([parts[0], encoder, *parts[2:]])
    with pytest.raises(CheckpointError, match=f"has unknown tensors: {key}"):
        models.network("text_features")


@pytest.mark.slow
def test_a_clip_of_the_parts_is_that_of_the_whole(parts, tiny_files):
    whole, packed = tiny_files("2.5")[0], tiny_files("2.5")[2]
    clips = [ltx2.generate(models, "a ball", "blurry", steps=2, **CLIP)
             for models in (open_models(parts), open_models(whole, packed))]  # fmt: skip
    assert torch.equal(clips[0].latent.video, clips[1].latent.video)
    assert torch.equal(clips[0].latent.audio, clips[1].latent.audio)
    assert clips[0].frames.shape == (9, 64, 64, 3)


@pytest.mark.slow
def test_a_distilled_one_is_known_by_its_name_and_ancestral(tmp_path):
    models = open_models(tiny_parts.write_split(tmp_path, "distilled"))
    assert models.kind == "LTX-2.5 distilled"
    one, other = (ltx2.generate(models, "a ball", **CLIP | more).latent.video
                  for more in ({}, {"sampler": "euler"}))  # fmt: skip
    assert not torch.equal(one, other)


@pytest.mark.slow
def test_what_a_transformer_lacks_is_found_by_content(parts, tiny_files, tmp_path):
    transformer, encoder, *vaes = parts
    other_version, other_vae = tiny_files("2.3")[0], tmp_path / "a-vae-that-says-nothing.safetensors"
    tensors = {key: value for key, value in load_file(tiny_files("2.3")[0]).items() if key.startswith("vae.")}
    save_file(tensors, other_vae)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"nothing")
    paths = [broken, other_version, other_vae, tiny_files("2.5")[0], *reversed(vaes), encoder]
    assert {*find_parts([transformer], paths)} == {encoder, *vaes}
    assert not open_models([transformer, *find_parts([transformer], paths)]).missing
    assert find_parts([transformer], [other_vae]) == [other_vae]  # it may be of 2.5
    assert find_parts([tiny_files("2.5")[0]], paths) == [] == find_parts([transformer], [])


@pytest.mark.parametrize("kind", ["dev", "distilled"])
def test_connectors_in_a_file_of_their_own_are_found_by_the_kind_of_the_model(tiny_files, tmp_path, kind):
    """As Kijai's files of 2.0 are."""
    source = tiny_files("2.0")[0]
    whole, metadata = load_file(source), TensorFile(source).metadata
    beside = {key: value for key, value in whole.items() if "connector" in key or key.startswith("text_embedding")}
    rest = {key: value for key, value in whole.items() if key not in beside and key.startswith("model.")}
    save_file(rest, model := tmp_path / f"ltx-2-19b-{kind}_transformer_only.safetensors", metadata)
    projection = tmp_path / "a_projection.safetensors"
    save_file({key: value for key, value in beside.items() if "connector" not in key}, projection, metadata)
    paths = {name: tmp_path / f"ltx-2-19b-embeddings_connector_{name}_bf16.safetensors" for name in ("dev", "distill")}
    for path in paths.values():
        save_file(beside, path, metadata)
    found = find_parts([model], sorted(tmp_path.iterdir()))
    sources = open_models([model, *found]).sources
    assert sources["video_connector"].file.path == sources["text_features"].file.path == paths[kind.removesuffix("ed")]
    assert find_parts([model], [projection, paths["dev"]])[-1] == paths["dev"]


def test_versions_that_share_a_layout_are_told_by_the_rest(parts, tiny_files, tmp_path):
    """A VAE without a header may be of 2.3 or 2.5, and one that states 2.3 goes with 2.5, too; sound does not."""
    transformer, encoder, video, audio = parts
    bare = tmp_path / "video.safetensors"
    save_file(load_file(video), bare, {"config": TensorFile(video).metadata["config"]})
    assert open_models([transformer, encoder, bare, audio]).version == "2.5"
    stated = tmp_path / "stated.safetensors"
    save_file(load_file(video), stated, TensorFile(video).metadata | {"model_version": "2.3.0"})
    assert open_models([transformer, encoder, stated, audio]).version == "2.5"
    save_file(load_file(audio), stated, TensorFile(audio).metadata | {"model_version": "2.3.0"})
    with pytest.raises(CheckpointError, match=r"do not belong together: .*transformer\.safetensors is LTX-2\.5"):
        open_models([transformer, stated])


def test_a_missing_key_is_refused(parts, tmp_path):
    tensors = load_file(parts[0])
    tensors.pop("model.diffusion_model.transformer_blocks.1.ff.net.2.weight")
    save_file(tensors, tmp_path / "t.safetensors", TensorFile(parts[0]).metadata)
    models = open_models([tmp_path / "t.safetensors", *parts[1:]])
    with pytest.raises(CheckpointError, match=r"lacks tensors: .*blocks\.1\.ff\.net\.2\.weight"):
        ltx2.build(models, "transformer")


def test_tables_are_in_float32_and_become_what_is_computed_in(parts):
    models = open_models(parts)
    source = models.source("transformer")
    key = source.names["blocks.0.video.modulation"]
    assert (
        source.file.dtype(key) == torch.float32
        and source.file.dtype(source.names["video.keyframe_mark"]) == torch.bfloat16
    )
    network = ltx2.build(models, "transformer", torch.bfloat16)
    assert torch.equal(network.blocks[0].video.modulation, source.file.get(key).bfloat16())


@pytest.mark.slow
def test_either_video_vae_decodes_a_clip(parts, tmp_path):
    """The diffusion decoder is told by its tensors, with and without words of its version."""
    transformer, encoder, convolutional, audio = parts
    size = {"width": 64, "height": 64, "frames": 9, "sigmas": [1.0, 0.0], "device": "cpu", "cache": False}
    vae = tiny_parts.write_diffusion_vae(tmp_path)
    bare = tmp_path / "bare.safetensors"
    save_file(load_file(vae), bare, {"config": TensorFile(vae).metadata["config"]})
    chunks = []
    for video in (convolutional, vae, bare):
        clip = ltx2.generate(open_models([transformer, encoder, video, audio]), "x", **size)
        chunks.append(torch.cat(list(clip.chunks)))
        assert chunks[-1].shape == (9, 64, 64, 3)
    assert torch.equal(chunks[1], chunks[2]) and not torch.equal(chunks[0], chunks[1])


def test_a_text_encoder_alone_is_no_model(tiny_files, parts):
    with pytest.raises(CheckpointError, match="is a Gemma text encoder"):
        open_models(tiny_files("2.5")[2])
    with pytest.raises(CheckpointError, match="has no transformer"):
        open_models(parts[1]).source("transformer")


@pytest.mark.slow
def test_all_of_the_whole_is_in_the_parts(parts, tiny_files):
    whole, split = open_models(tiny_files("2.5")[0]), open_models(parts)
    for name in COMPONENTS:
        a, b = (ltx2.build(models, name).state_dict() for models in (whole, split))
        assert a.keys() == b.keys() and all(torch.equal(value, b[key]) for key, value in a.items())


def test_the_folder_that_diffusers_writes_brings_its_text_encoder(tiny_files, tmp_path):
    checkpoint, folder, _ = tiny_files("2.5")
    shutil.copytree(folder, tmp_path / "text_encoder")
    (tmp_path / "transformer").mkdir()
    shutil.copy(checkpoint, tmp_path / "transformer" / "model.safetensors")
    models = open_models(tmp_path)
    assert models.text_encoder == tmp_path / "text_encoder"
    assert LocalEngine(models, Resources(device="cpu")).encoder.kind.title == "Gemma 4"


def test_the_official_files_beside_it_are_known_by_their_names(parts, tmp_path):
    models = open_models(parts)
    lora = tmp_path / "ltx-2.5-22b-distilled-lora-450-bf16.safetensors"
    assert find_distilled_lora(models, [tmp_path / "ltx-2.3-22b-distilled-lora-384.safetensors", lora]) == lora
    tiny_parts.write_upscaler(tmp_path).rename(tmp_path / "ltx-2.5-latent-spatial-upscaler-x2-bf16-1.0.safetensors")
    assert find_upscaler(models, 2, sorted(tmp_path.glob("*.safetensors"))).config.enlarges


def test_pictures_are_compressed_as_for_the_version_that_the_video_vae_states(parts, tiny_files, tmp_path):
    """Officially that of its file alone; one that states none goes with the transformer."""
    transformer, encoder, video, audio = parts
    of_vae = {}
    for stated in ({}, {"model_version": "2.3.0"}):
        save_file(load_file(video), path := tmp_path / f"vae-{len(stated)}.safetensors", stated)
        of_vae[len(stated)] = [transformer, encoder, path, audio]
    crf = [EngineEncoders(LocalEngine(open_models(files), Resources(device="cpu"))).crf
           for files in (parts, of_vae[0], of_vae[1], tiny_files("2.3")[0])]  # fmt: skip
    assert crf == [18, 18, 33, 33]
    assert open_models(tiny_files("2.3")[0], video_vae=video).image_crf == 18
    assert open_models(of_vae[0]).config["vae"] == VERSIONS["2.5"].config["vae"]  # though the transformer says null


@torch.no_grad()
@pytest.mark.slow
def test_the_first_latent_of_every_clip_is_marked_and_nothing_that_is_appended(parts):
    """As numbers: the mark is so small that a clip without it looks alike."""
    state = State.of(torch.zeros(2, 128, 3, 2, 2), Fraction(24))
    assert state.keyframes[:, :, 0].tolist() == [[1.0] * 4 + [0.0] * 8] * 2
    longer = state.append(torch.zeros(1, 128, 1, 2, 2), state.positions[:1, :, :4], 1.0)
    assert longer.keyframes[0, :, 0].tolist() == [1.0] * 4 + [0.0] * 12
    picked = longer.select(torch.tensor([1, 3, 5, 14]), (128, 3, 1, 1))
    assert picked.keyframes[0, :, 0].tolist() == [1.0, 1.0, 0.0, 0.0]
    assert State.of(torch.zeros(1, 8, 5, 16), Fraction(24)).keyframes is None
    clips = [ltx2.generate(open_models(parts), "a ball", steps=1, **CLIP).latent.video]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StreamIO, "_project_tokens", lambda self, stream: self.project_in(stream.tokens))
        clips.append(ltx2.generate(open_models(parts), "a ball", steps=1, **CLIP).latent.video)
    assert (clips[0] - clips[1]).abs().max() > 1e-2


def test_a_window_of_a_long_clip_begins_with_a_mark(parts):
    whole = apply_conditions(AVLatent(torch.zeros(1, 128, 5, 2, 2), None), Fraction(24))
    window = split_windows(33, Fraction(24), 17, 8)[1]
    fresh = State.of(torch.zeros(1, 128, 3, 2, 2), Fraction(24))
    here = WithinWindow("video", whole.video, window)(fresh)
    assert torch.equal(here.keyframes, fresh.keyframes) and here.keyframes.sum() == 4


@pytest.mark.slow
def test_half_a_vae_is_known_for_what_it_is(parts, tmp_path):
    """The statistics that both halves have make no encoder; one that is needed is missed before any prompt is read."""
    transformer, encoder, video, audio = parts
    halves = {}
    for half, other in (("decoder", "encoder."), ("encoder", "decoder.")):
        tensors = {key: value for key, value in load_file(video).items() if not key.startswith(other)}
        save_file(tensors, path := tmp_path / f"{half}.safetensors", TensorFile(video).metadata)
        halves[half] = path
        assert {f"video_{half}"} == {*open_models(path).sources}
    models, seen = open_models([transformer, encoder, halves["decoder"], audio]), []
    with pytest.raises(CheckpointError, match=r"decoder\.safetensors.* have no video encoder; choose .* as video_vae"):
        ltx2.generate(models, "x", conditions=[Picture(torch.rand(1, 64, 64, 3))], on_progress=seen.append, **CLIP)
    assert not seen and find_parts([transformer, encoder], [*halves.values(), video, audio]) == [video, audio]
    assert find_parts([transformer, encoder], [halves["decoder"], audio]) == [halves["decoder"], audio]
