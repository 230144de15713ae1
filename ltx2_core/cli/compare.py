"""The command that shows two clips in one video."""

import argparse

from ..conditioning.compare import Comparison, rate_of
from ..conditioning.sources import AudioSource, VideoSource, samples_of
from ..errors import MediaError, TargetExistsError, plain_text
from ..media import check_target, probe, write_clip
from ..media.write import check_not_given
from .flags import given


def run_compare(options: argparse.Namespace) -> None:
    """Write two clips as one, and print where it is.

    Raises:
        TargetExistsError: there is a file of that name, and nothing says that it may go.
        MediaError: a file that shows nothing.
    """
    if options.target.is_file() and not options.overwrite:
        raise TargetExistsError(f"{options.target} is there already: choose another name, or give --overwrite.")
    comparison, files = Comparison(**given(options, Comparison)), (options.first, options.second)
    check_target(options.target)
    first, second = map(VideoSource, files)
    check_not_given(options.target, files)
    if (fps := rate_of(first)) is None:
        raise MediaError(f"{options.first} has no pictures that move: choose a video.")
    sound = comparison.heard(*(AudioSource.of(file) if probe(file).has_audio else None for file in files))
    path = write_clip(options.target, comparison.frames(first, second, fps), fps, *samples_of(sound))
    print(plain_text(str(path)))
