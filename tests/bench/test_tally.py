"""Adding up replays, and telling the sums."""

from __future__ import annotations

import pytest

from bench.tally import Reliability, Report, Tally, table


def tally(**fields: float) -> Tally:
    found = Tally(tokens=30, steps=20, tested=40, accepted=10, cost=24.0, draft_us=[50.0, 70.0])
    for name, value in fields.items():
        setattr(found, name, value)
    found.nodes.add([0.25, 0.25], [True, False])
    return found


def test_reliability_arithmetic() -> None:
    reliability = Reliability()
    reliability.add([0.11, 0.19, 0.95, 1.0], [True, False, True, True])
    assert [row["count"] for row in reliability.rows()] == [2, 2]
    assert reliability.rows()[0]["hit_rate"] == 0.5
    assert reliability.error() == pytest.approx((abs(0.30 - 1) + abs(1.95 - 2)) / 4)
    assert Reliability().error() == 0.0
    both = Reliability()
    both.merge(reliability)
    both.merge(reliability)
    assert both.error() == pytest.approx(reliability.error())
    assert [row["count"] for row in both.rows()] == [4, 4]


def test_a_tally_weighs_by_tokens() -> None:
    total = tally()
    total.add(tally(tokens=10, steps=10, cost=11.0))
    assert (total.speedup, total.tokens_per_step) == (40 / 35, 40 / 30)
    assert (total.acceptance, total.draft_us_median) == (0.25, 60.0)
    assert total.nodes.rows() == [{"count": 4, "predicted": 0.25, "hit_rate": 0.5}]


def test_a_limit_not_sought_is_not_told() -> None:
    total = tally()
    assert total.limit is None
    total.add(Tally(least_cost=20.0))
    total.add(tally(least_cost=4.0))
    assert total.limit == 60 / 24
    assert Tally(least_cost=0.0).limit == 1.0


def test_an_empty_tally_divides_by_nothing() -> None:
    empty = Tally()
    assert (empty.speedup, empty.tokens_per_step, empty.acceptance) == (1.0, 1.0, 0.0)
    assert (empty.draft_us_median, empty.draft_us_p99) == (0.0, 0.0)


def test_a_report_for_people_and_programs() -> None:
    total = tally(least_cost=20.0)
    report = Report(total, {"chat": total}, Tally(tokens=60, steps=20))
    lines = table(report).splitlines()
    assert lines[1].split() == ["chat", "1.250", "1.500", "1.500", "40", "10", "25.0%", "0.250"]
    assert lines[2].split() == ["total", "1.250", "1.500", "1.500", "40", "10", "25.0%", "0.250"]
    assert lines[3] == "32 nodes always: 3.000 tokens/step"
    assert lines[4].startswith("drafting: 60 µs a step (median), 70 µs")
    assert lines[5].split() == ["nodes", "predicted", "right", "number"]
    assert lines[6].split() == ["0.250", "0.500", "2"]
    assert lines[-1] == "calibration error: 0.250"
    tasks = report.as_dict()["per_task"]
    assert isinstance(tasks, dict)
    assert tasks["chat"]["reliability"] == [{"count": 2, "predicted": 0.25, "hit_rate": 0.5}]
    assert tasks["chat"]["acceptance"] == 0.25
    quick = table(Report(tally(), {}, Tally()))
    assert "–" in quick
    assert "32 nodes always" not in quick
