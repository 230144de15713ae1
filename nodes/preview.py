"""Where the preview of a run is shown: on our widget in the browser, and wherever the host shows previews."""

from typing import Any

from comfy_api.latest import io

from ..ltx2_core.checkpoint import Models
from ..ltx2_core.mini.preview import preview_factors
from ..ltx2_core.pipeline.graph.latents import GraphLatent
from ..ltx2_core.pipeline.preview import Preview
from . import host

EVENT, STATUS = "ltx2av.preview", "ltx2av.status"  # js/preview.js plays what they bring


class HostScreen:
    """The moving preview goes to our widget in the browser, a still one to whoever asks the host for previews."""

    def __init__(self, node: type[io.ComfyNode]):
        """Prepare for one run of the class ``node``."""
        self._node_id, self.show_progress = node.hidden.unique_id, host.progress()  # with the still preview
        self.moving, self.still = host.wants_live_preview(), host.wants_previews()

    size = staticmethod(host.preview_size)

    def show_clip(self, content: dict[str, Any]) -> None:
        """Show the moving preview."""
        host.send(EVENT, self._node_id, content)

    def show_status(self, status: str) -> None:
        """Show what the node does just now: below the clip, or where none plays, as its text."""
        if self.moving:
            host.send(STATUS, self._node_id, {"status": status})
        else:
            host.show_status(status)


def preview_of(node: type[io.ComfyNode], latent: GraphLatent, models: Models) -> Preview:
    """Return the preview of a run of ``node`` that begins with ``latent``."""
    return Preview(HostScreen(node), models, latent.content, latent.fps, preview_factors)
