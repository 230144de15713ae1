"""An upscaler as people have it: one file for each kind (see README.md, "Upscalers")."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..quantization import install_quantized_layers
from ..upscaler import Shapes, Upscaler, UpscalerConfig
from ..video_vae import VideoVAEConfig
from ..video_vae.layers import ChannelStatistics
from .belonging import find_by_name
from .components import SHARED
from .contents import tell_contents
from .files import TensorFile, named_errors
from .keys.table import Keys
from .keys.upscaler import RATIONAL_UPSCALER, UPSCALER
from .loading import load_strict
from .models import MINIATURE, Models, Source
from .stored import StoredNetwork
from .unfilled import outline_network, unfilled
from .versions import VERSIONS

BUILT_IN = MINIATURE / "upscaler-mini.safetensors"

_EXAMPLE = "ltx-2.3-spatial-upscaler-x2-1.1.safetensors"
_FOLDERS = ("../latent_upscale_models", "../upscale_models")


@dataclass(frozen=True)
class UpscalerFile(StoredNetwork):
    """An upscaler on disk; the header only, no weights are read."""

    file: TensorFile
    keys: Keys

    @cached_property
    def names(self) -> dict[str, str]:
        """Our name of every tensor, and the file's."""
        return {ours: key for key in self.file.entries if (ours := self.keys.ours(key, ""))}

    @cached_property
    def config(self) -> UpscalerConfig:
        """The sizes of the upscaler, from the metadata, else from the shapes of the tensors."""
        with named_errors(self.file.path.name):
            if self.file.config:
                return UpscalerConfig.from_json(self.file.config)
            return UpscalerConfig.from_shapes(self.shapes)

    @property
    def title(self) -> str:
        """What errors call it."""
        return f"The upscaler {self.file.path.name}"

    def outline(self) -> Upscaler:
        """Make the network without weights. Raises CheckpointError if the file will not fill it."""
        return outline_network(lambda: Upscaler(self.config), self, self.title, self.keys.official)


def open_upscaler(path: str | Path) -> UpscalerFile:
    """Look at an upscaler file; only the header is read.

    Raises:
        MissingFileError: There is none.
        CheckpointError: It is something else, or not whole.
    """
    file = TensorFile(path)
    if (keys := keys_of(file.entries)) is None:
        raise CheckpointError(
            f"{file.path.name} is not a latent upscaler of LTX-2: {tell_contents(file.entries, 'latent upscaler')}. "
            f"Choose one such as {_EXAMPLE}."
        )
    upscaler = UpscalerFile(file, keys)
    upscaler.outline()  # which refuses what its header tells
    if (channels := upscaler.config.in_channels) != UpscalerConfig.in_channels:
        raise CheckpointError(
            f"{file.path.name} enlarges latents of {channels} channels, and those of LTX-2 have "
            f"{UpscalerConfig.in_channels}. Choose one such as {_EXAMPLE}."
        )
    return upscaler


def keys_of(names: Collection[str]) -> Keys | None:
    """Return the key table of an upscaler with tensors of these official names; None if they are not an upscaler's."""
    for keys in (UPSCALER, RATIONAL_UPSCALER):
        ours = {keys.ours(key, "") for key in names}
        if {"conv_in.weight", "upsample.conv.weight"} <= ours and None not in ours:
            return keys
    return None


def config_of(shapes: Shapes) -> UpscalerConfig | None:
    """Return the config that an upscaler's tensors (official names) show; None if they are not an upscaler's."""
    keys = keys_of(shapes)
    return None if keys is None else UpscalerConfig.from_shapes({str(keys.ours(k, "")): s for k, s in shapes.items()})


def find_upscaler(models: Models, scale: float, paths: Sequence[Path] | None = None) -> UpscalerFile:
    """Find the spatial upscaler of these models that enlarges by ``scale``; that of the miniature is built in.

    It is looked for by its official name, among ``paths``, else beside their transformer or in a folder next to it.
    Raises MissingFileError where there is none.
    """
    if models.is_miniature:
        return open_upscaler(BUILT_IN)
    name = VERSIONS[models.version].upscaler.format(scale)
    return open_upscaler(find_by_name(name, models, _FOLDERS, paths, "download it, or give the file of the upscaler"))


def build_upscaler(
    file: UpscalerFile, dtype: torch.dtype = torch.bfloat16, deferred: Collection[torch.dtype] = ()
) -> Upscaler:
    """Build the upscaler on the CPU, computing in ``dtype``; memory-mapped where nothing is converted, or later."""
    upscaler = file.outline()
    state = file.tensors()
    _install(upscaler, state, dtype, file.title, deferred)
    load_strict(upscaler, state, file.title, file.keys.official)
    return upscaler.requires_grad_(False).eval()


def video_statistics(models: Models) -> ChannelStatistics:
    """Read mean and deviation of every channel, which lie beside the video VAE, without the VAE itself."""
    source = statistics_source(models)
    state = {name.removeprefix(SHARED): source.file.get(key) for name, key in source.names.items() if SHARED in name}
    with unfilled():
        statistics = ChannelStatistics(VideoVAEConfig.from_json(models.config["vae"]).latent_channels)
    title = f"The video VAE in {source.file.path.name}"
    _install(statistics, state, torch.float32, title)
    load_strict(statistics, state, title, lambda name: source.variant.keys.official(SHARED + name))
    return statistics


def statistics_source(models: Models) -> Source:
    """Return where mean and deviation of the channels of latents lie.

    Raises:
        CheckpointError: Nowhere, as where there is but a tiny decoder.
    """
    for name in ("video_decoder", "video_encoder"):
        source = models.sources.get(name)
        if source is not None and f"{SHARED}mean" in source.names:
            return source
    raise CheckpointError(
        "A latent is enlarged by the mean and the deviation of its channels, which a tiny decoder lacks: choose a "
        "whole video VAE, or leave out the upscaler."
    )


def _install(
    network: nn.Module, state: dict[str, Tensor], dtype: torch.dtype, title: str, deferred: Collection[torch.dtype] = ()
) -> None:
    with named_errors(title):
        install_quantized_layers(network, state, dtype, deferred)
