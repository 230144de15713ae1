"""The command line, as ``python -m ltx2_core`` and as the program ``ltx2``."""

import sys

from .cli import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
