"""The duration head of 2.5 as people have it: one small file (see README.md, "Duration head")."""

from collections.abc import Collection
from dataclasses import dataclass

from ..errors import CheckpointError
from ..text.duration import DurationHead, DurationHeadConfig
from .diffusers import stated_sections
from .files import TensorFile
from .keys.text import DURATION_HEAD
from .loading import load_strict, shorten_list
from .unfilled import unfilled


@dataclass(frozen=True)
class DurationHeadFile:
    """A duration head on disk; the header only, no weights are read."""

    file: TensorFile

    def build(self) -> DurationHead:
        """Build the head on the CPU in float32. Raises CheckpointError if tensors are missing, unknown or misshapen."""
        prefix, title = DURATION_HEAD.prefixes[0], f"The duration head {self.file.path.name}"
        keys = self.file.official_names
        if unknown := [key for key in keys if not DURATION_HEAD.knows(key, prefix)]:
            raise CheckpointError(f"{title} has unknown tensors: {shorten_list(sorted(unknown))}; download it again.")
        names = {str(DURATION_HEAD.ours(key, prefix)): keys[key] for key in keys}
        shapes = {ours: self.file.shape(key) for ours, key in names.items()}
        sections = self.file.config or stated_sections(self.file)
        config = DurationHeadConfig.from_shapes(shapes, sections.get("duration_head") or {})
        with unfilled():
            head = DurationHead(config)
        state = {ours: self.file.get(key).float() for ours, key in names.items()}
        load_strict(head, state, title, DURATION_HEAD.official)
        return head.requires_grad_(False).eval()


def is_duration_head(keys: Collection[str]) -> bool:
    """Return whether a file with tensors of these official names is a duration head."""
    return bool(keys) and all(key.startswith(DURATION_HEAD.prefixes[0]) for key in keys)
