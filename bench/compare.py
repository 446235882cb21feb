"""The same traces replayed with more or less knowledge, on several cost curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.curves import load_curve
from bench.knowledge import Knowledge
from bench.simulate import Replay
from bench.tally import Tally
from bench.traces import TokenTrace


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one kind of knowledge brings: by curve, and with `num_nodes` nodes at every step.

    `forced` is None where that was not asked for.
    """

    name: str
    on_curves: Mapping[str, Tally]
    forced: Tally | None = None

    def as_dict(self) -> dict[str, object]:
        """All figures, ready for JSON."""
        curves = {
            curve: {
                "speedup": tally.speedup,
                "tokens_per_step": tally.tokens_per_step,
                "tested": tally.tested,
                "accepted": tally.accepted,
                "calibration_error": tally.nodes.error(),
                "draft_us_median": tally.draft_us_median,
                "draft_us_p99": tally.draft_us_p99,
            }
            for curve, tally in self.on_curves.items()
        }
        forced = self.forced.tokens_per_step if self.forced is not None else None
        return {"knowledge": self.name, "forced_tokens_per_step": forced, "curves": curves}


def compare(
    traces: Sequence[TokenTrace],
    kinds: Mapping[str, Knowledge],
    curves: Sequence[str],
    *,
    num_nodes: int | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> list[Outcome]:
    """Replays all traces with each kind of knowledge on each curve, odds cold each time."""
    costs = {curve: load_curve(curve) for curve in curves}
    found: list[Outcome] = []
    for name, knowledge in kinds.items():
        on_curves: dict[str, Tally] = {}
        for curve in curves:
            say(f"{name}, {curve}")
            replay = Replay(costs[curve], knowledge)
            on_curves[curve] = _total([replay.run(trace) for trace in traces])
        forced = None
        if num_nodes is not None:
            say(f"{name}, {num_nodes} nodes")
            replay = Replay(load_curve("cuda"), knowledge)
            forced = _total([replay.run_forced(trace, num_nodes) for trace in traces])
        found.append(Outcome(name, on_curves, forced))
    return found


def _total(tallies: Sequence[Tally]) -> Tally:
    total = Tally()
    for tally in tallies:
        total.add(tally)
    return total


def gain(new: float, old: float) -> str:
    """How much a figure rose, for people.

    >>> gain(1.15, 1.0)
    '+15.0 %'
    """
    return f"{new / old - 1:+.1%}".replace("%", " %")


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table of a header and rows; all columns but the first are figures."""
    head, *body = rows
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "".join(f"| {' | '.join(row)} |\n" for row in lines)
