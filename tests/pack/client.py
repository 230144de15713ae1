"""What a browser says to ComfyUI, in a few lines: queue a prompt, follow it over the websocket, stop it."""

import base64
import json
import os
import socket
import struct
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

TEXT, BINARY, CLOSE = 1, 2, 8  # websocket opcodes, RFC 6455
PREVIEW = 4  # a kind of binary messages, and what it begins with: a length and so many bytes
Prompt = dict[str, dict[str, Any]]


class Rejected(Exception):
    """The server refused a prompt before running any of it."""


class Websocket:
    """The part of RFC 6455 that a server's short messages need, with nothing to install."""

    def __init__(self, address: str, path: str, timeout: float):
        name, port = address.split(":")
        self.socket = socket.create_connection((name, int(port)), timeout=timeout)
        self.stream = self.socket.makefile("rb")
        key = base64.b64encode(os.urandom(16)).decode()
        upgrade = f"GET {path} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        self.socket.sendall(f"{upgrade}Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
        status = self.stream.readline()
        assert b" 101 " in status, status
        while self.stream.readline().strip():
            pass

    def __enter__(self) -> "Websocket":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, message: dict) -> None:
        text = json.dumps(message).encode()
        assert len(text) < 126, "longer messages need a longer header"
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[number % 4] for number, byte in enumerate(text))
        self.socket.sendall(bytes([0x80 | TEXT, 0x80 | len(text)]) + mask + masked)

    def receive(self) -> tuple[int, bytes]:
        """The next whole message: its opcode and its content."""
        first, length = self.stream.read(2)
        assert first & 0x80, "ComfyUI sends its messages in one piece"
        if length == 126:
            (length,) = struct.unpack(">H", self.stream.read(2))
        elif length == 127:
            (length,) = struct.unpack(">Q", self.stream.read(8))
        return first & 0x0F, self.stream.read(length)


@dataclass
class Run:
    """What the server told about one prompt, in the order it was told."""

    messages: list[tuple[str, dict]] = field(default_factory=list)
    previews: list[tuple[dict, bytes]] = field(default_factory=list)  # (metadata, encoded picture)
    outputs: dict[str, dict] = field(default_factory=dict)  # by node id, from the history
    seconds: float = 0.0

    def take(self, content: bytes) -> None:
        """Note down a binary message."""
        kind, length = struct.unpack(">II", content[:8])
        if kind == PREVIEW:
            self.previews.append((json.loads(content[8 : 8 + length]), content[8 + length :]))

    @property
    def texts(self) -> list[tuple[str, str]]:
        """(node, what it says), in the order in which they were said."""
        return [(data["node"], data["said"]) for data in self.all("ltx2av.said")]

    def all(self, kind: str) -> list[dict]:
        return [data for name, data in self.messages if name == kind]

    @property
    def end(self) -> str:
        """execution_success, execution_error or execution_interrupted."""
        return next(name for name, _ in reversed(self.messages) if name.startswith("execution_"))

    @property
    def error(self) -> str:
        """The sentence of the node that failed, or nothing."""
        return "".join(data["exception_message"] for data in self.all("execution_error")).strip()

    @property
    def executed(self) -> list[str]:
        """Ids of the nodes that really ran, in order."""
        return [data["node"] for data in self.all("executing") if data["node"] is not None]

    @property
    def cached(self) -> set[str]:
        return {node for data in self.all("execution_cached") for node in data["nodes"]}

    def steps(self, node: str) -> list[int]:
        """The positions of one node's progress bar, in order."""
        return [data["value"] for data in self.all("progress") if data["node"] == node]


class Client:
    """One visitor of the server at ``address`` (host:port)."""

    def __init__(self, address: str):
        self.address = address
        self.id = uuid.uuid4().hex

    def fetch(self, path: str, body: dict | None = None) -> bytes:
        """GET ``path``, or POST ``body`` to it as JSON."""
        data = None if body is None else json.dumps(body).encode()
        with urlopen(Request(f"http://{self.address}{path}", data, {"Content-Type": "application/json"})) as answer:
            return answer.read()

    def object_info(self) -> dict[str, dict]:
        return json.loads(self.fetch("/object_info"))

    def interrupt(self) -> None:
        self.fetch("/interrupt", {})

    def queue(self, prompt: Prompt, preview: str = "none") -> str:
        """The id under which ``prompt`` will run; a prompt that does not validate raises ``Rejected``.

        So does one of whose outputs only some are refused, although the host makes the others.
        """
        try:
            body = {"prompt": prompt, "client_id": self.id, "extra_data": {"preview_method": preview}}
            answer = json.loads(self.fetch("/prompt", body))
        except HTTPError as refusal:
            raise Rejected(sentences(json.loads(refusal.read()))) from None
        if answer["node_errors"]:
            raise Rejected(sentences(answer))
        return answer["prompt_id"]

    def complaint(self, prompt: Prompt) -> str:
        """What a person is told of a prompt that cannot be, before or while it runs; empty if nothing is wrong."""
        try:
            return self.run(prompt).error
        except Rejected as refusal:
            return str(refusal)

    def run(
        self,
        prompt: Prompt,
        preview: str = "none",
        watch: Callable[[str, dict], None] | None = None,
        timeout: float = 120,
    ) -> Run:
        """Run ``prompt`` to its end, showing every message to ``watch`` as it comes."""
        run = Run()
        with Websocket(self.address, f"/ws?clientId={self.id}", timeout) as websocket:
            websocket.send({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
            start = time.monotonic()
            prompt_id = self.queue(prompt, preview)
            while True:
                opcode, content = websocket.receive()
                assert opcode != CLOSE, "the server closed the connection"
                if opcode == BINARY:
                    run.take(content)
                    continue
                message = json.loads(content)
                kind, data = message["type"], message["data"]
                if data.get("prompt_id") != prompt_id:
                    continue
                run.messages.append((kind, data))
                if watch:
                    watch(kind, data)
                if kind == "executing" and data["node"] is None:
                    break
        run.seconds = time.monotonic() - start
        run.outputs = json.loads(self.fetch(f"/history/{prompt_id}"))[prompt_id]["outputs"]
        return run


def sentences(refusal: dict) -> str:
    """The texts of a refused prompt that the browser would show, one per line."""
    error = refusal.get("error")
    lines = [] if error is None else [f"{error['message']} {error['details']}"]
    for node in refusal["node_errors"].values():
        lines += [f"{node['class_type']}: {error['message']}: {error['details']}" for error in node["errors"]]
    return "\n".join(lines)
