"""Visits to ComfyUI in Chromium: a script of the folder ``browser`` looks at a page, and says what it saw."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pack.client import Client
from pack.host import Server

SCRIPTS = Path(__file__).parent / "browser"
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

BEEN_HERE = {"Comfy.TutorialCompleted": True}  # no tour of the templates

# What ComfyUI's own page complains about for a user without files, and without a network.
# The list of jobs cannot be read once another test has queued a value that is no number.
USUAL_ERRORS = (
    "[Jobs API] Error fetching jobs",
    "/user.css",
    "/userdata",
    "/favicon.ico",
    "graph accessed before initialization",
    "huggingface.co",
)

Look = Callable[..., dict[str, Any]]


class NoBrowser(Exception):
    """There is no browser to visit ComfyUI with; the message says what to install or set."""


@dataclass(frozen=True)
class Browser:
    """A Chromium, and the environment in which Node finds playwright-core."""

    chromium: str
    environment: dict[str, str]

    @classmethod
    def find(cls) -> "Browser":
        """CHROMIUM, else one that is installed; playwright-core above the tests, in LTX2_PLAYWRIGHT or npm's own."""
        chromium = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUMS)), None)
        if not chromium:
            raise NoBrowser("no Chromium: set CHROMIUM to one")
        if not shutil.which("node"):
            raise NoBrowser("no Node.js")
        npm = shutil.which("npm")
        folders = [os.environ.get("LTX2_PLAYWRIGHT"), os.environ.get("NODE_PATH")]
        folders += [subprocess.run([npm, "root", "-g"], capture_output=True, text=True).stdout.strip()] if npm else []
        environment = {**os.environ, "NODE_PATH": os.pathsep.join(filter(None, folders))}
        question = ["node", "-e", "require.resolve('playwright-core')"]
        if subprocess.run(question, cwd=SCRIPTS, env=environment, capture_output=True).returncode:
            raise NoBrowser(
                "no playwright-core: npm install playwright-core, and set LTX2_PLAYWRIGHT to its node_modules"
            )
        return cls(chromium, environment)

    def visit(
        self, server: Server, script: str, settings: dict[str, Any], newcomer: bool = False, **task: Any
    ) -> dict[str, Any]:
        """Return what ``script`` saw of one task on a fresh page; see ``stay``. ComfyUI shows a newcomer around."""
        with self.stay(server, script, settings | ({} if newcomer else BEEN_HERE)) as look:
            return look(**task)

    @contextmanager
    def stay(self, server: Server, script: str, settings: dict[str, Any]) -> Iterator[Look]:
        """Keep a page of ComfyUI open, which knows these settings; what is yielded returns what it saw of a task."""
        Client(server.address).fetch("/settings", settings)
        process = subprocess.Popen(
            ["node", str(SCRIPTS / script), server.address, self.chromium],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

        def look(**task: Any) -> dict[str, Any]:
            print(json.dumps(task), file=process.stdin, flush=True)
            line = process.stdout.readline()
            assert line, process.stderr.read()
            seen = json.loads(line)
            assert "failed" not in seen, seen["failed"]
            return seen

        with process:
            yield look


def unusual(errors: list[str]) -> list[str]:
    """Return what a console complains of beyond what ComfyUI's own page always does."""
    return [error for error in errors if not any(usual in error for usual in USUAL_ERRORS)]


def nodes2(on: bool) -> dict[str, Any]:
    """Settings that choose between the renderer Nodes 2.0 and the canvas."""
    return {"Comfy.VueNodes.Enabled": on}
