"""The Hub over HTTP: a listing pinned to one commit, byte ranges that survive faults, verified downloads.

huggingface_hub gives what belongs to the user (endpoint, token, cache, offline switch). Its own downloads are
not used, because they start over after a kill and hide how far a broken range got. Here a range continues
from its last byte after a dropped connection, 429 is obeyed as long as it asks, and content that no longer
matches the pinned listing is an error instead of a mixture of two versions.
"""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import io
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote

import httpx
import tenacity

from reasonkit import __version__
from reasonkit.errors import ReasonkitError, UsageError

log = logging.getLogger(__name__)

RANGE_BYTES = 16 << 20
"""Bytes that a download asks for at once."""

GAP_BYTES = 256 << 10

Span = tuple[int, int]
"""Bytes [start, end) of a file."""

_TRANSIENT_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
_EXPIRED_STATUSES = frozenset({401, 403, 404, 410})

_REDIRECTS = 5
_NO_CONNECTION = (httpx.ConnectError, httpx.ConnectTimeout)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a fault may last. Attempts count only while no byte arrives: progress starts the count anew."""

    attempts: int = 8
    first_wait: float = 0.5
    longest_wait: float = 30.0
    longest_asked_wait: float = 600.0
    """Of a Retry-After header."""
    silence: float = 30.0
    """Seconds without a byte after which a connection counts as dropped."""
    connecting: float = 10.0
    first_contact: int = 3
    """Attempts to connect to a Hub that has not answered once: a machine without a network says so soon."""


class ContentChanged(ReasonkitError):
    """A file is not, or no longer, what the pinned listing says."""


class Unreachable(ReasonkitError):
    """The Hub is needed, and there is no way to it: no network, or HF_HUB_OFFLINE."""


class _Transient(Exception):
    """Worth another attempt."""

    def __init__(self, message: str, asked_wait: float | None = None) -> None:
        super().__init__(message)
        self.asked_wait = asked_wait


@dataclass(frozen=True, slots=True)
class HubFile:
    repo: str
    revision: str
    path: str
    size: int
    etag: str
    """The sha256 of a large file, the git blob id of a small one."""
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A dataset repository at one commit."""

    repo: str
    revision: str
    files: tuple[HubFile, ...]

    def matching(self, patterns: Sequence[str], *, some: bool = True) -> list[HubFile]:
        """The files that a pattern names, in path order. With `some`, a pattern that names none is an error."""
        chosen: set[str] = set()
        for pattern in patterns:
            found = [file.path for file in self.files if fnmatch.fnmatchcase(file.path, pattern)]
            if some and not found:
                raise UsageError(
                    f"{self.repo}@{self.revision[:10]} has no file that matches '{pattern}'",
                    "its files: " + ", ".join(sorted(file.path for file in self.files)[:12]),
                )
            chosen.update(found)
        return sorted((file for file in self.files if file.path in chosen), key=lambda file: file.path)


class Hub:
    """One client for listings and ranges. Thread-safe; close it, or use it as a context manager."""

    def __init__(self, endpoint: str | None = None, patience: Patience | None = None) -> None:
        from huggingface_hub import constants

        self.endpoint = (endpoint or constants.ENDPOINT).rstrip("/")
        self.patience = patience or Patience()
        self._offline = constants.HF_HUB_OFFLINE
        self._client = httpx.Client(
            timeout=httpx.Timeout(self.patience.silence, connect=self.patience.connecting, pool=None),
            headers={"User-Agent": f"reasonkit/{__version__}", "Accept-Encoding": "identity"},
            event_hooks={"response": [self._answered]},
        )
        self._reached = False
        self._direct: dict[HubFile, str] = {}
        """Where a file's bytes really are, after redirects: spares every later range the detour."""

    def __enter__(self) -> Hub:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._client.close()

    def snapshot(self, repo: str, revision: str = "main") -> Snapshot:
        """The files of a dataset at `revision`, which is resolved to a commit here and nowhere else."""
        if self._offline:
            return _cached_snapshot(repo, revision)
        url = f"{self.endpoint}/api/datasets/{repo}/revision/{quote(revision, safe='')}?blobs=true"
        what = f"{repo}@{revision}"

        def ask() -> dict[str, Any]:
            response = self._client.get(url, headers=self._authorization(), follow_redirects=True)
            _raise_for_status(response, what)
            content: dict[str, Any] = response.json()
            return content

        listing = self._persist(ask, what)
        sha = listing["sha"]
        return Snapshot(repo, sha, tuple(_hub_file(repo, sha, entry) for entry in listing["siblings"]))

    def read(self, file: HubFile, start: int, end: int) -> bytes:
        """Bytes [start, end). A dropped connection continues from the last byte that arrived."""
        received = bytearray()
        while start + len(received) < end:
            position = start + len(received)
            received += self._persist(
                functools.partial(self._read_some, file, position, end), f"{file.repo}/{file.path}"
            )
        return bytes(received)

    def open(self, file: HubFile, spans: Sequence[Span] = ()) -> BinaryIO | RangeFile:
        """`file`, with `spans` of it fetched at once; what lies outside of them is fetched when it is read."""
        local = cached(file)
        return local.open("rb") if local else RangeFile(self, file, spans)

    def download(
        self, file: HubFile, target: Path, progress: Callable[[int], object] = lambda _: None
    ) -> str:
        """Fetch `file` to `target` and give its sha256. What an earlier, killed attempt fetched is kept.

        A copy in Hugging Face's cache is taken instead of the network's. `progress` hears of the bytes that
        are there already, and of each further piece.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + f".{file.etag[:16]}.part")
        digest = hashlib.sha256()
        with part.open("a+b") as sink:
            sink.seek(0)
            while piece := sink.read(1 << 20):
                digest.update(piece)
                progress(len(piece))
            local = cached(file)
            while (position := sink.tell()) < file.size:
                end = min(position + RANGE_BYTES, file.size)
                piece = _read_local(local, position, end) if local else self.read(file, position, end)
                sink.write(piece)
                digest.update(piece)
                progress(len(piece))
            sink.flush()
            os.fsync(sink.fileno())
        found = digest.hexdigest()
        if part.stat().st_size != file.size or file.sha256 not in (None, found):
            part.unlink()
            raise ContentChanged(
                f"{file.repo}/{file.path} was downloaded with sha256 {found}, but the Hub lists {file.sha256}",
                "run the command again; if it fails again, the file on the Hub or a proxy is damaged",
            )
        part.replace(target)
        return found

    def _read_some(self, file: HubFile, position: int, end: int) -> bytes:
        """Bytes from `position` on, at least one of them: all up to `end` unless the connection drops."""
        received = bytearray()
        try:
            with self._range(file, position, end) as response:
                surplus = position if response.status_code == 200 else 0  # a server that ignores Range
                for chunk in response.iter_raw():
                    wanted = chunk[surplus:]
                    surplus = max(0, surplus - len(chunk))
                    received += wanted[: end - position - len(received)]
                    if position + len(received) == end:
                        break
        except httpx.TransportError as error:
            if not received:
                raise _Transient(f"{type(error).__name__}: {error}") from error
            log.debug("%s: connection lost after %d bytes (%s); continuing", file.path, len(received), error)
        if not received:
            raise _Transient("the answer was empty")
        return bytes(received)

    @contextmanager
    def _range(self, file: HubFile, position: int, end: int) -> Iterator[httpx.Response]:
        """An open answer to a ranged request, checked against the listing."""
        if file not in self._direct:
            self._direct[file] = self._locate(file)
        address = self._direct[file]
        on_hub = address.startswith(self.endpoint + "/")
        headers = self._authorization() if on_hub else {}
        headers["Range"] = f"bytes={position}-{end - 1}"
        with self._client.stream("GET", address, headers=headers) as response:
            if response.is_redirect or (response.status_code in _EXPIRED_STATUSES and not on_hub):
                self._direct.pop(file, None)
                raise _Transient(f"its signed address expired (HTTP {response.status_code})")
            _check_range(response, file, position)
            yield response

    def _locate(self, file: HubFile) -> str:
        """Where the Hub keeps the bytes of `file`, having checked that they are the ones listed."""
        url = f"{self.endpoint}/datasets/{file.repo}/resolve/{file.revision}/{quote(file.path)}"
        for _ in range(_REDIRECTS):
            response = self._client.head(url, headers=self._authorization())
            _raise_for_status(response, f"{file.repo}/{file.path}")
            location = response.headers.get("Location")
            linked = response.headers.get("X-Linked-ETag")
            target = str(response.url.join(location)) if location else url
            if linked or not location or not target.startswith(self.endpoint + "/"):
                _check_etag(file, linked or response.headers.get("ETag") or "")
                return target
            url = target  # the repository was renamed
        raise ReasonkitError(f"{file.repo}/{file.path}: the Hub redirects in a circle", "check HF_ENDPOINT")

    def _answered(self, _: httpx.Response) -> None:
        self._reached = True

    def _authorization(self) -> dict[str, str]:
        from huggingface_hub import get_token

        token = get_token()
        return {"Authorization": f"Bearer {token}"} if token else {}

    def _persist(self, call: Callable[[], T], what: str) -> T:
        """`call`, again and again while it fails for a reason that may pass."""
        patience = self.patience
        between = tenacity.wait_random_exponential(
            multiplier=patience.first_wait, max=patience.longest_wait, min=patience.first_wait / 2
        )

        def wait(state: tenacity.RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            if isinstance(error, _Transient) and error.asked_wait is not None:
                return min(error.asked_wait, patience.longest_asked_wait)
            return between(state)

        def alone(error: BaseException | None) -> bool:
            return not self._reached and isinstance(error, _NO_CONNECTION)

        def limit(state: tenacity.RetryCallState) -> int:
            error = state.outcome.exception() if state.outcome else None
            return patience.first_contact if alone(error) else patience.attempts

        def say(state: tenacity.RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            log.log(
                logging.WARNING if state.attempt_number > 1 else logging.DEBUG,
                "%s: %s; attempt %d of %d in %.1f s",
                *(what, error, state.attempt_number + 1, limit(state), state.upcoming_sleep),
            )

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type((_Transient, httpx.TransportError)),
            stop=lambda state: state.attempt_number >= limit(state),
            wait=wait,
            before_sleep=say,
            reraise=True,
        )
        try:
            return retrying(call)
        except (_Transient, httpx.TransportError) as error:
            if alone(error):
                raise Unreachable(
                    f"{what} is needed, and there is no connection to {self.endpoint}: {error}",
                    "check the network and HF_ENDPOINT; data that was pulled before needs neither",
                ) from error
            raise ReasonkitError(
                f"{what}: gave up after {patience.attempts} attempts without progress; the last said: "
                f"{error}",
                f"check the network and {self.endpoint}, then run the same command again: it resumes",
            ) from error


def _check_etag(file: HubFile, etag: str) -> None:
    found = etag.removeprefix("W/").strip('"')
    if found and found != file.etag:
        raise ContentChanged(
            f"{file.repo}/{file.path} changed on the Hub under the pinned revision {file.revision[:10]}: "
            f"its content is {found[:16]}, and was {file.etag[:16]}",
            "start from a fresh listing: run the command again without resuming",
        )


def _check_range(response: httpx.Response, file: HubFile, position: int) -> None:
    """An answer of another length than the listing's is another version of the file."""
    if response.status_code == 416:
        raise _resized(file, f"ends before byte {position}")
    _raise_for_status(response, f"{file.repo}/{file.path}")
    if response.status_code == 200:
        total = response.headers.get("Content-Length", "*")
    else:
        span, _, total = response.headers.get("Content-Range", "bytes -/*").partition("/")
        if not span.startswith(f"bytes {position}-"):
            raise _Transient(f"asked for bytes from {position}, was sent '{span}'")
    if total != "*" and int(total) != file.size:
        raise _resized(file, f"now has {total} bytes")


def _resized(file: HubFile, found: str) -> ContentChanged:
    return ContentChanged(
        f"{file.repo}/{file.path} {found}, but revision {file.revision[:10]} lists {file.size} bytes",
        "the file is truncated or was replaced: start again from a fresh listing",
    )


class RangeFile(io.RawIOBase):
    """A Hub file as a seekable file: what a parquet reader needs."""

    def __init__(self, hub: Hub, file: HubFile, spans: Sequence[Span]) -> None:
        super().__init__()
        self._hub, self._file, self._position = hub, file, 0
        self._fetched = [(start, hub.read(file, start, end)) for start, end in _joined(spans)]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file.size}[whence]
        self._position = base + offset
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        start, total = self._position, self._file.size
        end = total if size is None or size < 0 else min(start + size, total)
        for offset, data in self._fetched:
            if offset <= start and end <= offset + len(data):
                piece = data[start - offset : end - offset]
                break
        else:
            piece = self._hub.read(self._file, start, end)
        self._position = start + len(piece)
        return piece


def cached(file: HubFile) -> Path | None:
    """The copy of `file` in Hugging Face's cache (HF_HOME), where another tool has left one."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(file.repo, file.path, revision=file.revision, repo_type="dataset")
    return Path(found) if isinstance(found, str) and Path(found).stat().st_size == file.size else None


def _read_local(path: Path, start: int, end: int) -> bytes:
    with path.open("rb") as source:
        source.seek(start)
        return source.read(end - start)


def _cached_snapshot(repo: str, revision: str) -> Snapshot:
    """What Hugging Face's cache holds of a dataset, for when the network may not be used."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"datasets--{repo.replace('/', '--')}"
    ref = folder / "refs" / revision
    root = folder / "snapshots" / (ref.read_text(encoding="utf-8").strip() if ref.is_file() else revision)
    if not root.is_dir():
        raise Unreachable(
            f"HF_HUB_OFFLINE is set, and neither the data folder nor Hugging Face's cache holds {repo}@{revision}",
            f"with a network: HF_HUB_OFFLINE=0 reasonkit data pull {repo}",
        )
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    # The cache names each content by its etag: the file that the snapshot's link points to.
    files = [
        HubFile(
            repo, root.name, path.relative_to(root).as_posix(), path.stat().st_size, path.resolve().name, None
        )
        for path in paths
    ]
    return Snapshot(repo, root.name, tuple(files))


def _joined(spans: Sequence[Span]) -> list[Span]:
    """Spans in order, with small gaps filled: one larger request is quicker than two small ones."""
    joined: list[Span] = []
    for start, end in sorted(spans):
        if joined and start - joined[-1][1] <= GAP_BYTES:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def _hub_file(repo: str, revision: str, entry: dict[str, Any]) -> HubFile:
    large = entry.get("lfs")
    sha256 = large["sha256"] if large else None
    size = large["size"] if large else entry["size"]
    path: str = entry["rfilename"]
    if path.startswith("/") or "\\" in path or not {"", ".", ".."}.isdisjoint(path.split("/")):
        raise ReasonkitError(
            f"{repo}@{revision[:10]} lists a file called '{path}', which would be written outside its folder",
            "trust neither this dataset nor, if it is set, this HF_ENDPOINT",
        )
    return HubFile(repo, revision, path, size, sha256 or entry["blobId"], sha256)


def _raise_for_status(response: httpx.Response, what: str) -> None:
    status = response.status_code
    if status < 400:
        return
    if status in _TRANSIENT_STATUSES:
        raise _Transient(f"HTTP {status}", _asked_wait(response))
    code = response.headers.get("X-Error-Code", "")
    repo = what.partition("@")[0]
    if code == "GatedRepo":
        raise ReasonkitError(
            f"{what} is gated: its authors want you to accept their terms first",
            f"accept them at {response.url.scheme}://{response.url.host}/datasets/{repo}, then hf auth login",
        )
    if code == "RevisionNotFound":
        raise ReasonkitError(f"{what}: this revision does not exist on the Hub", f"try {repo}@main")
    if code == "EntryNotFound":
        raise ContentChanged(f"{what}: the file does not exist at this revision", "list the dataset again")
    if status in (401, 403, 404):
        raise ReasonkitError(
            f"{what} does not exist on the Hub, or is private (HTTP {status})",
            "check the name; for a private dataset: hf auth login, or HF_TOKEN=…",
        )
    raise ReasonkitError(f"{what}: the Hub answered HTTP {status}", "check HF_ENDPOINT and the name")


def _asked_wait(response: httpx.Response) -> float | None:
    """Seconds that the server asks for. A date instead of a number is left to the ordinary back-off."""
    value = response.headers.get("Retry-After", "")
    return float(value) if value.replace(".", "", 1).isdigit() else None
