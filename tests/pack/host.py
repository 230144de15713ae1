"""The ComfyUI the pack is tested in: where it is, whether it can start, and a server in a temporary folder."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

REPOSITORY = Path(__file__).resolve().parents[2]
PACK = "ltx2-av"
IDENTITY = ("certificate", "key")  # with which clips are signed, once a test puts them there
SECONDS_TO_START = 120

MISSING_PACKAGES = """
import importlib.metadata, sys
def installed(name):
    try: return bool(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError: return False
print(*(name for name in sys.argv[1:] if not installed(name)))
"""


class NoHost(Exception):
    """There is no ComfyUI to test in; the message says why and what to set."""


@dataclass(frozen=True)
class Host:
    """A ComfyUI checkout and the Python that runs it."""

    root: Path
    python: str

    @classmethod
    def find(cls) -> "Host":
        """COMFYUI_PATH, else where comfy-cli installs it, run by COMFYUI_PYTHON, else by the Python of the tests."""
        host = cls(
            root=Path(os.environ.get("COMFYUI_PATH", "~/comfy/ComfyUI")).expanduser(),
            python=os.path.expanduser(os.environ.get("COMFYUI_PYTHON", sys.executable)),
        )
        if not (host.root / "main.py").is_file():
            raise NoHost(f"no ComfyUI in {host.root}: set COMFYUI_PATH to a checkout")
        if not shutil.which(host.python):
            raise NoHost(f"no Python in {host.python}: set COMFYUI_PYTHON to the one that runs ComfyUI")
        if missing := host.missing_packages():
            raise NoHost(f"{host.python} lacks {missing}: set COMFYUI_PYTHON to the Python that runs ComfyUI")
        return host

    def missing_packages(self) -> str:
        """The packages ComfyUI cannot start without that its Python does not have, separated by spaces."""
        essential, *_ = (self.root / "requirements.txt").read_text().split("#")
        names = re.findall(r"^[\w.-]+", essential, re.MULTILINE)
        question = [self.python, "-c", MISSING_PACKAGES, *names]
        return subprocess.run(question, check=True, capture_output=True, text=True).stdout.strip()


@contextmanager
def run_inside(host: Host, base: Path) -> Iterator[Callable[[str, Path], dict]]:
    """What is yielded runs a script of this folder in the Python of ComfyUI, which is started once, with a folder of
    its own, and returns the JSON that it prints."""
    command = [host.python, str(Path(__file__).with_name("inside.py")), str(REPOSITORY), str(host.root), str(base)]
    command += ["--cpu", "--disable-api-nodes", "--base-directory", str(base), "--database-url", "sqlite:///:memory:"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with ExitStack() as stack, open(base / "inside.log", "w+", encoding="utf-8") as log:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log, "text": True}
        running: list[subprocess.Popen] = []

        def run(script: str, folder: Path) -> dict:
            if not running or not hasattr(os, "fork"):  # Windows copies no process: there, each runs one script
                running.append(stack.enter_context(subprocess.Popen(command, cwd=host.root, env=environment, **pipes)))
            print(json.dumps([script, str(folder)]), file=running[-1].stdin, flush=True)
            said = [*takewhile(lambda line: line != "ended\n", running[-1].stdout)]
            assert said, Path(log.name).read_text(encoding="utf-8")[-3000:]
            return json.loads(said[-1])

        yield run


@dataclass(frozen=True)
class Server:
    """A running ComfyUI with the pack as its only custom node."""

    address: str
    base: Path

    @property
    def output(self) -> Path:
        return self.base / "output"

    @property
    def log(self) -> str:
        return (self.base / "server.log").read_text(errors="replace")


@contextmanager
def serve(host: Host, base: Path, *arguments: str, folders: Collection[str] = (PACK,)) -> Iterator[Server]:
    """Run ``host`` on the CPU with all it reads and writes in ``base``; it ends with the block, come what may.

    The pack lies in each of these ``folders``, of which one at least has to load.
    """
    (base / "custom_nodes").mkdir(parents=True, exist_ok=True)
    for folder in folders:
        (base / "custom_nodes" / folder).symlink_to(REPOSITORY, target_is_directory=True)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    command = [host.python, "main.py", "--cpu", "--disable-api-nodes", "--listen", "127.0.0.1", "--port", str(port)]
    command += ["--base-directory", str(base), "--database-url", "sqlite:///:memory:", *arguments]
    server = Server(f"127.0.0.1:{port}", base)
    # Tiny models gain nothing from more threads, and lose much of their time to them when the machine is busy.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LTX2_CACHE": str(base / "cache")}
    environment |= {f"LTX2_C2PA_{name.upper()}": str(base / "identity" / f"{name}.pem") for name in IDENTITY}
    environment["LTX2_C2PA_ANCHORS"] = environment["LTX2_C2PA_CERTIFICATE"]  # its own root is in it
    with open(base / "server.log", "wb") as log:
        process = subprocess.Popen(command, cwd=host.root, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_until_ready(process, server)
            if server.log.count("(IMPORT FAILED)") == len(folders):
                raise RuntimeError(f"ComfyUI could not import the pack:\n{server.log[-4000:]}")
            yield server
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_until_ready(process: subprocess.Popen, server: Server) -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"ComfyUI ended with code {process.returncode}:\n{server.log[-4000:]}")
        try:
            urlopen(f"http://{server.address}/system_stats", timeout=5).close()
            return
        except URLError:
            time.sleep(0.25)
    raise TimeoutError(f"ComfyUI was not ready after {SECONDS_TO_START} s:\n{server.log[-4000:]}")
