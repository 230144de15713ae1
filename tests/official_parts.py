"""Parts that ltx-core and ltx-pipelines have since 1.2.0, by their numbers: the release that others install is 1.0.0.

``tests/golden/official_parts.json`` holds them: slots of generated keyframes by case, windows of a round by the length
of the clip, and frames of the diffusion decoder by the shape of a latent. They were made by ``PYTHONPATH=.:tests python
tests/official_parts.py FOLDER`` with ltx-core and ltx-pipelines 1.2.0, whose checkout is FOLDER.
"""

import argparse
import json
from itertools import product
from pathlib import Path

import torch
from agreement import compare
from drawn import draw
from official_pipelines import shortened, use_official
from torch import Tensor

VECTORS = Path(__file__).parent / "golden" / "official_parts.json"
FPS, FRAMES = 24, (3, 16)
SHAPE = (8, 3, 2, 4)  # 17 frames of 128 x 64
SLOTS = {
    f"weight {weight}, seeded {seeded}": (weight, seeded) for weight, seeded in product((None, 0.4, 1.0), (False, True))
}
LENGTHS = (25, 33, 49, 97, 121, 129, 161, 193, 241, 257)
LATENTS = ((1, 8, 3, 3, 4), (1, 8, 4, 5, 3))


def recorded(part: str) -> dict:
    """Return what was recorded of a part, by case."""
    return json.loads(VECTORS.read_text())[part]


def compare_samples(seam: str, ours: Tensor, theirs: dict) -> None:
    """Hold a tensor against what was kept of the official one."""
    found = shortened(ours)
    assert (found["shape"], found["step"]) == (theirs["shape"], theirs["step"])
    compare(seam, torch.tensor(found["samples"]), torch.tensor(theirs["samples"]))


def slots_of(weight: float | None, seeded: bool) -> dict[str, dict]:
    """Return what the official slots make of a clip, beside a reference that is seen with ``weight`` or without one."""
    from ltx_core.components.patchifiers import VideoLatentPatchifier
    from ltx_core.conditioning import ConditioningItemAttentionStrengthWrapper, VideoConditionByReferenceLatent
    from ltx_core.conditioning.types.keyframe_slots import VideoGeneratedKeyframeSlots
    from ltx_core.tools import VideoLatentTools
    from ltx_core.types import VideoLatentShape

    tools = VideoLatentTools(VideoLatentPatchifier(1), VideoLatentShape(1, *SHAPE), float(FPS))
    seeds = draw(8, 2, 2, 4, seed=3) if seeded else None
    state = tools.create_initial_state("cpu", torch.float32, draw(*SHAPE, seed=9))
    if weight is not None:
        item = VideoConditionByReferenceLatent(draw(8, 3, 2, 4, seed=4), 1, 1.0)
        item = ConditioningItemAttentionStrengthWrapper(item, weight) if weight != 1 else item
        state = item.apply_to(state, tools)
    state = VideoGeneratedKeyframeSlots(FRAMES, seeds).apply_to(state, tools)
    assert state.generated_keyframe_layout.pixel_frame_indices == FRAMES
    found = {"begin": state.latent[:, -16:], "clip": state.latent[:, :24], "positions": state.positions}
    found |= {"mask": state.denoise_mask, "marks": state.keyframes_mask}
    found["taken out"] = tools.extract_generated_keyframes(state)
    if state.attention_mask is not None and weight != 1:
        found["attention"] = state.attention_mask
    return {name: shortened(tensor) for name, tensor in found.items()}


def windows_of(length: int) -> list[list]:
    """Return the windows of two rounds of a clip of ``length`` frames: ranges, anchors, slots, and what is dropped."""
    from ltx_pipelines import dfr_layout

    frames, _, positions = dfr_layout.resolve_canvas(length)
    rounds = []
    for number in (1, 2):
        frames, positions = 2 * (frames - 1) + 1, [2 * each for each in positions]
        tiles = dfr_layout.tile_ranges(positions, frames, 2**number)
        rounds.append([list(each) for each in tiles])
        positions = sorted({*positions, *(slot for each in tiles for slot in each.slot_kf_global)})
    return rounds


@torch.no_grad()
def frames_of(shape: tuple[int, ...]) -> dict:
    """Return frames of the official diffusion decoder on tiny weights, computed in full windows.

    By default it computes slabs whose outer borders are copies.
    """
    from core.video_vae import test_diffusion_decoder as here
    from ltx_core.model.video_vae.diffusion_video_decoder import DiffusionVideoDecoder
    from ltx_core.model.video_vae.transformer import apply

    sizes = {
        "stage_channels": tuple(here.TINY["stage_channels"]), "stage_depths": tuple(here.TINY["stage_depths"]),
        "stage_kernels": tuple(map(tuple, here.TINY["stage_kernels"])),
        "stage5_kernel": tuple(here.TINY["stage5_kernel"]),
        "upsamples": tuple((tuple(stride), divisor) for stride, divisor in here.TINY["upsamples"]),
    }  # fmt: skip
    decoder = DiffusionVideoDecoder(
        in_channels=8, head_dim=16, t_emb_dim=24, default_num_inference_steps=1, timestep_scale_multiplier=1000.0,
        model_output_type="x0", **sizes,
    ).eval()  # fmt: skip
    weights = {}
    for name, tensor in here.tiny().state_dict().items():
        name = here.bare(name).replace("mlp.0", "timestep_embedder.linear_1")
        name = name.replace("mlp.2", "timestep_embedder.linear_2")
        parts = dict(zip("qkv", tensor.chunk(3))) if ".qkv." in name else {}
        weights |= {name.replace("qkv.", f"qkv.to_{part}."): piece for part, piece in parts.items()} or {name: tensor}
    decoder.load_state_dict(weights)
    plain = apply.DiffVAEConfig(
        block=apply.DiffVAEBlockKind.COMBINED, w_chunks=1, natten_backend=None,
        attention=apply.NAttentionKind.EAGER_SDPA, compile_blocks=False, compile_det_stages=False,
    )  # fmt: skip
    apply.apply_diffvae_config(decoder, plain)
    return shortened(decoder(here.random(*shape), generator=torch.Generator().manual_seed(5)))


def main() -> None:
    """Record the parts of an official checkout."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="checkout of the official code, with packages/ltx-core")
    use_official(parser.parse_args().folder)
    torch.set_num_threads(1)
    found = {
        "slots": {name: slots_of(*case) for name, case in SLOTS.items()},
        "windows": {str(length): windows_of(length) for length in LENGTHS},
        "decoder": {str(list(shape)): frames_of(shape) for shape in LATENTS},
    }
    VECTORS.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
