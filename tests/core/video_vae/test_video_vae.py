"""The video VAE against the official one, its numbers, its key lists, and its own rules."""

import gzip
import json
import math
from pathlib import Path

import pytest
import torch
from agreement import compare
from drawn import randn
from peak import Peak
from torch.testing import assert_close

from ltx2_core.checkpoint.keys.video_vae import VIDEO_DECODER, VIDEO_ENCODER
from ltx2_core.errors import CheckpointError, SettingError
from ltx2_core.layers.kernels import NORM_SILU, Kernel, Operation
from ltx2_core.video_vae import DecoderInput, Tiling, VideoDecoder, VideoEncoder, VideoVAEConfig, encode_stream, layers
from ltx2_core.video_vae.config import ResampleConfig
from ltx2_core.video_vae.layers import Conv, Downsample, Upsample, patchify, pixel_norm, unpatchify
from ltx2_core.video_vae.tiling import (
    Span,
    blend_weights,
    count_encoding_tiles,
    largest_tile,
    split_axis,
    split_time_axis,
    to_frames,
    to_pixels,
)

GOLDEN = Path(__file__).parents[2] / "golden"
VERSIONS = ["2.0", "2.3"]
VECTORS = json.loads((GOLDEN / "test_vectors_vae_audio.json").read_text())
MINIATURE = {
    "dims": 3,
    "latent_channels": 16,
    "decoder_base_channels": 4,
    "encoder_blocks": [["compress_all_res", {"multiplier": 1}]] * 3,
    "decoder_blocks": [
        ["res_x", {"num_layers": 2, "inject_noise": False}],
        ["compress_all", {"residual": False, "multiplier": 1}],
        ["res_x", {"num_layers": 3, "inject_noise": False}],
        ["compress_all", {"residual": False, "multiplier": 1}],
        ["res_x", {"num_layers": 3, "inject_noise": False}],
        ["compress_all", {"residual": False, "multiplier": 8}],
    ],
    "timestep_conditioning": False,
}
HALVES = {"encoder": (VideoEncoder, VIDEO_ENCODER), "decoder": (VideoDecoder, VIDEO_DECODER)}


def section(version: str, **changes) -> dict:
    """A release's vae config; "mini" is the miniature's."""
    if version == "mini":
        return {**MINIATURE, **changes}
    return {**json.loads((GOLDEN / f"config_{version}.json").read_text())["vae"], **changes}


def narrow(version: str, **changes) -> dict:
    widths = {} if version == "mini" else {"latent_channels": 8, "decoder_base_channels": 8}
    return section(version, **widths, **changes)


def official_name(half: str, name: str) -> str:
    """As ltx-core's module of this half calls it."""
    return HALVES[half][1].official(name).removeprefix("vae.").removeprefix(f"{half}.")


def official_pair(half: str, config: dict, seed: int = 0):
    """ltx-core's module with random weights, and ours with the same ones."""
    configurators = pytest.importorskip("ltx_core.model.video_vae.model_configurator")
    theirs = getattr(configurators, f"Video{half.title()}Configurator").from_config({"vae": config}).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in theirs.state_dict().items():
        gain = 1.5 / math.sqrt(tensor[0].numel()) if tensor.ndim > 1 else 0.1
        tensor.copy_(gain * torch.randn(tensor.shape, generator=generator) + (1.0 if "std" in name else 0.0))
    return theirs, translated(half, config, theirs.state_dict())


def translated(half: str, config: dict, state: dict) -> VideoEncoder | VideoDecoder:
    make, keys = HALVES[half]
    ours = make(VideoVAEConfig.from_json(config))

    def ours_of(name: str) -> str:
        prefix = "" if name.startswith("per_channel") else f"{half}."
        return keys.ours(prefix + name, "")

    ours.load_state_dict({ours_of(name): tensor for name, tensor in state.items()}, strict=True)
    return ours


def picture(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


# Agreement with the official implementation


@pytest.mark.parametrize("version", [*VERSIONS, "mini"])
@torch.no_grad()
def test_encoder_agrees(version):
    theirs, ours = official_pair("encoder", narrow(version))
    for frames in (1, 9, 20):
        pixels = picture(1 if frames > 1 else 2, 3, frames, 64, 96)
        compare(f"video_vae.encoder {version}", ours(pixels), theirs(pixels))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("version", [*VERSIONS, "mini"])
@torch.no_grad()
def test_decoder_agrees(version, causal):
    theirs, ours = official_pair("decoder", narrow(version, causal_decoder=causal))
    for latent in (randn(2, ours.config.latent_channels, 1, 2, 3), randn(1, ours.config.latent_channels, 3, 3, 2)):
        compare(f"video_vae.decoder {version}", ours(latent), theirs(latent))


@pytest.mark.parametrize(
    ("version", "size", "pixels", "frames"),
    [
        ("2.3", (8, 3, 5), (64, 32), (32, 16)),
        ("2.0", (5, 7, 2), (96, 64), (16, 0)),
        ("2.0", (6, 2, 4), (64, 0), (24, 16)),
        ("2.3", (2, 4, 6), (128, 32), (16, 8)),  # 3 x 4 latents: the shorter side in proportion, rounded
        ("2.3", (1, 3, 5), (64, 32), (16, 8)),  # a picture
        ("2.0", (2, 5, 3), (64, 32), (64, 24)),  # a clip shorter than a tile
        ("2.3", (11, 2, 2), (512, 64), (64, 24)),
    ],
)
@torch.no_grad()
def test_tiled_decoder_agrees(version, size, pixels, frames):
    theirs, ours = official_pair("decoder", narrow(version))
    from ltx_core.model.video_vae.tiling import SpatialTilingConfig, TemporalTilingConfig, TilingConfig

    latent = randn(1, 8, *size)
    tiling = TilingConfig(SpatialTilingConfig(*pixels), TemporalTilingConfig(*frames))
    expected = torch.cat(list(theirs.tiled_decode(latent, tiling)), dim=2)
    frames_of_ours = torch.cat(list(ours.decode(DecoderInput(latent, Tiling(*pixels, *frames)))), dim=2)
    compare(f"video_vae.tiled decoder {version}", frames_of_ours, expected)


@pytest.mark.parametrize("size", [(1, 5, 11), (2, 11, 5), (11, 3, 4), (13, 9, 7)])
@torch.no_grad()
@pytest.mark.slow
def test_tiles_are_the_whole_where_they_do_not_blend(size):
    """Of a decoder that sees no farther than tiles overlap."""
    config = narrow("mini", decoder_blocks=[["compress_all", {"multiplier": m}] for m in (1, 1, 8)])
    decoder = VideoDecoder(VideoVAEConfig.from_json(config))
    latent, tiling = randn(1, 16, *size), Tiling(224, 96, 64, 24)
    tiled, whole = torch.cat(list(decoder.decode(DecoderInput(latent, tiling))), 2), decoder(latent)
    alone = torch.ones(whole.shape[2:], dtype=torch.bool)
    shortest = max(4, round(7 * min(size[1:]) / max(size[1:])))
    spans = split_time_axis(size[0], 8, 3), *(split_axis(n, 7 if n == max(size[1:]) else shortest, 3) for n in size[1:])
    for axis, tiles in enumerate(spans):
        for tile in tiles:
            target = to_frames(tile, 8) if axis == 0 else to_pixels(tile, 32)
            if target.fade_in:
                alone.narrow(axis, target.start, target.fade_in).fill_(False)
    assert 0.1 < alone.float().mean() < 1
    assert_close(tiled[..., alone], whole[..., alone], atol=1e-5, rtol=0)
    assert (tiled - whole).abs().max() > 1e-4


@pytest.mark.parametrize("name", [name for name in VECTORS if name.startswith("video_")])
@pytest.mark.sample(1)
def test_published_numbers(name):
    _, half, version, *flags = name.split("_")
    config = narrow(version, causal_decoder=bool(flags))
    ours = HALVES[half][0](VideoVAEConfig.from_json(config))
    names = sorted(ours.state_dict(), key=lambda name: official_name(half, name))
    for position, name_of_ours in enumerate(names):
        fill(ours.state_dict()[name_of_ours], position, official_name(half, name_of_ours))

    expected = VECTORS[name]["output"]
    shape = VECTORS[name.removesuffix("_causal_true")]["input"]
    i = torch.arange(math.prod(shape), dtype=torch.float64)
    x = 0.8 * torch.sin(0.37 * i) + 0.2 * torch.cos((0.011 * i * i) % 6.283)
    output = ours.double()(x.float().double().reshape(shape))
    assert list(output.shape) == expected["shape"]
    indices = torch.tensor([int(index) for index in expected["samples"]])
    samples = torch.tensor(list(expected["samples"].values()))
    # These weights magnify rounding. In float64 we and ltx-core agree to 1e-12; the numbers were made in float32.
    tolerance = 5e-4 if name == "video_decoder_2.0_causal_true" else 5e-5
    seam = " ".join([f"video_vae.{half}", version, *flags[:1], "vectors"])
    compare(seam, output.flatten()[indices], samples, tolerance)
    assert_close((output.mean().item(), output.std().item()), (expected["mean"], expected["std"]), atol=2e-5, rtol=2e-5)


def fill(tensor: torch.Tensor, position: int, name: str) -> None:
    """The weights by formula of the vectors' ``_about``."""
    s = torch.sin(0.7 * torch.arange(tensor.numel(), dtype=torch.float64) + 1.3 * position).reshape(tensor.shape)
    if name.endswith("std-of-means"):
        s = 1 + 0.25 * s
    else:
        s = s * (1.5 / math.sqrt(tensor[0].numel()) if tensor.ndim > 1 else 0.1)
    tensor.copy_(s)


# Files


@pytest.mark.parametrize(
    ("version", "elements", "encoder", "decoder"),
    [("2.0", 1_222_479_857, 694_098_881, 528_380_720), ("2.3", 726_106_225, 318_936_897, 407_169_072)],
)
def test_every_tensor_of_the_released_files_has_its_place(version, elements, encoder, decoder):
    listing = gzip.decompress(
        (GOLDEN / f"video_vae_{version}_{'19b' if version == '2.0' else '22b'}.tsv.gz").read_bytes()
    )
    shapes = {
        key: tuple(map(int, shape.split("x")))
        for key, shape in (line.split("\t") for line in listing.decode().splitlines() if not line.startswith("#"))
    }
    found = {}
    with torch.device("meta"):
        config = VideoVAEConfig.from_json(section(version))
        for half, (make, keys) in HALVES.items():
            module = make(config)
            for name, tensor in module.state_dict().items():
                found[keys.official(name)] = tuple(tensor.shape)
                assert keys.ours(keys.official(name), "vae.") == name
            assert sum(p.numel() for p in module.parameters()) == {"encoder": encoder, "decoder": decoder}[half]
    assert found == shapes
    assert sum(math.prod(shape) for shape in shapes.values()) == elements
    assert (config.time_scale, config.space_scale) == (8, 32)


def test_split_files_and_statistics_of_training():
    assert VIDEO_DECODER.ours("decoder.up_blocks.3.conv.conv.weight", "") == "blocks.3.0.conv.weight"
    assert (
        VIDEO_ENCODER.ours("vae.encoder.down_blocks.0.res_blocks.2.conv1.conv.bias", "vae.") == "blocks.0.2.conv1.bias"
    )
    assert VIDEO_ENCODER.ours("vae.per_channel_statistics.mean-of-stds", "vae.") is None
    assert not VIDEO_ENCODER.knows("vae.decoder.conv_in.conv.weight", "vae.")


@pytest.mark.parametrize(
    ("changes", "paddings"),
    [
        ({}, ("zeros", "reflect")),
        ({"spatial_padding_mode": "zeros"}, ("zeros", "zeros")),
        ({"spatial_padding_mode": "reflect"}, ("reflect", "reflect")),
        # A repackaged config; the official reader does not read the decoder's key.
        ({"encoder_spatial_padding_mode": "zeros", "decoder_spatial_padding_mode": "zeros"}, ("zeros", "reflect")),
    ],
)
def test_padding_follows_the_official_reader(changes, paddings):
    config = VideoVAEConfig.from_json(section("2.0", **changes))
    assert (config.encoder_padding, config.decoder_padding) == paddings


def test_what_a_config_leaves_out_is_as_in_the_releases():
    told, needed = section("2.3"), ("encoder_blocks", "decoder_blocks", "timestep_conditioning", "spatial_padding_mode")
    assert VideoVAEConfig.from_json({key: told[key] for key in needed}) == VideoVAEConfig.from_json(told)
    with pytest.raises(CheckpointError, match="timestep_conditioning = True"):
        VideoVAEConfig.from_json({key: told[key] for key in needed if key != "timestep_conditioning"})
    blocks = {"encoder_blocks": [["compress_all_res", {}]], "decoder_blocks": [["compress_all", {}]]}
    config = VideoVAEConfig.from_json(section("2.3", **blocks))
    assert [block.multiplier for block in (*config.encoder_blocks, *config.decoder_blocks)] == [2, 1]


def test_only_compress_all_has_a_skip():
    names = ["compress_all", "compress_time", "compress_space"]
    blocks = {
        "encoder_blocks": [[f"{name}_res", {}] for name in names],
        "decoder_blocks": [[name, {"residual": True}] for name in names],
    }
    config = VideoVAEConfig.from_json(section("2.0", **blocks))
    assert [block.residual for block in config.decoder_blocks] == [False, False, True]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"timestep_conditioning": True}, "timestep_conditioning = True"),
        ({"norm_layer": "group_norm"}, "norm_layer = 'group_norm'"),
        ({"latent_log_var": "per_channel"}, "latent_log_var"),
        ({"spatial_padding_mode": "circular"}, "'circular' padding"),
        ({"decoder_blocks": []}, "lists no decoder_blocks"),
        ({"decoder_blocks": [["attn_res_x", {"num_layers": 1}]]}, "'attn_res_x'"),
        ({"decoder_blocks": [["res_x", {"num_layers": 1, "inject_noise": True}]]}, "inject_noise"),
        ({"decoder_blocks": [["compress_all", {}]]}, "both must agree"),
    ],
)
def test_unsupported_configs_are_refused(changes, words):
    with pytest.raises(CheckpointError, match=words):
        VideoVAEConfig.from_json(section("2.0", **changes))


# Layers


@pytest.mark.parametrize(("causal", "expected"), [(True, [111, 211, 321, 432]), (False, [211, 321, 432, 443])])
@torch.no_grad()
def test_edge_frames_repeat(causal, expected):
    conv = Conv(1, 1, "zeros", causal)
    conv.weight.zero_()[0, 0, :, 1, 1] = torch.tensor([1.0, 10.0, 100.0])
    conv.bias.zero_()
    frames = torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 4, 1, 1)
    assert conv(frames).flatten().tolist() == expected


@pytest.mark.parametrize("causal", [True, False])
@torch.no_grad()
def test_mirrored_edges_are_those_of_torch(causal):
    conv = Conv(4, 2, "reflect", causal, activate=True)
    x = randn(2, 4, 11, 2, 5)
    activated = torch.nn.functional.silu(pixel_norm(x))
    repeated = torch.nn.functional.pad(activated, (0, 0, 0, 0, 2 - (not causal), 0 + (not causal)), mode="replicate")
    mirrored = torch.nn.functional.pad(repeated, (1, 1, 1, 1, 0, 0), mode="reflect")
    assert_close(conv(x), torch.nn.functional.conv3d(mirrored, conv.weight, conv.bias))


@pytest.mark.parametrize("padding", ["zeros", "reflect"])
@torch.no_grad()
def test_a_large_weight_is_left_as_it_lies_beside_a_small_clip(monkeypatch, padding):
    monkeypatch.setattr(layers, "_LARGE_WEIGHT", 1)
    conv = Conv(24, 24, padding, causal=False)
    for frames, side in (1, 3), (9, 16):
        x = randn(1, 24, frames, side, side).contiguous(memory_format=torch.channels_last_3d)
        with Peak() as peak:
            found = conv(x)
        assert (peak.bytes < conv.weight.nbytes) == (frames == 1)
        with monkeypatch.context() as plain:
            plain.setattr(layers, "_LARGE_WEIGHT", 2**30)
            expected = conv(x)
        assert_close(found, expected)
        assert frames > 1 or found.is_contiguous(memory_format=torch.channels_last_3d)


@torch.no_grad()
def test_norm_and_silu_are_done_by_the_kernel_that_is_right(monkeypatch):
    conv, x, seen = Conv(8, 4, "reflect", causal=True, activate=True), randn(1, 8, 9, 3, 4), []
    expected = conv(x)

    def kernel(x, out, eps):
        seen.append(out.shape)
        return NORM_SILU.plain(x, out, eps)

    for function in (kernel, lambda x, out, eps: out.fill_(1)):
        row = Kernel("fake", lambda function=function: function, ("cpu",))
        taken = Operation("", NORM_SILU.plain, [row], NORM_SILU.sample)
        monkeypatch.setattr(layers, "NORM_SILU", taken)
        assert torch.equal(conv(x), expected)
    assert seen[1:] == [x.shape]  # behind its trial, for all frames together


def test_pixel_norm_is_its_formula():
    x = randn(2, 6, 3, 2, 2) * 1e-4
    assert_close(pixel_norm(x), x / (x.square().mean(1, keepdim=True) + 1e-8).sqrt())


def test_patches_count_columns_before_rows():
    picture = torch.arange(16.0).reshape(1, 1, 1, 4, 4)
    assert patchify(picture, 4).flatten().tolist() == [0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15]
    assert torch.equal(unpatchify(patchify(picture, 4), 4), picture)


@torch.no_grad()
def test_downsampling_adds_the_mean_of_neighbours():
    layer = Downsample(8, ResampleConfig((2, 2, 2), multiplier=1), "zeros")
    layer.conv.weight.zero_(), layer.conv.bias.zero_()
    x = randn(1, 8, 3, 4, 4)
    expected = torch.cat([x[:, :, :1], x], 2).unfold(2, 2, 2).unfold(3, 2, 2).unfold(4, 2, 2).mean((-1, -2, -3))
    assert_close(layer(x), expected)


@torch.no_grad()
def test_upsampling_adds_the_repeated_input():
    layer = Upsample(16, ResampleConfig((2, 2, 2), multiplier=2, residual=True), "zeros", causal=False)
    layer.conv.weight.zero_(), layer.conv.bias.zero_()
    x = randn(1, 16, 2, 2, 2)
    y = layer(x)
    assert y.shape == (1, 8, 3, 4, 4)
    for channel in range(8):
        for t, row, col in [(0, 0, 1), (1, 1, 0), (2, 3, 2)]:
            source = (channel % 2) * 8 + ((t + 1) % 2) * 4 + (row % 2) * 2 + col % 2
            assert y[0, channel, t, row, col] == x[0, source, (t + 1) // 2, row // 2, col // 2]


# Geometry


def test_odd_pictures_are_refused_and_surplus_frames_dropped():
    encoder = VideoEncoder(VideoVAEConfig.from_json(narrow("mini")))
    with pytest.raises(SettingError, match=r"100x64 .* 32, .* 96x64"):
        encoder(picture(1, 3, 1, 64, 100))
    assert encoder.crop(picture(1, 3, 20, 32, 32)).shape[2] == 17
    assert encoder.crop(picture(1, 3, 8, 32, 32)).shape[2] == 1


def test_foreign_and_too_small_latents_are_refused():
    decoder = VideoDecoder(VideoVAEConfig.from_json(narrow("2.0")))
    with pytest.raises(SettingError, match=r"16 channels.* 8"):
        decoder(randn(1, 16, 1, 2, 2))
    with pytest.raises(SettingError, match="64x64 pixels"):
        decoder(randn(1, 8, 1, 1, 4))


@torch.no_grad()
def test_the_encoder_looks_back_only():
    encoder = VideoEncoder(VideoVAEConfig.from_json(narrow("2.3")))
    pixels = picture(1, 3, 17, 32, 32)
    changed = pixels.clone()
    changed[:, :, 9:] += 1
    before, after = encoder(pixels), encoder(changed)
    assert_close(before[:, :, :2], after[:, :, :2])
    assert (before[:, :, 2] - after[:, :, 2]).abs().max() > 1e-3


def test_half_precision_weights_give_half_precision_pixels():
    decoder = VideoDecoder(VideoVAEConfig.from_json(narrow("2.0")))
    latent = randn(1, 8, 2, 2, 2)
    whole = decoder(latent)
    half = decoder.bfloat16()(latent)
    assert half.dtype == torch.bfloat16
    assert_close(half.float(), whole, atol=0.05, rtol=0.05)
    assert_close(next(decoder.decode(DecoderInput(latent, Tiling()))), half.float())


# Tiles


def spans(tiles: list[Span]) -> list[tuple[int, int]]:
    return [(tile.start, tile.stop) for tile in tiles]


def test_temporal_tiles_start_one_latent_earlier():
    assert split_time_axis(16, 10, 3) == [Span(0, 10, 0, 3), Span(6, 16, 4, 0)]
    assert spans(split_time_axis(33, 10, 3)) == [(0, 10), (6, 17), (13, 24), (20, 31), (27, 33)]
    first, second = (to_frames(span, 8) for span in split_time_axis(16, 10, 3))
    assert first == Span(0, 73, 0, 24) and second == Span(48, 121, 25, 0)
    left, right = blend_weights([first, second], from_zero=True)
    assert right[0] == 0
    assert_close((left[49].item(), right[1].item()), (0.96, 0.04))


@pytest.mark.parametrize("length", range(1, 40))
@pytest.mark.parametrize(("size", "overlap"), [(2, 0), (2, 1), (3, 1), (10, 3), (24, 2), (10, 8)])
def test_tiles_cover_an_axis_and_their_weights_sum_to_one(length, size, overlap):
    sides = split_axis(length, size, overlap)
    assert (sides[0].start, sides[-1].stop) == (0, length) and all(0 < s.stop - s.start <= size for s in sides)
    assert len(sides) == max(1, math.ceil((length - overlap) / (size - overlap)))
    grids = [
        ([to_pixels(span, 4) for span in sides], False),
        ([to_frames(s, 8) for s in split_time_axis(length, size, overlap)], True),
    ]
    for tiles, from_zero in grids:
        total = torch.zeros(tiles[-1].stop)
        for tile, weight in zip(tiles, blend_weights(tiles, from_zero)):
            total[tile.start : tile.stop] += weight
        assert_close(total, torch.ones_like(total))


class Copy(torch.nn.Module):
    """A codec that knows nothing of its surroundings, so that tiles of it are exactly parts of the whole."""

    config = VideoVAEConfig.from_json(section("2.0", latent_channels=3))

    def enlarge(self, latent):
        frames = torch.cat([latent[:, :, :1], latent[:, :, 1:].repeat_interleave(8, 2)], 2)
        return frames.repeat_interleave(32, 3).repeat_interleave(32, 4)

    def shrink(self, pixels):
        return pixels[:, :, ::8, ::32, ::32]

    crop = VideoEncoder.crop


class CopyDecoder(Copy):
    forward, decode = Copy.enlarge, VideoDecoder.decode
    decode_by, _grid = VideoDecoder.decode_by, VideoDecoder._grid

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))  # whose dtype is that of the decoder


class CopyEncoder(Copy):
    forward = Copy.shrink


TILINGS = [Tiling(), Tiling(64, 0, 16, 8), Tiling(64, 0, 16, 0), Tiling(96, 64, 24, 16), Tiling(128, 64, 32, 24)]


@pytest.mark.parametrize("tiling", TILINGS)
@pytest.mark.parametrize("size", [(1, 1, 1), (2, 1, 5), (7, 3, 4), (12, 9, 2)])
def test_tiles_of_a_copy_are_the_whole(tiling, size):
    latent, calls = randn(1, 3, *size), []
    chunks = list(
        CopyDecoder().decode(DecoderInput(latent, tiling), on_tile=lambda done, total: calls.append((done, total)))
    )
    assert all(chunk.shape[2] for chunk in chunks)
    assert_close(torch.cat(chunks, 2), CopyDecoder()(latent), atol=2e-6, rtol=0)
    assert calls == [(i + 1, len(calls)) for i in range(len(calls))]


@pytest.mark.parametrize("size", [(1, 3, 3), (2, 5, 4), (1, 2, 9), (3, 7, 6)])
def test_no_tile_is_too_narrow_to_mirror_its_edges(monkeypatch, size):
    """What is left for the last one without an overlap may be one cell, which a decoder refused after sampling."""
    shapes, decoder = [], CopyDecoder()
    monkeypatch.setattr(CopyDecoder, "forward", lambda self, x: shapes.append(x.shape[2:]) or self.enlarge(x))
    latent, tiling = randn(1, 3, *size), Tiling(64, 0, 16, 8)
    assert_close(
        torch.cat(list(decoder.decode(DecoderInput(latent, tiling))), 2), decoder.enlarge(latent), atol=2e-6, rtol=0
    )
    assert len(shapes) > 1 and min(min(sides) for _, *sides in shapes) >= 2
    largest, tiles = largest_tile(size, tiling, coupled=True)
    assert largest == tuple(map(max, zip(*shapes)))
    assert tiles == pytest.approx(sum(map(math.prod, shapes)) / math.prod(largest))


@pytest.mark.parametrize("size", [(1, 1, 1), (2, 1, 5), (7, 3, 4), (12, 9, 2)])
def test_encoded_tiles_of_a_copy_are_the_whole(size):
    pixels, encoder = CopyDecoder()(randn(1, 3, *size)), CopyEncoder()
    tiles = []

    def make(work):
        for each in work:
            tiles.append(each)
            yield each.by(encoder)

    for tiling in (Tiling(), Tiling(96, 64, 24, 16)):
        tiles.clear()
        made = encode_stream(encoder, [pixels], pixels.shape[2], tiling, make)
        assert_close(made, encoder(pixels), atol=2e-6, rtol=0)
        assert len(tiles) == count_encoding_tiles(size, tiling)


@pytest.mark.slow
def test_a_streamed_video_is_encoded_as_a_whole_one_but_never_held_whole():
    pixels, tiling, held = picture(1, 3, 150, 64, 128), Tiling(96, 64, 32, 16), []

    class Watching(VideoEncoder):
        def forward(self, tile):
            held.append(tile.untyped_storage().nbytes() // pixels[:, :, :1].nbytes)
            return super().forward(tile)

    encoder = Watching(VideoVAEConfig.from_json(narrow("mini")))
    whole = encode_stream(encoder, [pixels], 145, tiling)
    for size in (1, 7, 40):
        held.clear()
        streamed = encode_stream(encoder, (chunk.clone() for chunk in pixels.split(size, dim=2)), 145, tiling)
        assert max(held) < 33 + size
        assert torch.equal(streamed, whole)
        with pytest.raises(SettingError, match="150 of 161 frames"):
            encode_stream(encoder, pixels.split(size, dim=2), 161, tiling)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_tile_larger_than_the_clip_changes_nothing(version):
    config = VideoVAEConfig.from_json(narrow(version))
    decoder, encoder, latent = VideoDecoder(config), VideoEncoder(config), randn(1, 8, 2, 2, 3)
    whole = decoder(latent)
    (chunk,) = decoder.decode(DecoderInput(latent, Tiling()))
    assert torch.equal(chunk, whole)
    assert torch.equal(encode_stream(encoder, [whole], whole.shape[2], Tiling()), encoder(whole))


def test_frames_stream_out_before_the_last_tile_is_decoded():
    latent, done = randn(1, 3, 12, 2, 2), []
    chunks = CopyDecoder().decode(DecoderInput(latent, Tiling(64, 0, 32, 8)), on_tile=lambda n, total: done.append(n))
    first = next(chunks)
    assert done == [1] and first.shape == (1, 3, 16, 64, 64)


def test_a_tile_is_where_decoding_can_be_stopped():
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(CopyDecoder().decode(DecoderInput(randn(1, 3, 2, 2, 2), Tiling()), on_tile=stop))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"tile_size": 100}, "100 pixels .* 32, at least 64"),
        ({"tile_size": 32}, "at least 64"),
        ({"tile_overlap": 768}, "768 pixels .* by 768: .* 32 from 0 to 736"),
        ({"tile_frames": 20}, "20 frames .* 8, at least 16"),
        ({"frame_overlap": 12}, "by 12"),
        ({"frame_overlap": -8}, "by -8"),
    ],
)
def test_impossible_tiles_are_refused(wrong, words):
    with pytest.raises(SettingError, match=words):
        Tiling(**wrong)


def test_encoding_needs_more_overlap():
    with pytest.raises(SettingError, match="64 pixels and 16 frames"):
        encode_stream(CopyEncoder(), [picture(1, 3, 9, 64, 64)], 9, Tiling(tile_overlap=32))
