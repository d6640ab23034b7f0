"""How the two sides talk: frames of `JSON length, blob length, JSON, blob` over a socket made for one job.

The worker itself never reads a job's channel: the job's own process does, so nothing of one job passes through
memory that the next one is forked from. On the way back a frame is written by whatever the job became, so
`FrameReader` trusts nothing: sizes are bounded before anything is stored and bad JSON is a `BrokenFrame`.

Loaded inside the sandbox as well: standard library only.
"""

from __future__ import annotations

import json
import os
import struct
from typing import Any

from reasonkit.sandbox.plain import NotJson, parse

_HEAD = struct.Struct("!II")


class BrokenFrame(ValueError):
    """Bytes that no honest writer sends."""


def frame(message: Any, blob: bytes = b"") -> bytes:
    text = json.dumps(message).encode()
    return _HEAD.pack(len(text), len(blob)) + text + blob


class FrameReader:
    """Cuts a byte stream into frames; a frame over `limit` bytes breaks it for good."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[Any, bytes]]:
        self._buffer += data
        frames = []
        while len(self._buffer) >= _HEAD.size:
            text_size, blob_size = _HEAD.unpack_from(self._buffer)
            if text_size + blob_size > self.limit:
                raise BrokenFrame(f"a frame of {text_size + blob_size} bytes, more than {self.limit}")
            end = _HEAD.size + text_size + blob_size
            if len(self._buffer) < end:
                break
            body = bytes(self._buffer[_HEAD.size : end])
            del self._buffer[:end]
            try:
                frames.append((parse(body[:text_size]), body[text_size:]))
            except NotJson as error:
                raise BrokenFrame(str(error)) from error
        return frames


def read_frame(descriptor: int) -> tuple[Any, bytes]:
    """One whole frame from the trusted side, blocking."""
    text_size, blob_size = _HEAD.unpack(_read_exactly(descriptor, _HEAD.size))
    text = _read_exactly(descriptor, text_size)
    return json.loads(text), _read_exactly(descriptor, blob_size)


def write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _read_exactly(descriptor: int, size: int) -> bytes:
    parts = []
    while size > 0:
        part = os.read(descriptor, min(size, 1 << 20))
        if not part:
            raise EOFError("the other side hung up in the middle of a frame")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
