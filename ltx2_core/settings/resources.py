"""Where a run computes, in what, and how much it may take."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch

from ..errors import SettingError
from ..fields import Checked, Choice, Number, Switch, Words, zero
from ..quantization import CASTS
from ..sampling import ATTENTIONS

GIB = 2**30
# What makes the hidden states of Gemma, and what reads them.
BEYOND_FLOAT16 = frozenset({"text_encoder", "text_features"})
PRECISIONS: dict[str, torch.dtype | None] = {
    "auto": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
}


@dataclass(frozen=True)
class Resources(Checked):
    """Where a run computes, in what, and how much it may take."""

    device: Annotated[str | None, Words(), "cuda, cpu or mps, also cuda:1. Not set, the fastest there is."] = None
    max_vram: Annotated[
        float | None,
        Number(0, 1024, 0.5, unit="GB", shown=0.0, flag="vram", instead=zero("what is free", usual=12)),
        "The most gigabytes of the card that may be taken, for weights and work together. 0 takes what is free.",
    ] = None
    max_ram: Annotated[
        float | None,
        Number(0, 1024, 0.5, unit="GB", shown=0.0, flag="ram", instead=zero("what is free", usual=16)),
        "The most gigabytes of RAM that may be pinned for streaming weights. 0 takes what is free, up to half of all.",
    ] = None
    precision: Annotated[
        str,
        Choice(tuple(PRECISIONS), advanced=True),
        "What the networks compute in. auto takes bf16 on a graphics card, and on a CPU that is faster in it (measured "
        "once), else fp32. fp32 takes twice the memory; fp16 is for cards without bf16, leaves Gemma in bf16, and may "
        "give black frames.",
    ] = "auto"
    format: Annotated[
        str | None,
        Choice(tuple(CASTS), shown="fp8", advanced=True),
        "Format of the transformer's weights in memory; fp8 and int8 take half the memory of bf16 for the part that "
        "paints the picture: slightly softer detail, less so in int8, while the sound keeps its full precision; cards "
        "that multiply fp8 are faster in it. Not set, it is that of the file.",
    ] = None
    cache: Annotated[
        bool | str | Path | None,
        Switch(advanced=True),
        "Keeps encoded prompts on disk, so that one that was encoded before needs no text encoder.",
    ] = True
    attention: Annotated[
        str,
        Choice(ATTENTIONS, advanced=True),
        "How the transformer attends. auto takes the fastest kernel that is exact on this card: FlashAttention 4 or 3, "
        "or cuDNN on Hopper and Blackwell, else PyTorch's own, which pytorch insists on. sage (SageAttention, where it "
        "is installed) and int8 (comfy-kitchen) round queries and keys to 8 bits where the picture attends to itself: "
        "faster on GeForce, slightly other clips. sparse (Sol-Attn of comfy-kitchen 0.2.40) leaves out what matters "
        "least there, for large clips (from 8192 tokens on, 720p of 3 seconds): not in the first layer and step, nor "
        "above a sigma of 0.9. Faster at 1080p and more; what attention finds differs by a tenth to a fifth, so clips "
        "do, too. The log tells the error of each, tried on your card, and why one is not taken.",
    ] = ATTENTIONS[0]
    fold_loras: Annotated[
        bool,
        Switch(advanced=True),
        "For quantised files: adds LoRAs to a wide copy of the transformer's weights, once. Takes the memory of a bf16 "
        "file, and time again for other strengths; saves expanding these weights and the LoRA's own products in each "
        "step. Off, LoRAs are computed beside the weights. The plan says what either takes.",
    ] = False
    devices: Annotated[
        str | None,
        Words(advanced=True),
        "Several devices of one kind that share the work, such as cuda:0,cuda:1: each computes some of the passes of "
        "a step, or some of its tiles, and decodes some tiles of the clip. The first one does all the rest. In "
        "place of one device.",
    ] = None

    torch_compile: Annotated[
        bool,
        Switch(advanced=True),
        "Compiles the light work of the transformer's blocks by torch.compile (norm with modulation, norm with "
        "rotation): one kernel for each, also with streamed or quantised weights and with LoRAs. The first time takes "
        "up to a minute, later ones some seconds, as the log says. A CPU needs a C++ compiler, and gains only in bf16; "
        "a card needs Triton. Where there is none, a line of the log says so, and nothing else changes. Clips differ "
        "by rounding.",
    ] = False

    cuda_graphs: Annotated[
        bool,
        Switch(advanced=True),
        "For small clips on an NVIDIA card that holds all weights: what starts the operations of a step is recorded "
        "once and replayed from the third step on. A replay is compared with a plain step first. Takes the memory of "
        "a step once more. Where the card is busy anyway, weights are streamed, or LoRAs act beside quantised layers, "
        "the plan and the log say why not, and nothing changes. ComfyUI has to be started with --disable-cuda-malloc. "
        "Not tried on a card yet.",
    ] = False

    @property
    def device_names(self) -> tuple[str, ...]:
        """The devices, the first of which does what is not shared; empty where the fastest is to be found.

        Raises SettingError where one device is named and several are.
        """
        if self.devices is None:
            return () if self.device is None else (self.device,)
        if self.device is not None:
            raise SettingError(f"device is {self.device[:40]}, devices are {self.devices[:80]}: leave one of them out.")
        return tuple(name.strip() for name in self.devices.split(","))

    @property
    def vram(self) -> int | None:
        """The most bytes of the card that may be taken; None for what is free."""
        return int(self.max_vram * GIB) if self.max_vram else None

    @property
    def ram(self) -> int | None:
        """The most bytes of RAM that may be pinned; None for what is free."""
        return int(self.max_ram * GIB) if self.max_ram else None

    @property
    def dtype(self) -> torch.dtype | None:
        """What the networks compute in; None where the device decides."""
        return PRECISIONS[self.precision]


def dtype_of(precision: str, *components: str) -> torch.dtype | None:
    """Return what a network of these computes in by the name of a precision; None where the device decides, as for
    formats.

    In float16 numbers of Gemma would be infinite, and the squares of many more, so that its words were lost.
    """
    dtype = PRECISIONS.get(precision)
    return torch.bfloat16 if dtype is torch.float16 and BEYOND_FLOAT16.intersection(components) else dtype
