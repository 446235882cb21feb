"""llama.cpp's own server as a peer, with each of its drafters that need no second model.

Times and counts are those the server reports with an answer (server-common.cpp): from the end of
the prompt to the last token. What a drafter has read would stay for the next answer (ngram-mod's
pool and ngram-cache's counts are never emptied), so a server that drafts is started anew for each.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from bench.method import Run, Setup
from sssd_local.errors import ConfigError, ModelError

SPECULATION_TYPES = ("ngram-simple", "ngram-mod", "ngram-cache", "ngram-map-k", "ngram-map-k4v")
START_SECONDS = 120.0
ANSWER_SECONDS = 600.0
POLL_SECONDS = 0.02
BATCH_TOKENS = 512


def server_version(program: str | os.PathLike[str]) -> str:
    """What the program says about its version, on one line; raises ConfigError if it is none."""
    try:
        done = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=START_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"{os.fspath(program)} cannot be run as llama-server: {error}") from error
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return "; ".join(line for line in lines if line.startswith(("version", "built")))


class LlamaServer:
    """llama-server on a port of its own, without speculation or with one of SPECULATION_TYPES.

    Raises ConfigError when no program was named and ModelError when it does not start or answer.
    """

    def __init__(self, name: str, setup: Setup, kind: str = "none") -> None:
        self.name = name
        if setup.llama_server is None:
            raise ConfigError(f"the method {name} needs --llama-server PATH")
        self._kind = kind
        self._setup = setup
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the server
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    def run(self, prompt: Sequence[int], max_tokens: int) -> Run:
        """Writes one answer; see Method."""
        if self._process is None:
            self._start()
        try:
            status, answer = self._post("/completion", request(prompt, max_tokens))
            if status != http.HTTPStatus.OK:
                raise ModelError(f"{self.name} refused to answer: {answer.get('error', status)}")
            return run_of(answer)
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            raise ModelError(f"{self.name} did not answer ({error!r}){self._reason()}") from error
        finally:
            if self._kind != "none":
                self._stop()

    def _start(self) -> None:
        self._port = free_port()
        assert self._setup.llama_server is not None
        self._process = subprocess.Popen(
            [os.fspath(self._setup.llama_server), *arguments(self._setup, self._kind, self._port)],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        end = time.monotonic() + START_SECONDS
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > end:
                self._stop()
                raise ModelError(f"{self.name} did not start{self._reason()}")
            time.sleep(POLL_SECONDS)

    def _is_ready(self) -> bool:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=START_SECONDS)
            connection.request("GET", "/health")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _post(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_SECONDS)
        try:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", path, json.dumps(body), headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def _reason(self) -> str:
        """The last line of the server's log that tells of an error."""
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").splitlines()
        told = [line for line in lines if "error" in line.lower()] or lines
        return f": {told[-1].strip()}" if told else ""

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def close(self) -> None:
        """Ends the server."""
        self._stop()
        self._log.close()


def arguments(setup: Setup, kind: str, port: int) -> list[str]:
    """The server's command line: the same threads, context, batch and cache type as the others."""
    options = {
        "--model": os.fspath(setup.model),
        "--host": "127.0.0.1",
        "--port": port,
        "--ctx-size": setup.ctx,
        "--parallel": 1,
        "--threads": setup.threads,
        "--threads-batch": setup.threads,
        "--batch-size": BATCH_TOKENS,
        "--ubatch-size": BATCH_TOKENS,
        "--cache-type-k": setup.kv_type,
        "--cache-type-v": setup.kv_type,
        # As for the other methods: on a CPU it costs more, and a quantised V needs it.
        "--flash-attn": "on" if setup.kv_type == "q8_0" else "off",
        "--fit": "off",
        "--cache-ram": 0,
        "--spec-type": kind,
    }
    return [str(part) for option in options.items() for part in option]


def request(prompt: Sequence[int], max_tokens: int) -> dict[str, Any]:
    """A greedy completion of token ids; of the samplers only the cheapest that is greedy runs."""
    return {
        "prompt": list(prompt),
        "n_predict": max_tokens,
        "temperature": 0,
        "top_k": 1,
        "samplers": ["top_k"],
        "cache_prompt": False,
        "return_tokens": True,
    }


def run_of(answer: dict[str, Any]) -> Run:
    """A finished completion as a Run; raises KeyError where the server reports no times.

    A draft that reaches past the last token wanted counts as accepted there, so evaluations are
    those of the tokens that no draft brought, at least one.
    """
    tokens = tuple(int(token) for token in answer["tokens"])
    times = answer["timings"]
    timed = max(0, len(tokens) - 1)
    accepted = min(int(times.get("draft_n_accepted", 0)), timed)
    return Run(
        token_ids=tokens,
        seconds=float(times["predicted_ms"]) / 1000,
        steps=max(timed - accepted, min(1, timed)),
        tested=int(times.get("draft_n", 0)),
        accepted=accepted,
    )


def free_port() -> int:
    """A port of this machine that nothing listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
