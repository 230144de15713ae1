"""A node as a few attributes of its class, of which the host gets its schema."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from comfy_api.latest import io

from ..ltx2_core.conditioning.conditions import Condition
from ..ltx2_core.conditioning.kept import chained
from . import host
from .inputs import Declared, SocketType
from .page import read_page
from .values import Chain, ConditionsType

CATEGORY = "LTX-2"
Given = Sequence[Condition]


@dataclass(frozen=True)
class EachOf:
    """The type of an output that hands on one value after the other."""

    kind: SocketType


class Node(io.ComfyNode):
    """A node; what it is for, the texts of its inputs and outputs, and what finds it stand on its help page.

    Ids, and the order of inputs and outputs, never change once they are published.

    Attributes:
        id: of the node in saved graphs.
        title: its submenu and name, such as "loaders/Load Model".
        inputs: in their order.
        outputs: names and types, in their order.
        shows: whether it shows sentences on itself.
        knows_graph: whether it writes the graph into its files.
        ends_graph: whether it runs without a node that takes its outputs.
    """

    id: ClassVar[str]
    title: ClassVar[str]
    inputs: ClassVar[list[Declared]]
    outputs: ClassVar[dict[str, SocketType]] = {}
    shows: ClassVar[bool] = False
    knows_graph: ClassVar[bool] = False
    ends_graph: ClassVar[bool] = False

    @classmethod
    def define_schema(cls) -> io.Schema:
        menu, _, name = cls.title.partition("/")
        page = read_page(cls.id)
        inputs = [each for declared in cls.inputs for each in declared()]
        for each in inputs:
            each.tooltip = each.tooltip or page.input_text(each.id)
        hidden = [io.Hidden.unique_id] if cls.shows else []
        return io.Schema(
            node_id=cls.id,
            display_name=f"LTX-2 {name}",
            category=f"{CATEGORY}/{menu}",
            description=page.description,
            search_aliases=page.aliases,
            hidden=[*hidden, io.Hidden.prompt, io.Hidden.extra_pnginfo] if cls.knows_graph else hidden,
            is_output_node=cls.ends_graph,
            has_intermediate_output=True,
            inputs=inputs,
            outputs=[_output(kind, name, page.outputs.get(name)) for name, kind in cls.outputs.items()],
        )

    @classmethod
    def show(cls, text: str) -> None:
        """Show a sentence on the node."""
        host.show_text(text)

    @classmethod
    def show_saved(cls, path: Path) -> None:
        """Show where a file has been saved."""
        cls.show(f"Saved {path.name} in the folder {path.parent.name}.")


class ConditionNode(Node):
    """A node that adds what is given to a chain, which the sampler takes.

    Attributes:
        adds: the condition whose fields its inputs are; where they are not, the node has a ``given`` of its own.
    """

    adds: ClassVar[Callable[..., Condition]]
    outputs = {"conditions": ConditionsType}

    @classmethod
    def execute(cls, conditions: Chain | None = None, **values: Any) -> io.NodeOutput:
        return io.NodeOutput(chained(conditions or (), cls.given(**values)))

    @classmethod
    def given(cls, *args: Any, **values: Any) -> Given:
        """Return what the values of the other inputs add."""
        return [cls.adds(**values)]


def _output(kind: SocketType, name: str, tooltip: str | None) -> io.Output:
    """Return the output socket of ``kind``, a type such as io.Image, or EachOf one."""
    many = isinstance(kind, EachOf)
    return (kind.kind if many else kind).Output(display_name=name, tooltip=tooltip, is_output_list=many)
