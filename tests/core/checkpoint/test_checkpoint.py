"""Files as people have them, whole and broken: what is recognised, what is built, and which sentence is said."""

import json
import math
import os
import re
import struct
import time
from pathlib import Path

import golden
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ltx2_core.__main__ import main
from ltx2_core.audio_vae import AudioVAEConfig, VocoderConfig
from ltx2_core.checkpoint import CheckpointError, TensorFile, build, open_models
from ltx2_core.checkpoint.components import COMPONENTS, Component, Variant
from ltx2_core.checkpoint.folders import files_of
from ltx2_core.checkpoint.keys import Keys, same
from ltx2_core.checkpoint.loading import assign_tensors, check_numbers
from ltx2_core.checkpoint.models import sources_in
from ltx2_core.checkpoint.versions import VERSIONS, known_config, possible_versions, stated_version
from ltx2_core.disk_cache import stamps
from ltx2_core.errors import LTX2Error, holds_numbers
from ltx2_core.text import ConnectorConfig, TextFeaturesConfig
from ltx2_core.transformer import TransformerConfig
from ltx2_core.video_vae import VideoVAEConfig

KINDS = ("transformer_text", "video_vae", "audio_vae", "vocoder")


@pytest.fixture(scope="module")
def sets(tiny_files) -> dict[str, list[Path]]:
    """Checkpoint, Gemma folder and Gemma file of each version."""
    return {version: tiny_files(version) for version in VERSIONS}


def rewrite(source: Path, target: Path, metadata=None, **changes) -> Path:
    """A copy with other tensors (None removes one) and other metadata."""
    tensors = {key: value for key, value in (load_file(source) | changes).items() if value is not None}
    save_file(tensors, target, TensorFile(source).metadata if metadata is None else metadata)
    return target


@pytest.mark.parametrize("version", VERSIONS)
def test_every_key_of_a_release_is_claimed_by_one_component(version):
    keys = [key for kind in KINDS for key in golden.key_list(kind, version)]
    shared = [key for key in keys if "per_channel_statistics" in key]
    for key in keys:
        claimed = [name for name, component in COMPONENTS.items() if component.claims(key)]
        assert len(claimed) == (2 if key in shared else 1), key


def test_the_transformer_file_of_2_5_holds_what_its_published_size_says():
    """Transformer and connectors; the projection is packed with the text encoder."""
    listed = golden.key_list("transformer_text", "2.5")
    own = {key: shape for key, shape in listed.items() if "text_embedding_projection" not in key}
    assert (len(own), sum(map(math.prod, own.values()))) == (4349, 21_004_025_600)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_release_is_recognised_without_metadata(version):
    everything = {key: shape for kind in KINDS for key, shape in golden.key_list(kind, version).items()}
    assert possible_versions(everything) == (version,)
    for kind in ("transformer_text", "vocoder", "video_vae"):
        assert version in possible_versions(golden.key_list(kind, version))
    assert known_config(version, everything)["transformer"]["num_layers"] == 48


def test_a_diffusion_decoder_alone_is_of_2_5():
    bare = {key: shape for key, shape in golden.shapes("video_vae_2.5_split_diffusion").items() if "decoder." in key}
    for prefix in ("", "vae."):
        assert possible_versions({f"{prefix}{key}": shape for key, shape in bare.items()}) == ("2.5",)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_known_numbers_are_those_of_the_official_header(version):
    ours, theirs = VERSIONS[version].config, golden.config(version)
    for read in (
        lambda config: TransformerConfig.from_json(config["transformer"]),
        lambda config: TextFeaturesConfig.from_json(config["transformer"]),
        lambda config: ConnectorConfig.from_json(config["transformer"], "video"),
        lambda config: ConnectorConfig.from_json(config["transformer"], "audio"),
        lambda config: VideoVAEConfig.from_json(config["vae"]),
        lambda config: AudioVAEConfig.from_json(config["audio_vae"]),
        lambda config: VocoderConfig.from_json(config["vocoder"]),
    ):
        assert read(ours) == read(theirs)


@pytest.mark.parametrize(
    "stated, version",
    [
        ("2", None), ("22b", None), ("23", "2.3"), ("v25", "2.5"), ("V2.3", "2.3"), ("2.0.1", "2.0"),
        ("2.3", "2.3"), ("2.3.rc1", "2.3"), ("2.3-rc2", "2.3"), ("2.30", "2.3"),
        ("2.5.0", "2.5"), ('"2.5.0"', "2.5"), ("2.5", "2.5"),
    ],
)  # fmt: skip
def test_stated_versions(stated, version):
    assert stated_version({"model_version": stated}) == version


@pytest.mark.parametrize("stated", ["2.4-rc2", "2.6"])
def test_newer_versions_are_refused(stated):
    with pytest.raises(CheckpointError, match=r"LTX 2\.[46].*runs LTX-2\.0, LTX-2\.3, LTX-2\.5"):
        stated_version({"model_version": stated})


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", COMPONENTS)
@pytest.mark.slow
def test_every_component_is_filled(sets, version, name):
    models = open_models(sets[version][0])
    network = build(models, name, torch.float32)
    assert not any(tensor.is_meta for tensor in [*network.parameters(), *network.buffers()])
    assert sum(p.numel() for p in network.state_dict().values()) == models.source(name).parameters
    assert not models.unknown(models.files[0]) and models.missing == ["text_encoder"]


@pytest.mark.slow
def test_split_files_are_one_model(sets, tmp_path):
    whole = load_file(sets["2.3"][0])
    metadata = TensorFile(sets["2.3"][0]).metadata
    config = json.loads(metadata["config"])
    parts = {"transformer": "model.", "vae": "vae.", "audio": ("audio_vae.", "vocoder."), "text": "text_"}
    paths = []
    for name, prefix in parts.items():
        # A split video VAE drops its prefix, and a split file declares only its own sections.
        tensors = {k.removeprefix("vae."): v for k, v in whole.items() if k.startswith(prefix)}
        own = {s: v for s, v in config.items() if s == {"audio": "audio_vae", "text": ""}.get(name, name)}
        own |= {"vocoder": config["vocoder"]} if name == "audio" else {}
        own |= {"transformer": config["transformer"]} if name == "text" else {}
        save_file(tensors, tmp_path / f"{name}.safetensors", {"config": json.dumps(own), "model_version": "2.3"})
        paths.append(tmp_path / f"{name}.safetensors")
    models = open_models(paths, sets["2.3"][1])
    assert not models.missing
    for name in COMPONENTS:
        whole_state = build(open_models(sets["2.3"][0]), name).state_dict()
        assert all(torch.equal(value, whole_state[key]) for key, value in build(models, name).state_dict().items())


def test_each_file_of_a_model_that_is_cut_into_several_stands_for_all(sets, tmp_path):
    whole, metadata = load_file(sets["2.3"][0]), TensorFile(sets["2.3"][0]).metadata
    paths = [tmp_path / f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    for number, path in enumerate(paths):
        save_file({key: whole[key] for key in list(whole)[number::3]}, path, metadata)
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")  # as macOS leaves them on foreign disks
    for named in (paths, paths[1], tmp_path):
        (file,) = open_models(named).files
        assert file.entries.keys() == whole.keys()

    copied = tmp_path / "copy.safetensors"
    copied.write_bytes(paths[0].read_bytes())
    with pytest.raises(CheckpointError, match=r"hold .*: copy\.safetensors and model-00001-of-00003\.safetensors"):
        open_models(tmp_path)
    copied.unlink()
    paths[1].unlink()
    for named in (paths[0], tmp_path):
        with pytest.raises(FileNotFoundError, match=r"model-00002-of-00003\.safetensors is missing"):
            open_models(named)


@pytest.mark.slow
def test_weights_stay_memory_mapped(sets):
    models = open_models(sets["2.0"][0])
    network = build(models, "transformer")
    key = models.source("transformer").names["video.project_in.weight"]
    assert network.video.project_in.weight.data_ptr() == models.files[0].get(key).data_ptr()


# -- Bad input, each with its sentence ---------------------------------------------------------------------------------


def test_truncated_file(sets, tmp_path):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(sets["2.0"][0].read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=r"broken.safetensors is incomplete: it has [\d,]+ bytes and should have"):
        open_models(broken)
    broken.write_bytes(sets["2.0"][0].read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="is incomplete"):
        open_models(broken)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a zip", struct.pack("<Q", 4) + b"{{{{", b"\xff" * 100])
def test_something_else(content, tmp_path):
    other = tmp_path / "other.safetensors"
    other.write_bytes(content)
    with pytest.raises(
        CheckpointError, match=r"neither a safetensors nor a GGUF file|header of other\.safetensors is not valid JSON"
    ):
        open_models(other)


@pytest.mark.parametrize("share", [0.5, 0.98, 1.0])
def test_a_large_file_that_ends_in_zeros_is_told_to_be_a_download(tmp_path, share):
    """Some ways to download set room aside for the whole file first, so that its size says nothing."""
    path, size = tmp_path / "x.safetensors", 2**26
    header = json.dumps({"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.seek(8 + len(header) + int(share * size) - 1)
        file.write(b"1")
        file.truncate(8 + len(header) + size)
    if share == 1:
        assert TensorFile(path).get("a")[-1] == 49
    else:
        with pytest.raises(CheckpointError, match=r"x\.safetensors ends in 671,\d+ bytes of zeros or more.*download"):
            TensorFile(path)


def test_a_file_with_a_note_of_its_download_beside_it_is_refused(sets, tmp_path):
    """aria2 sets the whole file aside and fills it in pieces, the last of which may be there before others are."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(sets["2.3"][0].read_bytes())
    open_models(path)
    (tmp_path / "x.safetensors.aria2").touch()
    with pytest.raises(CheckpointError, match=r"still being downloaded, as x\.safetensors\.aria2"):
        open_models(path)


def test_files_of_diffusers_are_called_by_their_folders_since_all_have_one_name(tmp_path):
    path = tmp_path / "LTX-2" / "vae" / "diffusion_pytorch_model.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    with pytest.raises(
        CheckpointError, match=rf"^{re.escape(str(Path(*path.parts[-3:])))} is neither a safetensors nor"
    ):
        open_models(tmp_path / "LTX-2")


def test_lfs_pointer(tmp_path):
    pointer = tmp_path / "model.safetensors"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 43\n")
    with pytest.raises(CheckpointError, match=r"git-LFS pointer.*git lfs pull"):
        open_models(pointer)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file"):
        open_models(tmp_path / "nothing.safetensors")
    with pytest.raises(OSError, match="a folder, a pipe or a device"):
        TensorFile(tmp_path)
    (tmp_path / "link.safetensors").symlink_to("blobs/0123")
    with pytest.raises(FileNotFoundError, match="a link to blobs/0123, which is not there"):
        open_models(tmp_path / "link.safetensors")


def test_a_folder_of_links_is_what_they_lead_to(tmp_path):
    """As in the cache of Hugging Face, of which somebody has removed a part, or as people share parts of models."""
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "model"
    elsewhere.mkdir()
    (elsewhere / "model.safetensors").write_bytes(b"1")
    folder.mkdir()
    (folder / "transformer").symlink_to(elsewhere)
    (folder / "README.md").symlink_to("nowhere")
    assert files_of(folder) == [folder / "transformer" / "model.safetensors"]
    assert files_of(file := folder / "transformer" / "model.safetensors") == [file]
    before = stamps(files_of(folder)), stamps([folder])
    (elsewhere / "model.safetensors").write_bytes(b"23")
    assert stamps(files_of(folder)) != before[0]
    assert [Path(name).name for name, *_ in stamps([folder])] == ["transformer"]


@pytest.mark.skipif(os.name == "nt", reason="there a file that is overwritten keeps its time of creation")
def test_another_file_of_the_same_size_and_time_is_noticed(tmp_path):
    path, other = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    for each in (path, other):
        each.write_bytes(each.name.encode())
        os.utime(each, (10**9, 10**9))
    before = stamps([path])
    assert stamps([path]) == before
    time.sleep(0.02)  # longer than the clock of a disk ticks
    other.replace(path)
    moved = stamps([path])
    time.sleep(0.02)
    path.write_bytes(b"c.safetensors")
    os.utime(path, (10**9, 10**9))
    written = stamps([path])
    assert len({str(each) for each in (before, moved, written)}) == 3
    assert before[0][:3] == moved[0][:3] == written[0][:3]


def test_video_only_file(sets, tmp_path):
    whole = load_file(sets["2.0"][0])
    video = {k: v for k, v in whole.items() if "audio" not in k and k.startswith("model.")}
    save_file(video, tmp_path / "video.safetensors")
    with pytest.raises(CheckpointError, match=r"video.safetensors: This is a video-only LTX-Video transformer"):
        open_models(tmp_path / "video.safetensors")


def test_text_parts_of_another_version(sets, tmp_path):
    transformer = {k: v for k, v in load_file(sets["2.3"][0]).items() if k.startswith("model.")}
    text = {k: v for k, v in load_file(sets["2.0"][0]).items() if k.startswith("text_")}
    save_file(transformer, tmp_path / "transformer.safetensors", TensorFile(sets["2.3"][0]).metadata)
    save_file(text, tmp_path / "text.safetensors")
    with pytest.raises(CheckpointError, match=r"transformer.safetensors is LTX-2\.3, text.safetensors is LTX-2\.0"):
        open_models([tmp_path / "transformer.safetensors", tmp_path / "text.safetensors"])


def test_a_file_that_lies_about_its_version(sets, tmp_path):
    metadata = TensorFile(sets["2.0"][0]).metadata | {"model_version": "2.3"}
    with pytest.raises(CheckpointError, match=r"says it is LTX-2\.3, but its tensors are those of LTX-2\.0"):
        open_models(rewrite(sets["2.0"][0], tmp_path / "liar.safetensors", metadata))


def test_missing_and_unknown_and_misshapen_tensors(sets, tmp_path):
    key = "model.diffusion_model.transformer_blocks.1.attn1.to_q.weight"
    lacking = open_models(rewrite(sets["2.0"][0], tmp_path / "a.safetensors", **{key: None}))
    with pytest.raises(CheckpointError, match=f"transformer in a.safetensors lacks tensors: {key}"):
        build(lacking, "transformer")
    unknown = open_models(rewrite(sets["2.0"][0], tmp_path / "b.safetensors", **{f"{key}_x": torch.ones(2)}))
    with pytest.raises(CheckpointError, match=f"has unknown tensors: {key}_x"):
        build(unknown, "transformer")
    misshapen = open_models(rewrite(sets["2.0"][0], tmp_path / "c.safetensors", **{key: torch.ones(2, 2)}))
    with pytest.raises(CheckpointError, match=rf"wrongly shaped tensors: {key} is \(2, 2\) and should be \(32, 32\)"):
        build(misshapen, "transformer")


@pytest.mark.parametrize("version", VERSIONS)
def test_unknown_tensors_under_the_text_projection_are_told(sets, tmp_path, version):
    """Before its names stands nothing that others would have, too."""
    for number, key in enumerate(("text_embedding_projection.x.weight", "text_embedding_projection.aggregate_embed.x")):
        odd = open_models(rewrite(sets[version][0], tmp_path / f"{number}.safetensors", **{key: torch.ones(2)}))
        with pytest.raises(CheckpointError, match=f"has unknown tensors: {key}"):
            odd.network("text_features")


def test_a_part_that_is_not_there(sets, tmp_path):
    parts = {k: v for k, v in load_file(sets["2.0"][0]).items() if not k.startswith("vocoder.")}
    save_file(parts, tmp_path / "mute.safetensors", TensorFile(sets["2.0"][0]).metadata)
    models = open_models(tmp_path / "mute.safetensors")
    assert models.missing == ["vocoder", "text_encoder"]
    with pytest.raises(CheckpointError, match=r"mute\.safetensors has no vocoder"):
        build(models, "vocoder")


def test_inspect(sets, capsys):
    assert main(["inspect", *map(str, sets["2.3"])]) == 0
    said = capsys.readouterr().out
    assert "LTX-2.3 (model_version 2.3.0)" in said and "BF16" in said and "needs: Gemma 3 12B" in said
    assert said.count("Gemma 3 text encoder, 2 layers of width 32, with tokenizer") == 2


def test_inspect_without_metadata(sets, tmp_path, capsys):
    main(["inspect", str(rewrite(sets["2.0"][0], tmp_path / "bare.safetensors", {}))])
    said = capsys.readouterr().out
    assert "LTX-2.0 (told by its tensors" in said and "The header has no config" in said


def test_inspect_something_else(tmp_path, capsys):
    save_file({"weight": torch.ones(1)}, tmp_path / "other.safetensors")
    assert main(["inspect", str(tmp_path / "other.safetensors")]) == 2
    assert "does not look like LTX-2" in capsys.readouterr().err


def test_a_component_takes_the_variant_that_knows_most_of_a_file():
    def variant(name: str, *rows: str) -> Variant:
        keys = Keys(same(rows), prefixes=("vae.", ""))
        return Variant(keys, lambda config, shapes: torch.nn.Identity(), lambda config: config["kind"] == name)

    old, new = variant("old", "conv.weight", "conv.bias"), variant("new", "conv.weight", "shift.weight", "noise.weight")
    component = Component((old, new))
    assert component.find(["vae.conv.weight", "vae.conv.bias"]) == (
        old,
        {"conv.weight": "vae.conv.weight", "conv.bias": "vae.conv.bias"},
    )
    found, names = component.find(["conv.weight", "conv.weight_scale", "shift.weight", "noise.weight", "other.weight"])
    assert found is new and names["conv.weight_scale"] == "conv.weight_scale" and "other.weight" not in names
    assert component.find(["other.weight"]) is None
    assert component.claims("vae.noise.weight") and not component.claims("other.weight")
    assert component.variant_for({"kind": "new"}) is new
    assert new.keys.official("shift.weight_scale") == "vae.shift.weight_scale"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_no_number_is_found_wherever_it_is_and_large_numbers_are_numbers(dtype):
    x = torch.full((3, 1000), torch.finfo(dtype).max, dtype=dtype)
    assert x.sum().isinf() and holds_numbers(x)
    for broken in (torch.nan, torch.inf, -torch.inf):
        damaged = x.clone()
        damaged[1, 777] = broken
        assert not holds_numbers(damaged)
    damaged[2, 3] = torch.inf  # beside one of the other sign
    assert not holds_numbers(damaged)


def test_a_tensor_that_is_looked_at_in_pieces_is_looked_at_to_its_end():
    large = torch.zeros(8, 2**21 + 1, dtype=torch.float16)
    check_numbers(large, lambda: "x")
    large[-1, -1] = torch.nan
    with pytest.raises(CheckpointError, match="x holds NaN"):
        check_numbers(large, lambda: "x")


def test_a_file_that_was_written_anew_is_asked_anew(tmp_path):
    """What a file holds is found once for each time that it is opened."""
    path, found = tmp_path / "part.safetensors", []
    for key in ("vocoder.conv_pre.weight", "audio_vae.decoder.conv_in.conv.weight"):
        save_file({key: torch.zeros(2)}, path)
        file = TensorFile(path)
        found.append([name for name, _ in sources_in(file)])
        assert [name for name, _ in sources_in(file)] == found[-1]
    assert found == [["vocoder"], ["audio_decoder"]]


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("used", [True, False])
def test_a_file_that_was_written_anew_while_it_was_open_is_not_read_by_its_old_header(tmp_path, used, in_place):
    """One that took the place of a mapped file changes nothing: the mapping is that of the old one."""
    path, wanted = tmp_path / "x.safetensors", torch.arange(8.0)
    save_file({"b": wanted}, path)
    file = TensorFile(path)
    if used:
        assert torch.equal(file.get("b"), wanted)
    save_file({"a": torch.ones(3), "b": wanted, "c": torch.ones(99)}, tmp_path / "new.safetensors")
    if in_place:
        path.write_bytes((tmp_path / "new.safetensors").read_bytes())
    else:
        (tmp_path / "new.safetensors").replace(path)
    if used and not in_place:
        assert torch.equal(file.get("b"), wanted)
    else:
        with pytest.raises(CheckpointError, match=r"x\.safetensors was written anew while it was in use"):
            file.get("b")
    assert torch.equal(TensorFile(path).get("b"), wanted)


def test_files_of_one_header_and_time_differ_by_what_they_hold(tmp_path):
    """As files that come out of some archives, and those of some disks, have one time of writing."""
    found = []
    for name, number in (("a", 1.0), ("b", 1.0), ("c", 2.0)):
        save_file({"x": torch.full((2**14,), number)}, tmp_path / name)
        os.utime(tmp_path / name, ns=(1, 1))
        found.append(TensorFile(tmp_path / name).identity)
    assert found[0] == found[1] != found[2]
    file = TensorFile(tmp_path / "a")
    (tmp_path / "a").unlink()
    with pytest.raises(LTX2Error):
        _ = file.identity


def test_tensors_are_assigned_as_torch_would_assign_them():
    """What a file does not hold stays, and what it holds besides is left out."""

    def network():
        inner = nn.BatchNorm1d(3)
        inner.register_buffer("passing", torch.zeros(2), persistent=False)
        return nn.ModuleDict({"first": nn.Linear(3, 4, bias=False), "inner": nn.Sequential(inner, nn.Linear(3, 3))})

    state = {name: torch.randn(tensor.shape).to(tensor.dtype) for name, tensor in network().state_dict().items()}
    ours, theirs = network(), network().requires_grad_(False)
    assign_tensors(ours, state | {"elsewhere.weight": torch.zeros(1)})
    theirs.load_state_dict(state, assign=True)
    for name, tensor in theirs.state_dict().items():
        assert ours.state_dict()[name].data_ptr() == tensor.data_ptr() == state[name].data_ptr()
    assert [name for name, each in ours.named_parameters()] == [name for name, each in theirs.named_parameters()]
    assert not any(each.requires_grad for each in ours.parameters())
    assert torch.equal(ours["inner"][0].passing, torch.zeros(2))
