"""The networks of a model as shapes and formats, on the meta device: no weight is read, whatever the size.

Stages run these networks to learn what they cost, so the numbers are those of the code as it is, not of a formula
beside it.
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping
from copy import copy
from types import MappingProxyType
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ...checkpoint.belonging import check_text_encoder
from ...checkpoint.components import COMPONENTS, ComponentNetwork
from ...checkpoint.loading import assign_tensors
from ...checkpoint.models import Models
from ...checkpoint.stored import StoredNetwork
from ...checkpoint.text_encoder import TextEncoderFiles, kind_titled
from ...checkpoint.unfilled import uncollected, unfilled
from ...checkpoint.versions import VERSIONS
from ...errors import SettingError
from ...memory.partition import Weights
from ...memory.trace import SCALED_OPERATIONS
from ...quantization import (
    FORMATS,
    PLANNED,
    SCALED_PRODUCTS,
    cast,
    find_format,
    install_quantized_layers,
    matrix_shape,
    matrix_shapes,
    outline_of,
    plain_dtype,
    products_of,
    remember_choices,
    split_companion,
    stored_weights,
    use_scaled_products,
)
from ...text import EncoderConfig
from ...transformer import Transformer
from ...transformer.config import layers_of
from .chosen_products import find_choice, keep_choice

PLANNED_FORMATS = ("bf16", *PLANNED)  # of releases that can be planned without a file

SCALED_OPERATIONS.update(SCALED_PRODUCTS)
remember_choices(find_choice, keep_choice)

Tensors = dict[str, Tensor]  # by our names, on the meta device
Value = TypeVar("Value")

FLOAT32 = 4  # bytes
_REMEMBERED = 256  # values; each is small


# A blueprint is drawn within a run, which is in inference mode, and asked outside of it as well.
_outlives_a_run = torch.inference_mode(False)


class Blueprint:
    """The networks of a model, without a weight.

    Attributes:
        title: what plans call the model.
        config: the sections of its JSON.
        tensors: shapes and formats of every component, by name, then by our name of the tensor.
        gemma: the text encoder's config; None without one.
        tables: whether tables, of which rows are looked up, travel to the device as other weights do.
        device: where the transformer runs, whose products are counted; None is a card that has float8, and no library.
        processes: how many compute each pass together; what stages need is that of one of them.
        devices: how many share the passes and tiles of a step.
    """

    processes = devices = 1

    def __init__(
        self,
        title: str,
        config: dict[str, Any],
        tensors: dict[str, Tensors],
        gemma: EncoderConfig | None,
        tables: bool = True,
        device: torch.device | None = None,
        made: Mapping[str, ComponentNetwork] = MappingProxyType({}),
    ):
        self.title, self.config, self.tensors, self.gemma, self.tables = title, config, tensors, gemma, tables
        self.device = device
        self._made = dict(made)  # networks without formats, until they are asked for
        self._remembered: OrderedDict[Hashable, Any] = OrderedDict()

    @classmethod
    @_outlives_a_run
    @uncollected()
    def of_files(
        cls,
        models: Models,
        encoder: TextEncoderFiles | None,
        dtypes: Mapping[str, torch.dtype],
        format: str | None = None,
        tables: bool = True,
        device: torch.device | None = None,
    ) -> "Blueprint":
        """Read the headers of files as they will be loaded, once for the same arguments as long as ``models`` lives.

        Another text encoder that took the place of one has a blueprint of its own.

        Args:
            models: the files.
            encoder: those of the text encoder; None without one.
            dtypes: what each component computes in, "text_encoder" included.
            format: what the transformer is cast to; None as it is stored.
            tables: whether tables, of which rows are looked up, travel to the device as other weights do.
            device: where the transformer runs; None is a card that has float8, and no library.
        """
        known = _OF_FILES.setdefault(models, {})
        key = (None if encoder is None else encoder.file.identity, frozenset(dtypes.items()), format, tables, device)
        if key in known:
            return known[key]
        stored: dict[str, StoredNetwork] = {**models.sources}
        made = {name: models.network(name) for name in stored}
        if encoder is not None:
            stored["text_encoder"], made["text_encoder"] = encoder, check_text_encoder(encoder, models)
        tensors = {
            name: _stored(each.outlines, getattr(made[name], "compute_dtype", dtypes[name]))
            for name, each in stored.items()
        }
        if format is not None:
            cast(tensors["transformer"], format)
        files = dict.fromkeys(source.file.path.name for source in models.sources.values())
        title = f"LTX-{models.version} ({', '.join([*files, *_formats(models, encoder, format)])})"
        known[key] = cls(title, models.config, tensors, encoder.config if encoder else None, tables, device, made)
        return known[key]

    @classmethod
    @_outlives_a_run
    def of_version(
        cls,
        version: str,
        format: str = "bf16",
        dtype: torch.dtype = torch.bfloat16,
        tables: bool = True,
        device: torch.device | None = None,
    ) -> "Blueprint":
        """Draw a released model with its text encoder; no file is needed.

        Args:
            version: a key of VERSIONS.
            format: "bf16", or a row of PLANNED. "fp8" is as in the official fp8 file and the usual one of Gemma: the
                matrices of the transformer's blocks, the first and the last five excepted, and those of Gemma's layers.
                The others are taken to be alike.
            dtype: what the networks compute in.
            tables: whether tables, of which rows are looked up, travel to the device as other weights do.
            device: where the transformer runs; None is a card that has float8, and no library.

        Raises:
            SettingError: for an unknown version or format.
        """
        if version not in VERSIONS or format not in PLANNED_FORMATS:
            raise SettingError(
                f"There is no plan for LTX-{version} in {format}: versions are {', '.join(VERSIONS)}, formats "
                f"{', '.join(PLANNED_FORMATS)}."
            )
        config, gemma = VERSIONS[version].config, kind_titled(VERSIONS[version].encoder).config()
        flat = {"projection.weight": (1, (gemma.layers + 1) * gemma.width)}
        with unfilled():
            networks = {name: component.make(config, flat) for name, component in COMPONENTS.items()}
            networks["text_encoder"] = gemma.build()
        tensors = {}
        for name, network in networks.items():
            kept = getattr(network, "compute_dtype", dtype)
            tensors[name] = {ours: tensor.to(kept) for ours, tensor in network.state_dict().items()}
        if format in PLANNED:
            last = config["transformer"].get("num_layers", 48) - 6
            for name, inside in (("transformer", range(1, last + 1)), ("text_encoder", range(gemma.layers))):
                tensors[name] = _quantized(tensors[name], inside, format)
        return cls(f"LTX-{version} in {format}", config, tensors, gemma, tables, device)

    def over(self, processes: int) -> "Blueprint":
        """Return the blueprint of the same networks, where so many processes compute each pass together."""
        return self._with(processes, self.devices)

    def among(self, devices: int) -> "Blueprint":
        """Return the blueprint of the same networks, where so many devices share the passes and tiles of a step."""
        return self._with(self.processes, devices)

    def _with(self, processes: int, devices: int) -> "Blueprint":
        def make() -> Blueprint:
            other = copy(self)
            other.processes, other.devices, other._remembered = processes, devices, OrderedDict()
            return other

        same = (processes, devices) == (self.processes, self.devices)
        return self if same else self.remember(("shared", processes, devices), make)

    def remember(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """Return what was made for ``key`` before, else make it; what was not asked for longest is forgotten."""
        if key not in self._remembered:
            self._remembered[key] = make()
            if len(self._remembered) > _REMEMBERED:
                self._remembered.popitem(last=False)
        self._remembered.move_to_end(key)
        return self._remembered[key]

    @property
    def layers(self) -> int:
        """How many blocks the transformer has."""
        return layers_of(self.config["transformer"])

    def has(self, *names: str) -> bool:
        """Return whether the model has all of these components."""
        return all(name in self.tensors for name in names)

    def weights(self, *names: str) -> Weights:
        """Measure components together."""
        return sum(map(self._weights_of, names), Weights())

    def _weights_of(self, name: str) -> Weights:
        return self.remember(("weights", name), lambda: Weights.of(self.network(name), self.tables))

    def network(self, name: str) -> ComponentNetwork:
        """Return component ``name`` on the meta device, in the formats it will run in."""
        return self.remember(("network", name), lambda: self._network(name))

    @_outlives_a_run
    def _network(self, name: str) -> ComponentNetwork:
        network = self._made.pop(name, None)
        if network is None and name == "text_encoder":
            assert self.gemma is not None
            with unfilled():
                network = self.gemma.build()
        return _with_tensors(network or _make(name, self.config, self.tensors[name]), self.tensors[name])

    def give(self, name: str) -> ComponentNetwork | None:
        """Give away the network of a component that was made to look at its files, without formats and weights; None
        if a plan has asked for it, or somebody has it already."""
        return self._made.pop(name, None)

    def widened(self, names: frozenset[str]) -> "Blueprint":
        """Return the same model, of whose transformer these weights are expanded in memory."""
        return self.remember(("widened", names), lambda: self._widened(names))

    @_outlives_a_run
    def _widened(self, names: frozenset[str]) -> "Blueprint":
        network, stored = self.network("transformer"), self.tensors["transformer"]
        shapes, dtype = matrix_shapes(network), plain_dtype(network)
        tensors = {name: tensor for name, tensor in stored.items() if split_companion(name)[0] not in names}
        tensors |= {name: torch.empty(shapes[name], dtype=dtype, device="meta") for name in names}
        every = self.tensors | {"transformer": tensors}
        return Blueprint(self.title, self.config, every, self.gemma, self.tables, self.device)

    def shortened_transformer(self, layers: int) -> Transformer:
        """Return the transformer with a few blocks from its middle, as it multiplies on its device."""
        return self.remember(("shortened", layers), lambda: self._shortened_transformer(layers))

    @_outlives_a_run
    def _shortened_transformer(self, layers: int) -> Transformer:
        middle = self.layers // 2
        tensors = {}
        for name, tensor in self.tensors["transformer"].items():
            if not name.startswith("blocks."):
                tensors[name] = tensor
                continue
            _, number, rest = name.split(".", 2)
            if 0 <= (place := int(number) - middle) < layers:
                tensors[f"blocks.{place}.{rest}"] = tensor
        config = self.config | {"transformer": self.config["transformer"] | {"num_layers": layers}}
        network = _with_tensors(_make("transformer", config, tensors), tensors)
        use_scaled_products(network, ("meta",), products_of(network, self.device))
        return network


_OF_FILES: WeakKeyDictionary[Models, dict[Hashable, Blueprint]] = WeakKeyDictionary()


def empty_like(network: nn.Module, *shape: int) -> Tensor:
    """Return a tensor of ``shape`` on the meta device, in the dtype that ``network`` computes in."""
    return torch.empty(shape, dtype=plain_dtype(network), device="meta")


def _formats(models: Models, encoder: TextEncoderFiles | None, format: str | None) -> list[str]:
    """Name the formats of quantised networks, and what the transformer is cast to."""
    networks = [(name.replace("_", " "), source.formats) for name, source in models.sources.items()]
    if encoder is not None:
        networks.append((encoder.kind.title, encoder.formats))
    said = []
    for network, formats in networks:
        if quantized := [name for name in formats if name in FORMATS]:
            said.append(f"{network} in {' and '.join(quantized)}")
    return said + ([f"cast to {format}"] if format else [])


def _stored(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Tensors:
    """Return the tensors of a file as they will be loaded: what is quantised stays that, all else is ``dtype``."""
    plain = {name for name, stored in stored_weights(tensors).items() if find_format(stored) is None}
    return {name: tensor.to(dtype) if name in plain else tensor for name, tensor in tensors.items()}


def _quantized(tensors: Tensors, blocks: Iterable[int], format: str) -> Tensors:
    """Return ``tensors`` with the matrices of these blocks in ``format``."""
    inside = re.compile(rf"(.*\.)?(blocks|layers)\.({'|'.join(map(str, blocks))})\..*\.weight")
    quantized: Tensors = {}
    for name, tensor in tensors.items():
        if tensor.ndim == 2 and inside.fullmatch(name):
            module = name.removesuffix(".weight")
            leaves = outline_of(PLANNED[format], tuple(tensor.shape)).items()
            quantized |= {f"{module}.{leaf}": made for leaf, made in leaves}
        else:
            quantized[name] = tensor
    return quantized


def _make(name: str, config: dict[str, Any], tensors: Tensors) -> nn.Module:
    shapes = {ours: matrix_shape(stored) for ours, stored in stored_weights(tensors).items()}
    with unfilled():
        return COMPONENTS[name].make(config, shapes)


def _with_tensors(network: nn.Module, tensors: Tensors) -> Any:
    state = dict(tensors)
    # Every format stores bytes.
    plain = (each.dtype for name, each in state.items() if each.itemsize > 1 and not split_companion(name)[1])
    install_quantized_layers(network, state, next(plain, None))
    assign_tensors(network, state)
    return network
