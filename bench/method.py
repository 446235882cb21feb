"""What the ways to write an answer have in common.

The clock runs from the moment the first token is there (the prompt has been evaluated) to the
moment the last one is: n tokens are n − 1 decoded tokens' time, for every method.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What every method of a run has in common; `llama_server` is that peer's program."""

    model: Path
    ctx: int
    threads: int
    kv_type: str = "f16"
    llama_server: Path | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """One written answer: its tokens, decode time in seconds, and what speculation did.

    `steps` are evaluations after the prompt's; `tested` drafted tokens, `accepted` those kept.
    """

    token_ids: tuple[int, ...]
    seconds: float
    steps: int
    tested: int
    accepted: int


class Method(Protocol):
    """A loaded model and a way to decode with it."""

    name: str

    def run(self, prompt: Sequence[int], max_tokens: int) -> Run:
        """Writes the greedy answer to a prompt, at most `max_tokens` long, from a cold start."""
        ...

    def close(self) -> None:
        """Frees the model."""
        ...
