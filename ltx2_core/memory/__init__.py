"""Where are the bytes now?

An engine for the weights of any ``nn.Module``: it knows no network, no file format and no user.
"""

from .link import Plain, Streamed
from .pinned import PinnedMemory
from .placement import Placement, Room, StageNeed, place
from .store import Store

__all__ = ["PinnedMemory", "Placement", "Plain", "Room", "StageNeed", "Store", "Streamed", "place"]
