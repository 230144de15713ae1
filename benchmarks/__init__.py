"""How fast is it, how much does it hold, and how does it look beside others? Nothing here is needed to run."""

import sys
from pathlib import Path

# Helpers of the tests: the peak of memory, and random weights that we and the official networks share.
sys.path.append(str(Path(__file__).parents[1] / "tests"))
