"""Speculation off against auto on the user's own model and machine: `sssd-local bench`."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from sssd_local.builtin import is_builtin
from sssd_local.call import Completion
from sssd_local.engine.ties import Tie, compare_tokens
from sssd_local.errors import ConfigError, ContextFullError
from sssd_local.hardware.advice import best_rate
from sssd_local.llm import LLM

OFF, AUTO = "off", "auto"
PROMPTS, TINY_PROMPTS = "bench_prompts.json", "tiny_prompts.json"
# A difference below this is not told from the noise of a machine.
NOTICEABLE = 0.03
# So little plain decoding is over before a machine has settled on a speed.
LEAST_MS = 200.0
LIMIT_CONTEXT_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Prompt:
    """A message to answer and what kind it is of."""

    kind: str
    text: str


def read_prompts(path: Path | None, model: Path | None = None) -> list[Prompt]:
    """Prompts of a JSON file, {KIND: [TEXT, …], …} or [TEXT, …]; None is a built-in set.

    The embedded model has a set of its own, as it knows its own tasks only.

    Raises ConfigError for a file that is not that.
    """
    where = "the built-in prompts" if path is None else f"the prompts file {path}"
    try:
        own = TINY_PROMPTS if model is not None and is_builtin(model) else PROMPTS
        source = files("sssd_local") / "data" / own if path is None else path
        data = json.loads(source.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{where} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where} is not JSON: {error}") from error
    kinds = {"prompts": data} if isinstance(data, list) else data
    if not isinstance(kinds, dict) or not all(map(_are_texts, kinds.values())) or not kinds:
        raise ConfigError(
            f'{where} must be a list of texts, or lists by kind: {{"chat": ["Hello", …], …}}'
        )
    return [Prompt(kind, text) for kind, texts in kinds.items() for text in texts]


def _are_texts(value: object) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(item, str) and item.strip() for item in value)
    )


@dataclass(frozen=True, slots=True)
class Run:
    """One answer: decode time only, from the first token to the last, in milliseconds."""

    prompt: int
    kind: str
    speculation: str
    round: int
    tokens: int
    ms: float
    steps: int
    tested: int
    accepted: int

    @property
    def ms_per_token(self) -> float:
        """Milliseconds of each token after the first."""
        return self.ms / max(1, self.tokens - 1)


@dataclass(frozen=True, slots=True)
class Difference:
    """Where an answer with speculation leaves the plain one: after `position` equal tokens.

    `tie` is None where one answer only ends earlier than the other.
    """

    prompt: int
    position: int
    tie: Tie | None

    @property
    def is_explained(self) -> bool:
        """Whether the two tokens tie within what the backend's kernels differ by."""
        return self.tie is not None and self.tie.is_explained


@dataclass(slots=True)
class Measurement:
    """What was measured so far; complete rounds and the prompts done of the last one."""

    prompts: Sequence[Prompt]
    runs: list[Run] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    skipped: dict[int, str] = field(default_factory=dict)
    limit: float | None = None
    note: str = ""

    @property
    def compared(self) -> list[int]:
        """The prompts answered both with and without speculation, with tokens to time."""
        timed = {(run.prompt, run.speculation) for run in self.runs if run.tokens > 1}
        numbers = range(len(self.prompts))
        return [n for n in numbers if (n, OFF) in timed and (n, AUTO) in timed]

    def kinds(self) -> list[str]:
        """The kinds that have something to show, in the order of the prompts."""
        return list(dict.fromkeys(self.prompts[number].kind for number in self.compared))

    def of_kind(self, kind: str | None) -> list[int]:
        """The compared prompts of a kind; None is all."""
        return [n for n in self.compared if kind is None or self.prompts[n].kind == kind]

    def speedup(self, prompts: Sequence[int]) -> float:
        """Time of plain decoding ÷ time with speculation for the same number of tokens."""
        plain = sum(self.num_tokens(n) * self.ms_per_token(n, OFF) for n in prompts)
        return plain / sum(self.num_tokens(n) * self.ms_per_token(n, AUTO) for n in prompts)

    def tokens_per_second(self, prompts: Sequence[int], speculation: str) -> float:
        """Decoded tokens a second over these prompts."""
        spent = sum(self.num_tokens(n) * self.ms_per_token(n, speculation) for n in prompts)
        return 1000 * sum(map(self.num_tokens, prompts)) / spent

    def num_tokens(self, prompt: int) -> int:
        """The timed tokens of a prompt's plain answer."""
        return next(r.tokens - 1 for r in self._runs(prompt, OFF))

    def ms_per_token(self, prompt: int, speculation: str) -> float:
        """The median over the repeats."""
        return statistics.median(run.ms_per_token for run in self._runs(prompt, speculation))

    def _runs(self, prompt: int, speculation: str) -> list[Run]:
        return [run for run in self.runs if (run.prompt, run.speculation) == (prompt, speculation)]

    def acceptance(self, prompts: Sequence[int]) -> tuple[int, int]:
        """How many drafted tokens were tested, and how many accepted."""
        chosen = [run for n in prompts for run in self._runs(n, AUTO)]
        return sum(run.tested for run in chosen), sum(run.accepted for run in chosen)

    def verdict(self) -> str:
        """In one sentence what speculation does for this model on this machine."""
        if self.note:
            return f"Both ways are plain decoding here: {self.note}."
        if not self.compared:
            return "Nothing was compared."
        plain_ms = sum(run.ms for run in self.runs if run.speculation == OFF)
        if plain_ms < LEAST_MS:
            return (
                f"Too little was decoded to tell ({plain_ms:.0f} ms in all): give more --tokens, "
                "--repeats or --prompts."
            )
        total = self.speedup(self.compared)
        if total > 1 + NOTICEABLE:
            return f"Speculation makes this model {total:.2f} times as fast on these prompts."
        if total < 1 - NOTICEABLE:
            return (
                f"Speculation made this model slower here ({total:.2f} times plain decoding): use "
                "--speculation off, and measure again when the machine is idle."
            )
        return (
            f"Speculation does not help on these prompts ({total:.2f} times plain decoding, which "
            "is within what a machine's speed varies by)."
        )


Say = Callable[[str], None]


def measure(
    llm: LLM,
    measurement: Measurement,
    *,
    num_tokens: int,
    repeats: int,
    say: Say = lambda _: None,
) -> None:
    """Answers each prompt with speculation off and on in turn and adds the runs to `measurement`.

    Greedy; cache and n-gram tables are emptied before each answer. Each round goes through all
    prompts, and who goes first alternates, so that a round that is left early is still of use.
    """
    measurement.note = llm.speculation_note
    measurement.limit = _limit(llm)
    for number in range(repeats):
        for index, prompt in enumerate(measurement.prompts):
            if index in measurement.skipped:
                continue
            place = f"prompt {index + 1} of {len(measurement.prompts)}"
            say(f"round {number + 1} of {repeats}, {place} ({prompt.kind})")
            try:
                pair = _answer_both(llm, prompt, num_tokens, first=(number + index) % 2)
            except ContextFullError as error:
                measurement.skipped[index] = str(error)
                continue
            for speculation, answer in pair.items():
                measurement.runs.append(_run(index, prompt, speculation, number, answer))
            if number == 0:
                measurement.differences += _differences(llm, index, pair)


def _answer_both(llm: LLM, prompt: Prompt, num_tokens: int, first: int) -> dict[str, Completion]:
    found: dict[str, Completion] = {}
    messages = [{"role": "user", "content": prompt.text}]
    for speculation in (OFF, AUTO) if first == 0 else (AUTO, OFF):
        llm.set_speculation(speculation)
        llm.reset()
        found[speculation] = llm.chat(messages, temperature=0, max_tokens=num_tokens)
    return found


def _run(index: int, prompt: Prompt, speculation: str, number: int, answer: Completion) -> Run:
    stats = answer.stats
    return Run(
        prompt=index,
        kind=prompt.kind,
        speculation=speculation,
        round=number,
        tokens=stats.tokens,
        ms=stats.ms,
        steps=stats.steps,
        tested=stats.tested,
        accepted=stats.accepted,
    )


def _differences(llm: LLM, index: int, pair: Mapping[str, Completion]) -> list[Difference]:
    plain, other = pair[OFF].token_ids, pair[AUTO].token_ids
    if plain == other:
        return []
    size = min(len(plain), len(other))
    position = next((i for i in range(size) if plain[i] != other[i]), size)
    if position == size:
        return [Difference(index, position, None)]
    with llm.engine() as engine:
        # The cache still begins with the prompt of the answer written last.
        prompt = engine.ledger.tokens[: pair[OFF].stats.prompt_tokens].copy()
        tie = compare_tokens(engine, prompt, plain[:position], plain[position], other[position])
    return [Difference(index, position, tie)]


def _limit(llm: LLM) -> float | None:
    """The most that drafts could bring on this machine: max(width ÷ cost), as measured."""
    with llm.engine() as engine:
        if not engine.sizer.cost.is_measured:
            return None
        costs = engine.sizer.cost.curve(min(LIMIT_CONTEXT_TOKENS, engine.context.ctx))
    relative = dict(enumerate((costs / costs[0]).tolist(), start=1))
    return best_rate(relative)[1]
