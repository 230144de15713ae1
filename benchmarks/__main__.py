"""Everything that is measured on a CPU beside other implementations, as one page: python -m benchmarks

forward  one forward and a guided step of the transformer, beside ltx-core and diffusers
codecs   the video VAE, beside ltx-core
text     Gemma 3 beside transformers, and the connectors beside ltx-core
start    cold start, first and second clip, first plan of a release at full size: nobody beside

Writes a page with machine, versions and date. What needs a card is in benchmarks.cuda and benchmarks.clips,
and what is counted in benchmarks.traffic, where ComfyUI's own model is among the contenders.
"""

import argparse
import platform
from collections.abc import Callable
from datetime import date
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

RESULT = Path(__file__).parent / "results" / "peers.md"
PACKAGES = ("torch", "ltx-core", "diffusers", "transformers")
PARTS = {"forward": "block", "codecs": "codecs", "text": "text", "start": "start"}


def main(arguments: list[str] | None = None) -> str:
    """Measure the parts that are asked for, write the page, and return it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=lambda text: text.split(","), default=[*PARTS], help=f"of {','.join(PARTS)}")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args(arguments)
    page = [f"# Beside others, on one CPU thread\n\n{about()}"]
    for name in options.only:
        page.append(f"## {name.capitalize()}\n\n{measured(name)}")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text((text := "\n\n".join(page)) + "\n")
    return text


def measured(name: str) -> str:
    """Return the table of a part, or what it lacks."""
    try:
        measure: Callable[..., str] = import_module(f".{PARTS[name]}", __package__).main
        return measure([]) if name == "start" else measure()
    except ModuleNotFoundError as error:
        return f"Not measured: {error.name} is not installed."


def about() -> str:
    """Say what the figures were measured with."""
    return ", ".join((processor(), *map(release, PACKAGES), date.today().isoformat()))


def processor() -> str:
    """Return the name of the processor."""
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def release(package: str) -> str:
    """Return a package and its version."""
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} absent"


if __name__ == "__main__":
    main()
