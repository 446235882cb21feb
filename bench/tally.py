"""What a replay adds up: tokens, steps and cost, and whether the predicted odds came true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

NUM_BINS = 10
POOL_NODES = 32


class Reliability:
    """How often nodes of a predicted probability came true, in ten bins."""

    def __init__(self) -> None:
        self.counts = np.zeros(NUM_BINS)
        self.predicted = np.zeros(NUM_BINS)
        self.hits = np.zeros(NUM_BINS)

    def add(self, probs: Sequence[float], hits: Sequence[bool]) -> None:
        """Counts nodes with their probabilities and whether they came true."""
        bins = np.minimum((np.asarray(probs) * NUM_BINS).astype(np.intp), NUM_BINS - 1)
        np.add.at(self.counts, bins, 1)
        np.add.at(self.predicted, bins, probs)
        np.add.at(self.hits, bins, np.asarray(hits, np.float64))

    def merge(self, other: Reliability) -> None:
        """Takes in all that another one counted."""
        self.counts += other.counts
        self.predicted += other.predicted
        self.hits += other.hits

    def rows(self) -> list[dict[str, float]]:
        """Count, mean probability and hit rate of each bin that is not empty."""
        return [
            {"count": count, "predicted": predicted / count, "hit_rate": hits / count}
            for count, predicted, hits in zip(self.counts, self.predicted, self.hits, strict=True)
            if count
        ]

    def error(self) -> float:
        """Mean distance of probability and hit rate over the bins, weighted by count."""
        total = self.counts.sum()
        return float(np.abs(self.predicted - self.hits).sum() / total) if total else 0.0


@dataclass(slots=True)
class Tally:
    """What a replay added up; costs in plain steps.

    `nodes`: the odds of tested nodes; `candidates`: those of all that was looked at under the root.
    """

    tokens: int = 0
    steps: int = 0
    tested: int = 0
    accepted: int = 0
    cost: float = 0.0
    least_cost: float | None = None
    draft_us: list[float] = field(default_factory=list)
    nodes: Reliability = field(default_factory=Reliability)
    candidates: Reliability = field(default_factory=Reliability)

    def add(self, other: Tally) -> None:
        """Adds another tally to this one."""
        self.tokens += other.tokens
        self.steps += other.steps
        self.tested += other.tested
        self.accepted += other.accepted
        self.cost += other.cost
        if other.least_cost is not None:
            self.least_cost = (self.least_cost or 0.0) + other.least_cost
        self.draft_us += other.draft_us
        self.nodes.merge(other.nodes)
        self.candidates.merge(other.candidates)

    @property
    def speedup(self) -> float:
        """Time of plain decoding over the simulated time, drafting excluded."""
        return self.tokens / self.cost if self.cost else 1.0

    @property
    def limit(self) -> float | None:
        """The speed-up of a perfect choice among the candidates; None where it was not sought."""
        if self.least_cost is None:
            return None
        return self.tokens / self.least_cost if self.least_cost else 1.0

    @property
    def tokens_per_step(self) -> float:
        """Tokens of a step, the sampled one counted; 1 without steps."""
        return self.tokens / self.steps if self.steps else 1.0

    @property
    def acceptance(self) -> float:
        """Accepted over tested nodes."""
        return self.accepted / self.tested if self.tested else 0.0

    @property
    def draft_us_median(self) -> float:
        """Microseconds of drafting, sizing and learning of a step; 0 without steps."""
        return float(np.median(self.draft_us)) if self.draft_us else 0.0

    @property
    def draft_us_p99(self) -> float:
        """The same of the slowest of a hundred steps."""
        return float(np.percentile(self.draft_us, 99)) if self.draft_us else 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """What a replay of traces gave: in total, by task, and with POOL_NODES nodes at every step."""

    total: Tally
    per_task: dict[str, Tally]
    pool: Tally

    def as_dict(self) -> dict[str, object]:
        """All figures, ready for JSON; None where the limit was not looked for."""
        total = self.total
        return {
            "speedup": total.speedup,
            "tokens_per_step": total.tokens_per_step,
            "tested": total.tested,
            "accepted": total.accepted,
            "limit": total.limit,
            "pool_tokens_per_step": self.pool.tokens_per_step if self.pool.steps else None,
            "per_task": {task: _task_dict(tally) for task, tally in self.per_task.items()},
            "calibration_error": total.nodes.error(),
            "draft_us_median": total.draft_us_median,
            "draft_us_p99": total.draft_us_p99,
        }


def _task_dict(tally: Tally) -> dict[str, object]:
    return {
        "speedup": tally.speedup,
        "tokens_per_step": tally.tokens_per_step,
        "tokens": tally.tokens,
        "steps": tally.steps,
        "tested": tally.tested,
        "accepted": tally.accepted,
        "acceptance": tally.acceptance,
        "limit": tally.limit,
        "calibration_error": tally.nodes.error(),
        "reliability": tally.nodes.rows(),
        "draft_us_median": tally.draft_us_median,
        "draft_us_p99": tally.draft_us_p99,
    }


def table(report: Report) -> str:
    """The report as text for people."""
    lines = [
        f"{'task':18}{'speed-up':>9}{'limit':>7}{'tok/step':>9}{'tested':>8}{'accepted':>9}"
        f"{'accept':>8}{'cal.error':>10}"
    ]
    for task, row in [*report.per_task.items(), ("total", report.total)]:
        limit = f"{row.limit:7.3f}" if row.limit is not None else f"{'–':>7}"
        lines.append(
            f"{task:18}{row.speedup:9.3f}{limit}{row.tokens_per_step:9.3f}{row.tested:8d}"
            f"{row.accepted:9d}{row.acceptance:8.1%}{row.nodes.error():10.3f}"
        )
    if report.pool.steps:
        lines.append(f"{POOL_NODES} nodes always: {report.pool.tokens_per_step:.3f} tokens/step")
    total = report.total
    lines.append(
        f"drafting: {total.draft_us_median:.0f} µs a step (median), "
        f"{total.draft_us_p99:.0f} µs (99th percentile), not in the speed-up"
    )
    lines += reliability_table({"nodes": total.nodes, "candidates": total.candidates})
    lines.append(f"calibration error: {total.nodes.error():.3f}")
    return "\n".join(lines)


def reliability_table(kinds: dict[str, Reliability]) -> list[str]:
    """Lines of: predicted probability, how often it came true, and of how many."""
    lines: list[str] = []
    for kind, reliability in kinds.items():
        lines.append(f"{kind:>12}{'predicted':>11}{'right':>8}{'number':>9}")
        lines += [
            f"{'':12}{row['predicted']:11.3f}{row['hit_rate']:8.3f}{row['count']:9.0f}"
            for row in reliability.rows()
        ]
    return lines
