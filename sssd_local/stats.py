"""What an answer cost and what speculation brought, summed over its steps."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from sssd_local.engine.output import StepResult

# Below this factor the difference is noise and is not shown.
MIN_SHOWN_SPEEDUP = 1.05


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts and times of one answer; times in milliseconds.

    `prompt_ms` runs to the first token, `ms` adds up the steps after it (not what the reader of a
    stream does between them). `tested` are drafted nodes
    sent to the model, `accepted` those that came true. `plain_ms` is the measured time of a
    one-token step at this context and `speedup` is tokens × plain_ms ÷ ms; both are None where it
    was not measured. `step_overhead_ms` is the mean time a step spends outside llama_decode.
    """

    prompt_tokens: int
    reused_tokens: int
    prompt_ms: float
    tokens: int
    ms: float
    tokens_per_second: float
    steps: int
    tested: int
    accepted: int
    by_source: dict[str, int]
    plain_ms: float | None
    speedup: float | None
    draft_ms: float
    step_overhead_ms: float
    note: str = ""

    def as_dict(self) -> dict[str, object]:
        """All fields under their names, ready for JSON."""
        return asdict(self)

    def line(self) -> str:
        """One line for people: `412 tokens · 31 tok/s · 2.1× · 58 % accepted`."""
        parts = [f"{self.tokens} token{'' if self.tokens == 1 else 's'}"]
        if self.tokens_per_second > 0:
            rate = self.tokens_per_second
            parts.append(f"{rate:.0f} tok/s" if rate >= 10 else f"{rate:.1f} tok/s")
        if self.speedup is not None and self.speedup >= MIN_SHOWN_SPEEDUP:
            parts.append(f"{self.speedup:.1f}×")
        if self.tested:
            parts.append(f"{100 * self.accepted / self.tested:.0f} % accepted")
        return " · ".join([*parts, self.note] if self.note else parts)


@dataclass(slots=True)
class Tally:
    """Adds up the steps of an answer while it is produced."""

    prompt_tokens: int
    note: str = ""
    tokens: int = 0
    steps: int = 0
    tested: int = 0
    accepted: int = 0
    draft_seconds: float = 0.0
    decode_seconds: float = 0.0
    step_seconds: float = 0.0
    by_source: dict[str, int] = field(default_factory=dict)

    def add(self, step: StepResult) -> None:
        """Takes in one step; the first token belongs to the prompt's time and is no step."""
        self.tokens += len(step.token_ids)
        for source in step.sources:
            self.by_source[source.label] = self.by_source.get(source.label, 0) + 1
        if step.decode_seconds == 0:
            return
        self.steps += 1
        self.tested += step.tested
        self.accepted += step.accepted
        self.draft_seconds += step.draft_seconds
        self.decode_seconds += step.decode_seconds
        self.step_seconds += step.step_seconds

    def finish(self, *, reused_tokens: int, prompt_seconds: float, plain: float | None) -> Stats:
        """The sums as Stats; `plain` is the seconds of a one-token step, if known."""
        seconds = self.step_seconds
        timed_tokens = max(self.tokens - 1, 0)
        measured = plain is not None and seconds > 0 and timed_tokens > 0
        return Stats(
            prompt_tokens=self.prompt_tokens,
            reused_tokens=reused_tokens,
            prompt_ms=1000 * prompt_seconds,
            tokens=self.tokens,
            ms=1000 * seconds,
            tokens_per_second=timed_tokens / seconds if seconds > 0 else 0.0,
            steps=self.steps,
            tested=self.tested,
            accepted=self.accepted,
            by_source=self.by_source,
            plain_ms=None if plain is None else 1000 * plain,
            speedup=timed_tokens * plain / seconds if measured and plain is not None else None,
            draft_ms=1000 * self.draft_seconds,
            step_overhead_ms=1000 * (self.step_seconds - self.decode_seconds) / max(self.steps, 1),
            note=self.note,
        )
