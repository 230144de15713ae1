"""The diffusion decoder of LTX-2.5 against published numbers, diffusers, the official one, and its own rules."""

import gzip
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from agreement import compare
from devices import Device
from drawn import randn
from formula import fill, signal
from official_parts import LATENTS, compare_samples, recorded
from torch.testing import assert_close

from ltx2_core.checkpoint.components import COMPONENTS
from ltx2_core.checkpoint.keys.video_vae import DIFFUSION_DECODER, VIDEO_ENCODER
from ltx2_core.errors import CheckpointError, SettingError
from ltx2_core.health import Seams
from ltx2_core.memory import Store
from ltx2_core.memory.trace import cost
from ltx2_core.pipeline.decode_video import decode_video
from ltx2_core.video_vae import (
    DecoderInput,
    Denoising,
    DiffusionDecoder,
    DiffusionDecoderConfig,
    Tiling,
    VideoDecoder,
    VideoEncoder,
    VideoVAEConfig,
    diffusion_decoder,
    diffusion_layers,
)
from ltx2_core.video_vae.diffusion_config import RELEASED
from ltx2_core.video_vae.diffusion_tiles import CellGrid, least_overlap, pad_to
from ltx2_core.video_vae.place_noise import place_noise
from ltx2_core.video_vae.tiling import split_with_least

GOLDEN = Path(__file__).parents[2] / "golden"
VECTORS = json.loads((GOLDEN / "test_vectors_2.5.json").read_text())
NUMBERS = VECTORS["diffusion_decoder"]
TINY = VECTORS["diffusion_decoder_tiny_config"]
PUBLISHED = json.loads((GOLDEN / "vae_config_2.5_diffusion.json").read_text())
VAE_2_3 = json.loads((GOLDEN / "config_2.3.json").read_text())["vae"]
ENCODER = {
    "blocks": VAE_2_3["encoder_blocks"],
    "in_channels": 3,
    "out_channels": 128,
    "dims": 3,
    "patch_size": 4,
    "norm_layer": "pixel_norm",
    "latent_log_var": "constant",
    "spatial_padding_mode": "zeros",
}
# Windows that reach less far, so that tiles of a small clip agree with the whole beyond their edges.
NARROW = {
    **TINY,
    "stage_channels": [64, 32, 16, 16, 16],
    "stage_depths": [1, 1, 1, 1, 1],
    "stage_kernels": [[1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]],
    "upsamples": [[[1, 2, 2], 2], [[2, 1, 1], 2], [[2, 2, 2], 1], [[2, 2, 2], 1]],
    "stage5_kernel": [3, 3, 3],
}


SLIM = {
    **TINY,
    "stage_depths": [1, 1, 1, 1, 1],
    "stage_channels": [64, 32, 16, 16, 16],
    "upsamples": [[[1, 2, 2], 2], [[2, 1, 1], 2], [[2, 2, 2], 1], [[2, 2, 2], 1]],
}


def section(decoder=TINY, predicts="x0", **changes) -> dict:
    return {"_class_name": "CausalDiffusionVAE", "model_output_type": predicts, "decoder": {**decoder, **changes}}


def bare(name: str) -> str:
    return DIFFUSION_DECODER.official(name).removeprefix("vae.").removeprefix("decoder.")


def tiny(decoder=TINY, predicts="x0", **changes) -> DiffusionDecoder:
    """The decoder with the weights of the vectors."""
    config = DiffusionDecoderConfig.from_json(section(decoder, predicts, **changes))
    network = DiffusionDecoder(config).requires_grad_(False).eval()
    fill(network, bare)
    return network


def spread(*shape: int) -> torch.Tensor:
    """The noise of the vectors."""
    v = 43758.5453 * torch.sin(12.9898 * torch.arange(math.prod(shape), dtype=torch.float64) + 0.5)
    return (1.7320508 * (2 * (v - v.floor()) - 1)).float().reshape(shape)


def matches(name: str, found: torch.Tensor) -> None:
    expected = NUMBERS[name]
    assert list(found.shape) == expected["shape"]
    indices = torch.tensor([int(index) for index in expected["samples"]])
    samples = torch.tensor(list(expected["samples"].values()))
    compare(f"video_vae.diffusion {name} vectors", found.flatten()[indices], samples)
    statistics = (found.mean().item(), found.std().item())
    assert_close(statistics, (expected["mean"], expected["std"]), atol=2e-6, rtol=1e-5)


def whole(decoder: DiffusionDecoder, latent: torch.Tensor, tiling: Tiling = Tiling(4096, 160, 4096, 40), **noise):
    return torch.cat(list(decoder.decode(DecoderInput(latent, tiling, Denoising(**noise)))), dim=2)


# Published numbers


@torch.no_grad()
@pytest.mark.slow
def test_published_numbers_of_every_stage():
    decoder, latent = tiny(), signal(1, 8, 2, 3, 3)
    matches("timestep_embedding_at_1.0", decoder.time.embed(1.0)[None])
    cells, _ = decoder.make_cells(latent)
    matches("stage1to3_feature", cells)
    context = decoder.make_context(cells, is_first=True, is_last=True)
    matches("stage4_context", context)
    matches("x0_full_window", decoder(latent, spread(1, 3, 9, 96, 96)))
    later = decoder.make_context(cells[:, 3:9], is_first=False, is_last=False)
    matches("x0_non_origin_tile", decoder.denoise(spread(1, 3, 12, 96, 96), later))


@torch.no_grad()
@pytest.mark.slow
def test_published_numbers_of_several_steps():
    latent, noise = signal(1, 8, 2, 3, 3), spread(1, 3, 9, 96, 96)
    matches("x0_three_steps", tiny()(latent, noise, steps=3))
    matches("v_two_steps", tiny(predicts="v", default_num_inference_steps=2)(latent, noise))


@pytest.mark.slow
@torch.no_grad()
def test_published_numbers_of_tiles_and_short_clips(monkeypatch):
    decoder, shapes = tiny(), []

    def noise(seed, shape, start, like):
        shapes.append(list(shape))
        return spread(*shape)

    monkeypatch.setattr(diffusion_decoder, "place_noise", noise)
    matches("short_clip", whole(decoder, signal(1, 8, 1, 2, 3)))
    assert shapes == NUMBERS["short_clip"]["noise_shapes"]
    shapes.clear()
    sizes = [CellGrid.of(decoder.config, (4, 4, 5), Tiling(side, 32, 16, 8)) for side in (64, 96)]
    grid = replace(sizes[0], tiles=replace(sizes[0].tiles, columns=sizes[1].tiles.columns))
    monkeypatch.setattr(CellGrid, "of", lambda *rest: grid)
    matches("tiled", whole(decoder, signal(1, 8, 4, 4, 5)))
    assert shapes == NUMBERS["tiled"]["tile_noise_shapes"]


def test_published_sizes():
    small, real = (DiffusionDecoderConfig.from_json(each) for each in (section(), PUBLISHED))
    assert list(small.smallest) == NUMBERS["min_latent_shape"] and real.smallest == (3, 7, 7)
    assert list(small.smallest_tile) == NUMBERS["tile_min_stage4"] and real.smallest_tile == (6, 6, 6)
    assert least_overlap(real) == (160, 40) and (real.time_scale, real.space_scale, real.ghosts) == (8, 32, 2)
    intervals = CellGrid.of(real, (16, 16, 24), Tiling(320, 160, 80, 40)).tiles.intervals
    rows = CellGrid.of(real, (16, 16, 24), Tiling(320, 160, 80, 40)).tiles.rows
    columns = CellGrid.of(real, (16, 16, 24), Tiling(384, 160, 80, 40)).tiles.columns
    assert [(tile.target.start, tile.target.stop) for tile in intervals] == [(0, 79), (39, 119), (79, 121)]
    assert [(tile.target.start, tile.target.stop) for tile in rows] == [(0, 320), (160, 480), (320, 512)]
    assert [(tile.target.start, tile.target.stop) for tile in columns] == [(0, 384), (224, 608), (448, 768)]
    assert [(tile.source.start, tile.source.stop) for tile in intervals] == [(0, 40), (20, 60), (40, 61 + 8)]


# Other implementations


@torch.no_grad()
@pytest.mark.slow
def test_the_decoder_of_diffusers_agrees():
    """From 17 frames on: below, its windows shrink and its crop keeps fewer frames."""
    module = pytest.importorskip("diffusers.models.autoencoders.ltx2_diffusion_decoder")
    ours = tiny(SLIM)
    theirs = module.LTX2VideoDiffusionDecoder3d(
        in_channels=8, head_dim=16, stage_channels=tuple(SLIM["stage_channels"]),
        stage_depths=tuple(SLIM["stage_depths"]), stage_kernels=tuple(map(tuple, SLIM["stage_kernels"][:4])),
        upsample_strides=tuple(tuple(stride) for stride, _ in SLIM["upsamples"]),
        upsample_channel_reductions=tuple(divisor for _, divisor in SLIM["upsamples"]),
        stage5_kernel=tuple(SLIM["stage5_kernel"]), t_emb_dim=24,
    ).eval()  # fmt: skip
    theirs.load_state_dict(_for_diffusers(ours, theirs))
    latent, noise = randn(1, 8, 3, 3, 3), randn(1, 3, 17, 96, 96, seed=2)
    context = theirs.forward_stage_4(theirs.forward_stages_1_to_3(ours.statistics.denormalize(latent)))
    compare("video_vae.diffusion diffusers", ours(latent, noise, 1), theirs.denoise(context, noise, 1))


def _for_diffusers(ours: DiffusionDecoder, theirs: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Our weights by the names of diffusers, which splits what the file keeps together."""
    renamed, split = {}, {"qkv": ("to_q", "to_k", "to_v")}
    steps = {"mlp.0": "timestep_embedder.linear_1", "mlp.2": "timestep_embedder.linear_2"}
    for name, tensor in ours.state_dict().items():
        name = bare(name)
        for old, new in steps.items():
            name = name.replace(f"t_embedder.{old}", f"t_embedder.{new}")
        parts = dict(zip(split["qkv"], tensor.chunk(3))) if ".qkv." in name else {"": tensor}
        renamed |= {name.replace("qkv", part) if part else name: piece for part, piece in parts.items()}
    known = theirs.state_dict().keys()
    renamed = {_nearest(name, known): tensor for name, tensor in renamed.items() if not name.startswith("per_channel")}
    assert renamed.keys() == known
    return renamed


def _nearest(name: str, known) -> str:
    changes = [("", ""), ("attn.proj.", "attn.to_out.0."), ("q_norm", "norm_q"), ("k_norm", "norm_k")]
    changes += [("attn.to_", "attn.qkv.to_"), ("t_embedder.timestep_embedder", "t_embedder"), ("mlp.w_", "mlp.")]
    return next((name.replace(*change) for change in changes if name.replace(*change) in known), name)


@torch.no_grad()
@pytest.mark.parametrize("shape", LATENTS)
def test_the_official_decoder_agrees(shape):
    """With full windows; by default it computes slabs whose outer borders are copies (README.md)."""
    ours, latent, theirs = tiny(), randn(*shape), recorded("decoder")[str(list(shape))]
    noise = torch.randn(theirs["shape"], generator=torch.Generator().manual_seed(5))
    compare_samples("video_vae.diffusion official", ours(latent, noise), theirs)


# Files


def test_every_tensor_of_the_released_file_has_its_place():
    listing = gzip.decompress((GOLDEN / "video_vae_2.5_split_diffusion.tsv.gz").read_bytes()).decode()
    lines = [line.split("\t") for line in listing.splitlines() if not line.startswith("#")]
    shapes = {key: tuple(map(int, shape.split("x"))) for key, shape, _ in lines}
    decoder, encoder = COMPONENTS["video_decoder"].find(shapes), COMPONENTS["video_encoder"].find(shapes)
    config = {"vae": {**PUBLISHED, "encoder": ENCODER}}
    found = {}
    with torch.device("meta"):
        for variant, names in (decoder, encoder):
            module = variant.build(config, {ours: shapes[key] for ours, key in names.items()})
            state = module.state_dict()
            assert state.keys() == names.keys()
            found |= {names[ours]: tuple(tensor.shape) for ours, tensor in state.items()}
            if variant.keys is DIFFUSION_DECODER:
                assert sum(p.numel() for p in module.parameters()) == 417_133_616 + 128
    assert found.keys() == shapes.keys() and len(shapes) == 396
    assert all(shapes[key] == shape for key, shape in found.items())
    assert decoder[0].keys is DIFFUSION_DECODER and encoder[0].keys is VIDEO_ENCODER
    assert DIFFUSION_DECODER.ours("decoder.type_emb", "") == "keyframe_mark"


def test_heads_of_previews_are_known_and_not_wanted():
    preview, other = "vae.decoder.coarse_head.0.weight", "vae.decoder.fine_head.weight"
    assert DIFFUSION_DECODER.knows(preview, "vae.") and not DIFFUSION_DECODER.knows(other, "vae.")
    assert DIFFUSION_DECODER.ours(preview, "vae.") is DIFFUSION_DECODER.ours(other, "vae.") is None


@torch.no_grad()
@pytest.mark.slow
def test_gates_of_old_files_are_folded_rows():
    """Scaling what a block adds equals scaling the rows of its last layers, biases included."""
    names = {"gate_msa": "attn.proj", "gate_mlp": "mlp.w_down", "gate_ctx": "context_proj"}
    plain = tiny()
    state, folded = plain.state_dict(), {}
    for name, tensor in state.items():
        for number, (gate, module) in enumerate(names.items()):
            block, found, leaf = bare(name).rpartition(f"{module}.")
            if not found:
                continue
            values = 1 + 0.5 * randn(len(tensor), seed=number)
            folded[name] = tensor * (values[:, None] if leaf == "weight" else values)
            state = state | {DIFFUSION_DECODER.ours(f"decoder.{block}{gate}", ""): values}
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    gated = DiffusionDecoder(DiffusionDecoderConfig.from_json(section(), shapes)).requires_grad_(False)
    gated.load_state_dict(state)
    plain.load_state_dict(plain.state_dict() | folded)
    latent, noise = randn(1, 8, 2, 3, 3), randn(1, 3, 9, 96, 96)
    compare("video_vae.diffusion gates", gated(latent, noise), plain(latent, noise), tolerance=4e-5)


def test_absent_fields_are_those_of_the_official_reader():
    bare_section = {key: value for key, value in TINY.items() if key not in (
        "default_num_inference_steps", "timestep_scale_multiplier", "model_output_type", "head_dim", "t_emb_dim",
    )}  # fmt: skip
    config = DiffusionDecoderConfig.from_json(
        {"_class_name": "CausalDiffusionVAE", "decoder": bare_section | {"na_head_dim": 16}}
    )
    assert (config.steps, config.time_multiplier, config.predicts_x0) == (2, 1.0, False)
    assert (config.head_dim, config.embedding) == (16, 384)


def test_the_config_of_the_release_stands_in_for_a_file_without_one():
    published, stand_in = DiffusionDecoderConfig.from_json(PUBLISHED), DiffusionDecoderConfig.from_json(RELEASED)
    assert published == stand_in and published.steps == 1 and published.predicts_x0
    shapes = {"from_latent.weight": (2048, 128), "from_pixels.weight": (256, 48)}
    assert DiffusionDecoderConfig.from_json(VAE_2_3, shapes) == published
    with pytest.raises(CheckpointError, match="describes a convolutional decoder, but the tensors"):
        DiffusionDecoderConfig.from_json(VAE_2_3, {"from_latent.weight": (256, 8)})
    with pytest.raises(CheckpointError, match="describes a diffusion decoder, but the tensors"):
        VideoDecoder(VideoVAEConfig.from_json({**PUBLISHED, "encoder": ENCODER}))


def test_the_encoder_has_a_section_of_its_own():
    inner, flat = VideoVAEConfig.from_json({**PUBLISHED, "encoder": ENCODER}), VideoVAEConfig.from_json(VAE_2_3)
    assert inner.encoder_blocks == flat.encoder_blocks and inner.encoder_padding == flat.encoder_padding == "zeros"
    assert (inner.latent_channels, inner.time_scale, inner.space_scale) == (128, 8, 32)
    half = {**ENCODER, "out_channels": 16, "spatial_padding_mode": "reflect"}
    other = VideoVAEConfig.from_json({**PUBLISHED, "encoder": half})
    assert (other.latent_channels, other.encoder_padding) == (16, "reflect")
    with pytest.raises(CheckpointError, match=r"encoder's encoder_blocks|lists no encoder_blocks"):
        VideoVAEConfig.from_json({**PUBLISHED, "encoder": {**ENCODER, "blocks": []}})
    with torch.device("meta"):
        assert {k: v.shape for k, v in VideoEncoder(inner).state_dict().items()} == {
            k: v.shape for k, v in VideoEncoder(flat).state_dict().items()
        }


def test_the_convolutional_file_of_2_5_is_decoded_as_2_3():
    config = {"vae": VAE_2_3}
    assert isinstance(_made(config), VideoDecoder) and _made(config).config.decoder_padding == "zeros"
    assert isinstance(_made({"vae": PUBLISHED}), DiffusionDecoder)
    both = {"vae": {**VAE_2_3, **PUBLISHED, "encoder": ENCODER}}  # what is known of a version that has both
    assert isinstance(_made(both), DiffusionDecoder)
    assert VideoVAEConfig.from_json(both["vae"]).decoder_blocks == VideoVAEConfig.from_json(VAE_2_3).decoder_blocks


def _made(config: dict) -> torch.nn.Module:
    with torch.device("meta"):
        return COMPONENTS["video_decoder"].make(config, {})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stage_channels": [64, 32]}, "2 stage_channels, 5 stage_depths"),
        ({"stage_channels": [256, 128, 64, 64, 48]}, "stage 5 has 48 channels"),
        ({"head_dim": 24}, "do not split into heads of 24"),
        ({"stage_kernels": [[3, 3]] * 5}, "three whole numbers"),
        ({"stage_kernels": "wide"}, "stage_kernels = 'wide'"),
        ({"stage5_kernel": [0, 1, 1]}, "stage5_kernel"),
        ({"upsamples": [[[1, 2, 2], 3]] * 4}, "a stride and a divisor"),
        ({"upsamples": []}, "0 upsamplings"),
        ({"spatial_padding_mode": "reflect"}, "spatial_padding_mode = 'reflect'"),
        ({"resampler_kind": "conv"}, "resampler_kind = 'conv'"),
    ],
)
def test_unsupported_configs_are_refused(changes, words):
    with pytest.raises(CheckpointError, match=words):
        DiffusionDecoderConfig.from_json(section(**changes))


def test_another_output_is_refused():
    with pytest.raises(CheckpointError, match="model_output_type"):
        DiffusionDecoderConfig.from_json(section(predicts="noise"))
    with pytest.raises(SettingError, match="has 4 channels, the video VAE expects 8"):
        next(tiny().decode(DecoderInput(randn(1, 4, 1, 1, 1), Tiling())))


# Noise


def test_noise_is_normal_and_each_number_its_own():
    noise = place_noise(3, (1, 3, 18, 64, 80), (0, 0, 0), torch.empty(0)).double()
    assert abs(noise.mean()) < 5e-3 and abs(noise.std() - 1) < 5e-3 and abs((noise**4).mean() - 3) < 0.05
    for axis in range(1, 5):
        one, other = noise.narrow(axis, 0, noise.shape[axis] - 1), noise.narrow(axis, 1, noise.shape[axis] - 1)
        assert abs((one * other).mean()) < 0.01
    others = [place_noise(seed, (1, 3, 18, 64, 80), (0, 0, 0), torch.empty(0)) for seed in (4, 3 + 2**32)]
    for other in others:
        assert abs((noise * other).mean()) < 0.01
    assert noise.unique().numel() > 0.98 * noise.numel()  # of 24 bits


def test_noise_is_finite_everywhere():
    """The largest of 16 million numbers would round to 1 in float32, whose inverse is infinite; here it is drawn."""
    noise = place_noise(0, (1, 3, 1, 1, 1), (3, 15, 842), torch.empty(0))
    assert noise.isfinite().all() and noise.max() > 5


def test_noise_of_a_part_is_a_part_of_the_noise():
    everything = place_noise(7, (1, 3, 12, 24, 40), (0, 0, 0), torch.empty(0))
    part = place_noise(7, (1, 3, 5, 8, 16), (3, 10, 20), torch.empty(0))
    assert torch.equal(part, everything[:, :, 3:8, 10:18, 20:36])


def test_each_clip_of_a_batch_has_the_noise_that_it_has_by_itself():
    alone = place_noise(7, (1, 3, 5, 8, 16), (3, 10, 20), torch.empty(0))
    assert torch.equal(place_noise(7, (3, 3, 5, 8, 16), (3, 10, 20), torch.empty(0)), alone.expand(3, -1, -1, -1, -1))


# Blocks


@torch.no_grad()
def test_a_block_leaves_its_input_as_it_was():
    """A store runs a block again when memory runs out."""
    decoder, x, context = tiny(), randn(1, 5, 7, 7, 32), randn(1, 5, 7, 7, 32, seed=2)
    before = x.clone(), context.clone()
    found = decoder.diffusion[0](x, context, decoder.time(1.0))
    assert torch.equal(x, before[0]) and torch.equal(context, before[1]) and not torch.equal(found, x)
    cells = randn(1, 5, 6, 6, 64)
    before = cells.clone()
    decoder.make_context(cells[:, 1:], is_first=False, is_last=False)
    assert torch.equal(cells, before)


@torch.no_grad()
@pytest.mark.parametrize("budget", [0, 60_000])
def test_streamed_blocks_give_the_same_frames(budget):
    decoder, latent = tiny(NARROW), randn(1, 8, 2, 3, 3)
    expected = whole(decoder, latent)
    for parameter in decoder.parameters():
        parameter.data = parameter.data.clone()
    store = Store(decoder, "cpu", link=Device())
    store.stream_by("block")
    store.set_budget(budget)
    with store.use():
        assert torch.equal(whole(decoder, latent, Tiling(4096, 160, 4096, 40)), expected)
        assert len(store.link.sent) > 5


@torch.no_grad()
def test_heads_that_attend_one_half_after_the_other_find_the_same(monkeypatch):
    decoder, x, context = tiny(), randn(1, 12, 20, 20, 32), randn(1, 12, 20, 20, 32, seed=2)
    halves = decoder.diffusion[0](x, context, decoder.time(1.0))
    monkeypatch.setattr(diffusion_layers, "HEAD_SHARES", 1)
    assert_close(decoder.diffusion[0](x, context, decoder.time(1.0)), halves, atol=1e-6, rtol=1e-6)


def test_a_block_takes_little_more_than_four_of_its_hidden_states():
    """With all queries, keys and values at once, and a mask for every brick at a border, it took 6.5."""
    with torch.device("meta"):
        decoder = DiffusionDecoder(DiffusionDecoderConfig.from_json(PUBLISHED)).bfloat16().requires_grad_(False)
        x = torch.empty(1, 64, 64, 64, 256, dtype=torch.bfloat16)
        block, time = decoder.diffusion[0], decoder.time(1.0)
    assert cost(lambda: block(x, x, time)).peak < 4.4 * x.nbytes


def test_the_work_of_blocks_that_are_alike_is_counted_once_and_multiplied():
    operations = []
    for depth in (1, 2, 3):
        config = DiffusionDecoderConfig.from_json(section(stage_depths=[1, 1, 1, 1, depth]))
        with torch.device("meta"):
            decoder, latent = DiffusionDecoder(config).requires_grad_(False), torch.empty(1, 8, 3, 4, 4)
        parts = decoder.work(DecoderInput(latent, decoder.usual_tiling, Denoising(decoder_steps=2))).parts
        operations.append(sum(cost(part.run).products * part.times for part in parts))
    one, two, three = operations
    channels, positions = decoder.config.stages[-1].channels, 17 * 32 * 32
    mlp = 3 * channels * 4 * channels
    assert three - two == two - one == pytest.approx(2 * 2 * positions * (5 * channels**2 + mlp), rel=1e-3)


def test_training_writes_nothing_over_what_gradients_need():
    decoder = DiffusionDecoder(DiffusionDecoderConfig.from_json(section(NARROW)))
    fill(decoder.requires_grad_(False), bare)
    decoder.requires_grad_(True)
    decoder(randn(1, 8, 1, 3, 3), randn(1, 3, 1, 96, 96)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in decoder.parameters())


# Tiles


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("size", [(5, 3, 8), (9, 7, 4)])
def test_tiles_are_the_whole_where_they_do_not_blend(size):
    """Outside of the blends, of a decoder whose windows reach no farther than tiles overlap."""
    decoder = tiny(NARROW)
    assert least_overlap(decoder.config) == (32, 8)
    latent = randn(1, 8, *size)
    tiled = whole(decoder, latent, Tiling(96, 64, 24, 16))
    expected = whole(decoder, latent)
    grid = CellGrid.of(decoder.config, size, Tiling(96, 64, 24, 16)).tiles
    alone = torch.ones(expected.shape[2:], dtype=torch.bool)
    for axis, tiles in enumerate((grid.intervals, grid.rows, grid.columns)):
        for one, other in zip(tiles, tiles[1:]):
            alone.narrow(axis, other.target.start, one.target.stop - other.target.start).fill_(False)
    assert 0.01 < alone.float().mean() < 0.9
    compare("video_vae.diffusion tiles", tiled[..., alone], expected[..., alone])
    assert (tiled - expected).abs().max() < 0.1 * expected.abs().max()


@pytest.mark.slow
@torch.no_grad()
def test_windows_that_reach_across_tiles_differ_only_within_the_blend():
    decoder, latent = tiny(), randn(1, 8, 7, 3, 7)
    tiling = Tiling(96, 32, 32, 8)
    grid = CellGrid.of(decoder.config, latent.shape[2:], decoder.fitted(tiling)).tiles
    tiled, expected = whole(decoder, latent, tiling), whole(decoder, latent)
    assert tiled.shape == expected.shape
    difference = (tiled - expected).abs()
    assert difference.max() > 1e-3  # the windows of both stages together reach farther than the overlap
    assert difference.mean() < 0.05 * expected.std()
    steps = tiled.diff(dim=3).abs().mean(dim=(0, 1, 2, 3)), tiled.diff(dim=4).abs().mean(dim=(0, 1, 2, 3))
    inner = [tile.target.start for tile in grid.columns[1:]]
    assert inner and all(steps[1][edge - 1] < 1.5 * steps[1].median() + 0.1 for edge in inner)


@pytest.mark.slow
@torch.no_grad()
def test_no_seam_is_seen_where_tiles_meet():
    decoder, latent = tiny(), 0.5 * randn(1, 8, 3, 4, 12)
    grid = CellGrid.of(decoder.config, latent.shape[2:], decoder.fitted(Tiling(128, 32, 32, 8))).tiles
    lines = tuple(tile.target.start for tile in grid.columns[1:])
    seams = Seams((), (), lines)
    for chunk in decode_video(decoder, DecoderInput(latent, Tiling(128, 32, 32, 8))):
        seams.see(chunk)
    assert lines and not seams.findings()


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("size", [(2, 3, 60), (2, 34, 3)], ids=["across 1920", "down 1088"])
def test_tiles_of_1080p_show_no_more_than_the_whole(size):
    """Strips as wide and as high as 1080p in the usual tiles: the measure of their lines is that of the whole."""
    decoder, latent = tiny(NARROW), 0.5 * randn(1, 8, *size)
    tiling, measured = decoder.usual_tiling, []
    tiles = CellGrid.of(decoder.config, size, tiling).tiles
    lines = [[tile.target.start for tile in some[1:]] for some in (tiles.rows, tiles.columns)]
    for each in (tiling, Tiling(4096, 160, 4096, 40)):
        seams = Seams((), *lines)
        for chunk in decode_video(decoder, DecoderInput(latent, each)):
            seams.see(chunk)
        measured.append(seams.measure())
    assert any(lines) and measured[0] == pytest.approx(measured[1], rel=0.01)


def test_a_short_last_tile_begins_earlier():
    spans = split_with_least(21, 10, 4, 6)
    assert [(span.start, span.stop) for span in spans] == [(0, 10), (6, 16), (12, 21)]
    spans = split_with_least(17, 10, 4, 6)
    assert [(span.start, span.stop, span.fade_in, span.fade_out) for span in spans] == [
        (0, 10, 0, 4), (6, 16, 4, 5), (11, 17, 5, 0),
    ]  # fmt: skip


def test_tiles_are_enlarged_until_they_hide_their_seams():
    with torch.device("meta"):
        decoder = DiffusionDecoder(DiffusionDecoderConfig.from_json(PUBLISHED))
    assert decoder.fitted(Tiling(64, 32, 16, 8)) == Tiling(320, 160, 80, 40)
    assert decoder.fitted(Tiling(512, 64, 80, 24)) == Tiling(512, 160, 80, 40)
    assert all(decoder.fitted(tiling) == tiling for tiling in decoder.tilings)


def test_a_small_latent_goes_on_behind_and_on_all_sides():
    """The last frame is repeated; of an odd number of rows and columns one more is behind than before."""
    latent = torch.arange(8.0).view(1, 1, 2, 2, 2)
    padded, before = pad_to(latent, (3, 4, 5))
    assert torch.equal(padded, latent[:, :, [0, 1, 1]][..., [0, 0, 1, 1], :][..., [0, 0, 1, 1, 1]]) and before == (1, 1)
    assert pad_to(latent, (1, 2, 2)) == (latent, (0, 0))


@torch.no_grad()
@pytest.mark.parametrize("size", [(1, 1, 1), (1, 2, 5), (2, 3, 1)])
@pytest.mark.slow
def test_clips_of_any_size_are_decoded(size):
    decoder = tiny()
    frames, height, width = size
    (chunk,) = decoder.decode(DecoderInput(randn(2, 8, *size), Tiling()))
    assert chunk.shape == (2, 3, 8 * (frames - 1) + 1, 32 * height, 32 * width) and chunk.isfinite().all()


@pytest.mark.slow
@torch.no_grad()
def test_the_seed_and_the_steps_change_the_frames():
    decoder, latent = tiny(), randn(1, 8, 1, 3, 3)
    first = whole(decoder, latent)
    assert torch.equal(first, whole(decoder, latent, decoder_seed=0, decoder_steps=1))
    assert not torch.equal(first, whole(decoder, latent, decoder_seed=1))
    assert not torch.equal(first, whole(decoder, latent, decoder_steps=2))
