"""The architecture of the diffusion decoder of LTX-2.5, read from the ``vae`` section (see README.md, "Diffusion")."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import CheckpointError
from ..errors.foreign import Fields, shown
from .config import MOST_LAYERS, WIDEST, is_diffusion

Stride = tuple[int, int, int]  # frames, rows, columns

STAGES = 5

# What the released file says; for files with its tensors and without its config.
RELEASED: dict[str, Any] = {
    "_class_name": "CausalDiffusionVAE",
    "model_output_type": "x0",
    "decoder": {
        "_class_name": "NADiffusionDecoder",
        "in_channels": 128,
        "out_channels": 3,
        "patch_size": 4,
        "head_dim": 64,
        "stage_channels": [2048, 1024, 512, 512, 256],
        "stage_depths": [4, 6, 4, 2, 8],
        "stage_kernels": [[3, 7, 7], [3, 7, 7], [3, 5, 5], [3, 5, 5], [11, 11, 11]],
        "upsamples": [[[1, 2, 2], 2], [[2, 1, 1], 2], [[2, 2, 2], 1], [[2, 2, 2], 2]],
        "spatial_padding_mode": "zeros",
        "resampler_kind": "linear",
        "timestep_scale_multiplier": 1000.0,
        "default_num_inference_steps": 1,
    },
}


@dataclass(frozen=True)
class StageConfig:
    """A sequence of attention blocks at one resolution; ``kernel`` is the window of each query."""

    channels: int
    depth: int
    kernel: Stride


@dataclass(frozen=True)
class UpsampleConfig:
    """The step to the next stage, whose channels are those before it divided by ``divisor``."""

    stride: Stride
    divisor: int


@dataclass(frozen=True)
class DiffusionDecoderConfig:
    """Sizes of the diffusion decoder: four stages that turn a latent into a context, and one that denoises pixels."""

    stages: tuple[StageConfig, ...]
    upsamples: tuple[UpsampleConfig, ...]
    head_dim: int
    latent_channels: int
    out_channels: int
    patch_size: int
    embedding: int
    time_multiplier: float
    steps: int
    predicts_x0: bool
    gates: bool  # whether blocks scale what they add by a vector, as old files do
    marks_keyframes: bool  # whether there is a vector by which keyframes are told from the clip

    def __post_init__(self) -> None:
        if len(self.stages) != STAGES or len(self.upsamples) != STAGES - 1:
            raise CheckpointError(
                f"The diffusion decoder has {len(self.stages)} stages and {len(self.upsamples)} upsamplings between "
                f"them; {STAGES} and {STAGES - 1} were expected. Is the config complete?"
            )
        for number, (stage, upsample, following) in enumerate(zip(self.stages, self.upsamples, self.stages[1:])):
            if stage.channels != following.channels * upsample.divisor:
                raise CheckpointError(
                    f"The diffusion decoder's stage {number + 2} has {following.channels} channels, but the "
                    f"upsampling before it makes {stage.channels} / {upsample.divisor}. Is the config complete?"
                )
        if odd := [stage.channels for stage in self.stages if stage.channels % self.head_dim]:
            raise CheckpointError(
                f"The diffusion decoder has a stage of {odd[0]} channels, which do not split into heads of "
                f"{self.head_dim}. Is the config complete?"
            )

    @property
    def time_scale(self) -> int:
        """Frames per latent frame, not counting the first, which stands for one frame."""
        return math.prod(upsample.stride[0] for upsample in self.upsamples)

    @property
    def space_scale(self) -> int:
        """Pixels per latent along height and width."""
        return self.patch_size * math.prod(upsample.stride[1] for upsample in self.upsamples)

    @property
    def ghosts(self) -> int:
        """How often the last latent frame is repeated behind the clip, so that its windows are not cut short."""
        return self.stages[0].kernel[0] // 2 * 2

    @property
    def smallest(self) -> Stride:
        """The smallest latent in which every window of every stage finds room."""
        return self._smallest(0)

    @property
    def smallest_tile(self) -> Stride:
        """The same in cells, of which tiles are made: positions of the input of the fourth stage."""
        return self._smallest(3)

    def _smallest(self, first: int) -> Stride:
        scales, needed = [1, 1, 1], [1, 1, 1]
        for number in range(first, STAGES):
            reach = self.stages[number].kernel
            needed = [max(n, math.ceil(k / scale)) for n, k, scale in zip(needed, reach, scales)]
            if number < STAGES - 1:
                scales = [a * b for a, b in zip(scales, self.upsamples[number].stride)]
        return needed[0], needed[1], needed[2]

    @classmethod
    def from_json(
        cls, section: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]] | None = None
    ) -> "DiffusionDecoderConfig":
        """Read the ``vae`` section; absent keys take the defaults of the official reader.

        Args:
            section: of the config.
            shapes: of the decoder's tensors, by our names. They say whether there are gates and a mark of keyframes,
                and with those of the release stand for the config of a file that has none.

        Raises:
            CheckpointError: The section describes a convolutional decoder, or something that this package lacks.
        """
        shapes = shapes or {}
        if not is_diffusion(section):
            if not _has_released_shapes(shapes):
                raise CheckpointError(
                    "The vae config describes a convolutional decoder, but the tensors are those of a diffusion "
                    "decoder; take the original file, or restore its config."
                )
            section = RELEASED
        whole = Fields.of(section, "The vae config")
        fields = whole.section("decoder")
        _expect(fields, "resampler_kind", "linear")
        _expect(fields, "spatial_padding_mode", "zeros")
        head_dim = fields.whole("na_head_dim", 64, most=WIDEST)
        predicts = whole.word("model_output_type", "v", ("x0", "v"))
        return cls(
            stages=tuple(_stages(fields)),
            upsamples=tuple(_upsamples(fields)),
            head_dim=fields.whole("head_dim", head_dim, most=WIDEST),
            latent_channels=fields.whole("in_channels", whole.whole("latent_channels", 128, most=WIDEST), most=WIDEST),
            out_channels=fields.whole("out_channels", 3, most=WIDEST),
            patch_size=fields.whole("patch_size", 4, most=64),
            embedding=fields.whole("t_emb_dim", 384, most=WIDEST),
            time_multiplier=fields.number("timestep_scale_multiplier", 1.0),
            steps=fields.whole("default_num_inference_steps", 2, most=1000),
            predicts_x0=predicts == "x0",
            gates=any(name.endswith(".attention_gate") for name in shapes),
            marks_keyframes="keyframe_mark" in shapes,
        )


def _has_released_shapes(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    decoder = RELEASED["decoder"]
    widths = decoder["stage_channels"]
    expected = {"from_latent.weight": (widths[0], 128), "from_pixels.weight": (widths[-1], 48)}
    return all(shapes.get(name) == shape for name, shape in expected.items())


def _stages(fields: Fields) -> list[StageConfig]:
    widths = fields.wholes("stage_channels", most=WIDEST)
    depths = fields.wholes("stage_depths", most=MOST_LAYERS)
    kernels = [_three(fields, "stage_kernels", kernel) for kernel in fields.items("stage_kernels")]
    if "stage5_kernel" in fields and kernels:
        kernels[-1] = _three(fields, "stage5_kernel", fields.content["stage5_kernel"])
    if not len(widths) == len(depths) == len(kernels):
        raise CheckpointError(
            f"{fields.where} lists {len(widths)} stage_channels, {len(depths)} stage_depths and {len(kernels)} "
            "stage_kernels; as many of each were expected. Take the original file."
        )
    return [StageConfig(*each) for each in zip(widths, depths, kernels)]


def _upsamples(fields: Fields) -> list[UpsampleConfig]:
    found = []
    for item in fields.items("upsamples"):
        if not isinstance(item, (list, tuple)) or len(item) != 2 or item[1] not in (1, 2, 4, 8):
            raise fields.refusal("upsamples", "pairs of a stride and a divisor")
        found.append(UpsampleConfig(_three(fields, "upsamples", item[0]), item[1]))
    return found


def _three(fields: Fields, name: str, value: object) -> Stride:
    """Three small whole numbers: frames, rows, columns."""
    if isinstance(value, (list, tuple)) and len(value) == 3:
        time, height, width = value
        if all(type(each) is int and 1 <= each <= 64 for each in value):
            return time, height, width
    raise fields.refusal(name, "three whole numbers from 1 to 64 for time, height and width")


def _expect(fields: Fields, key: str, supported: str) -> None:
    if (value := fields.content.get(key, supported)) != supported:
        raise CheckpointError(f"{fields.where} has {key} = {shown(value)}; supported: {supported!r}.")
