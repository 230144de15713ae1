"""Files that get the name of another one, which a program may have open."""

import os
import sys
import time
from pathlib import Path

from . import UnreadableFileError

_PAUSE = 0.05  # seconds between two attempts


def replace_file(source: Path, target: Path, patience: float = 1.0) -> None:
    """Give ``source`` the name ``target``, which may be that of a file that goes away.

    Windows refuses as long as another program has that file open. A scanner lets go soon, so there this tries again for
    ``patience`` seconds.

    Raises:
        UnreadableFileError: It still refuses.
        OSError: The system refuses for another reason.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            os.replace(source, target)
            return
        except PermissionError as error:
            if sys.platform != "win32" or not target.is_file():
                raise
            if time.monotonic() >= deadline:
                raise UnreadableFileError(
                    f"{target} cannot be replaced while another program has it open; close it there, or choose another "
                    "name."
                ) from error
        time.sleep(_PAUSE)
