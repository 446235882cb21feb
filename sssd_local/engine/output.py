"""What the decode loop emits: tokens, the text they release, and what each step cost."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from sssd_local.config import MAX_WIDTH
from sssd_local.draft.tree import DraftTree, TokenSource
from sssd_local.engine.model import Model
from sssd_local.engine.text import TextAssembler
from sssd_local.engine.verify import Verdict


class StepResult(NamedTuple):
    """What one step added: accepted tokens and the one sampled after them, with their texts.

    `pieces[i]` is the text token i released; `tested` and `accepted` count drafted nodes; times in
    seconds: `decode_seconds` for llama_decode, `step_seconds` for all of the step.
    """

    token_ids: tuple[int, ...]
    sources: tuple[TokenSource, ...]
    pieces: tuple[str, ...]
    finish_reason: str | None
    tested: int = 0
    accepted: int = 0
    draft_seconds: float = 0.0
    decode_seconds: float = 0.0
    step_seconds: float = 0.0


class Clock:
    """Times of one step in seconds, from its creation on."""

    def __init__(self) -> None:
        self._start = self._draft_start = time.perf_counter()
        self.draft_seconds = self.decode_seconds = 0.0

    def drafts(self) -> None:
        """Work for drafts begins; there may be several parts of it."""
        self._draft_start = time.perf_counter()

    def drafted(self) -> None:
        """It is done, for now."""
        self.draft_seconds += time.perf_counter() - self._draft_start

    def elapsed(self) -> float:
        """Seconds since the step began."""
        return time.perf_counter() - self._start


class Output:
    """The answer so far: its tokens, the text they release and why it ended."""

    def __init__(self, model: Model, max_tokens: int | None, stop: Sequence[str]) -> None:
        self._model = model
        self._max_tokens = max_tokens
        self._text = TextAssembler(stop)
        self.token_ids: list[int] = []
        self.finish_reason: str | None = None

    @property
    def max_depth(self) -> int:
        """How many drafted tokens may still be accepted."""
        if self._max_tokens is None:
            return MAX_WIDTH
        return self._max_tokens - len(self.token_ids) - 1

    def emit(self, tree: DraftTree, verdict: Verdict, clock: Clock) -> StepResult:
        """Takes in what a verify batch yielded."""
        path = verdict.path
        drafted = tree.tokens[path].tolist() if path else []
        sources = [TokenSource(source) for source in tree.sources[path].tolist()] if path else []
        tokens, kinds = (*drafted, verdict.token), (*sources, TokenSource.MODEL)
        return self.take(tokens, kinds, clock, tested=len(tree), accepted=len(path))

    def take(
        self,
        tokens: tuple[int, ...],
        sources: tuple[TokenSource, ...],
        clock: Clock,
        *,
        tested: int = 0,
        accepted: int = 0,
    ) -> StepResult:
        """Takes tokens until one ends the answer; what follows that one is dropped."""
        pieces: list[str] = []
        for token in tokens:
            if self._model.is_eog(token):
                self.finish_reason = "stop"
                break
            pieces.append(self._text.push(self._model.piece(token)))
            self.token_ids.append(token)
            if self._text.stopped:
                self.finish_reason = "stop"
                break
            if len(self.token_ids) == self._max_tokens:
                self.finish_reason = "length"
                break
        kept = len(pieces)
        if self.finish_reason is not None and not self._text.stopped:
            rest = self._text.finish()
            pieces = [*pieces[:-1], pieces[-1] + rest] if pieces else [rest]
        return StepResult(
            tokens[:kept],
            sources[:kept],
            tuple(pieces),
            self.finish_reason,
            tested,
            accepted,
            clock.draft_seconds,
            clock.decode_seconds,
            clock.elapsed(),
        )

    def end(self, reason: str) -> StepResult:
        """Ends the answer between two steps."""
        self.finish_reason = reason
        return StepResult((), (), (self._text.finish(),), reason)
