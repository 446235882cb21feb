"""An imitation of the hub on loopback: what huggingface_hub asks of it, and faults on demand."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

import pytest

COMMIT = "5" * 40
NEXT_COMMIT = "6" * 40
TOKEN = "hf_of_nobody"


class Request(NamedTuple):
    """What a client asked: `range` and `authorization` are headers, empty when absent."""

    method: str
    path: str
    range: str
    authorization: str


@dataclass
class Repository:
    """Files by name; those in `plain` are kept in git itself, the others in LFS.

    `earlier` are the files of revision COMMIT once there is a newer one.
    """

    files: dict[str, bytes]
    plain: set[str] = field(default_factory=set)
    earlier: dict[str, bytes] | None = None

    def move(self, **files: bytes) -> None:
        """Makes NEXT_COMMIT, with these files, the newest revision."""
        self.earlier = self.files
        self.files = {f"{name}.gguf": data for name, data in files.items()}

    @property
    def commit(self) -> str:
        return COMMIT if self.earlier is None else NEXT_COMMIT

    def at(self, revision: str) -> Repository:
        """The repository as it was at a revision."""
        if revision == COMMIT and self.earlier is not None:
            return Repository(self.earlier, self.plain)
        return self

    def describe(self, name: str) -> dict[str, object]:
        data = self.files[name]
        facts: dict[str, object] = {"rfilename": name, "size": len(data), "blobId": git_sha(data)}
        if name not in self.plain:
            sha = hashlib.sha256(data).hexdigest()
            facts["lfs"] = {"sha256": sha, "size": len(data), "pointerSize": 130}
        return facts

    def etag(self, name: str) -> str:
        data = self.files[name]
        return git_sha(data) if name in self.plain else hashlib.sha256(data).hexdigest()


def git_sha(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


class Hub:
    """The server: files are told by `localhost`, and redirected to 127.0.0.1 as to a CDN.

    `cuts` are the bytes after which successive transfers break off; `answers` are status codes and
    `X-Error-Code`s by the beginning of a path; with `corrupt` bytes arrive changed; without
    `ranges` whole files are sent whatever part is asked for.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[Request] = []
        self.cuts: list[int] = []
        self.answers: dict[str, tuple[int, str]] = {}
        self.corrupt = False
        self.ranges = True
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.port = self._server.server_address[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def add(self, repo: str, *, plain: tuple[str, ...] = (), **files: bytes) -> Repository:
        """A repository whose files are named by keyword, `.gguf` added."""
        named = {f"{name}.gguf": data for name, data in files.items()}
        self.repositories[repo] = Repository(named, set(plain))
        return self.repositories[repo]

    def transfers(self) -> list[Request]:
        """The requests for files' bytes."""
        return [item for item in self.requests if item.path.startswith("/cdn/")]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_HEAD(self) -> None:
                hub.answer(self)

            def do_GET(self) -> None:
                hub.answer(self)

        return Handler

    def answer(self, asked: BaseHTTPRequestHandler) -> None:
        path = asked.path.partition("?")[0]
        headers = asked.headers
        self.requests.append(
            Request(asked.command, path, headers.get("Range", ""), headers.get("Authorization", ""))
        )
        for start, (status, code) in self.answers.items():
            if path.startswith(start):
                return send(asked, status, b"", {"X-Error-Code": code} if code else {})
        if path.startswith("/api/models/"):
            return self._tell(asked, path.removeprefix("/api/models/"))
        if path.startswith("/cdn/"):
            return self._send_file(asked, path.removeprefix("/cdn/"))
        repo, _, rest = path.removeprefix("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        return self._redirect(asked, self.repositories[repo].at(revision), name)

    def _tell(self, asked: BaseHTTPRequestHandler, path: str) -> None:
        repository = self.repositories.get(path)
        if repository is None:
            return send(asked, 404, b"", {"X-Error-Code": "RepoNotFound"})
        siblings = [repository.describe(name) for name in repository.files]
        facts = {"id": path, "sha": repository.commit, "siblings": siblings}
        return send(asked, 200, json.dumps(facts).encode(), {"Content-Type": "application/json"})

    def _redirect(self, asked: BaseHTTPRequestHandler, repository: Repository, name: str) -> None:
        headers = {
            "X-Repo-Commit": repository.commit,
            "X-Linked-ETag": f'"{repository.etag(name)}"',
            "X-Linked-Size": str(len(repository.files[name])),
            "Location": f"http://localhost:{self.port}/cdn/{repository.etag(name)}",
        }
        send(asked, 302, b"", headers)

    def _send_file(self, asked: BaseHTTPRequestHandler, etag: str) -> None:
        (data,) = {
            repository.files[name]
            for found in self.repositories.values()
            for repository in (found, found.at(COMMIT))
            for name in repository.files
            if repository.etag(name) == etag
        }
        if self.corrupt:
            data = bytes([data[0] ^ 1]) + data[1:]
        wanted = asked.headers.get("Range")
        start = int(wanted[len("bytes=") : -1]) if wanted and self.ranges else 0
        send(asked, 206 if start else 200, data[start:], {}, self.cuts.pop(0) if self.cuts else -1)


def send(
    asked: BaseHTTPRequestHandler,
    status: int,
    data: bytes,
    headers: dict[str, str],
    cut: int = -1,
) -> None:
    """An answer; `cut` bytes of it before the connection is closed."""
    asked.send_response(status)
    for name, value in {**headers, "Content-Length": str(len(data))}.items():
        asked.send_header(name, value)
    asked.end_headers()
    if asked.command != "HEAD":
        asked.wfile.write(data if cut < 0 else data[:cut])
    if cut >= 0:
        asked.close_connection = True


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The imitation as HF_ENDPOINT, with a token and no waiting between attempts."""
    server = Hub()
    monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("sssd_local.transfer.RETRY_SECONDS", 0)
    yield server
    server.close()


@pytest.fixture(autouse=True)
def hub_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache in place of the user's."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME", "LLAMA_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf")))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
