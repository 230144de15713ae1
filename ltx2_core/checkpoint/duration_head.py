"""The duration head of 2.5 as people have it: one small file (see README.md, "Duration head")."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

from ..errors import CheckpointError
from ..text.duration import DurationHead, DurationHeadConfig
from .diffusers import stated_sections
from .files import TensorFile
from .keys.text import DURATION_HEAD
from .loading import load_strict, shorten_list
from .stored import StoredNetwork
from .unfilled import outline_network


@dataclass(frozen=True)
class DurationHeadFile(StoredNetwork):
    """A duration head on disk; the header only, no weights are read."""

    file: TensorFile

    @property
    def title(self) -> str:
        """What errors call it."""
        return f"The duration head {self.file.path.name}"

    @cached_property
    def names(self) -> dict[str, str]:
        """Our name of every tensor, and the file's; CheckpointError if some are unknown."""
        prefix, keys = DURATION_HEAD.prefixes[0], self.file.official_names
        if unknown := [key for key in keys if not DURATION_HEAD.knows(key, prefix)]:
            raise CheckpointError(
                f"{self.title} has unknown tensors: {shorten_list(sorted(unknown))}; download it again."
            )
        return {ours: keys[key] for key in keys if (ours := DURATION_HEAD.ours(key, prefix))}

    def outline(self) -> DurationHead:
        """Make the head without weights. Raises CheckpointError if the file will not fill it."""
        sections = self.file.config or stated_sections(self.file)
        config = DurationHeadConfig.from_shapes(self.shapes, sections.get("duration_head") or {})
        return outline_network(lambda: DurationHead(config), self, self.title, DURATION_HEAD.official)

    def build(self) -> DurationHead:
        """Build the head on the CPU in float32. Raises CheckpointError if its tensors are not what they have to be."""
        head = self.outline()
        state = {ours: tensor.float() for ours, tensor in self.tensors().items()}
        load_strict(head, state, self.title, DURATION_HEAD.official)
        return head.requires_grad_(False).eval()


def is_duration_head(keys: Collection[str]) -> bool:
    """Return whether a file with tensors of these official names is a duration head."""
    return bool(keys) and all(key.startswith(DURATION_HEAD.prefixes[0]) for key in keys)
