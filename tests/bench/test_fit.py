from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from bench import fit as fitting
from bench.answers import write_answers
from bench.knowledge import Knowledge
from bench.traces import TokenTrace
from sssd_local.draft.calibrate import ONLY_PRIOR, shipped_weights
from sssd_local.draft.cells import (
    ALIGNMENT_TABLES,
    CONTEXT_TABLES,
    HELPER_TABLES,
    OFFSETS,
    TABLE_SIZES,
)
from sssd_local.draft.tree import TokenSource

COPY = TokenTrace("copy", "copy", tuple(range(10, 60)), tuple(range(10, 58)))
OTHER = TokenTrace("other", "copy", (5, 6), tuple(range(10, 58)))
# The first list again, with another number for 20, 30 and 40 and one more after 50.
EDITED = TokenTrace(
    "edited",
    "copy",
    tuple(range(10, 60)),
    tuple(token + 100 * (token in (20, 30, 40)) if token != 51 else 999 for token in range(10, 58)),
)
FRESH = TokenTrace("fresh", "chat", (1, 2, 3, 2), (4, 2, 3, 7, 2, 3))


def with_rows(trace: TokenTrace) -> TokenTrace:
    """The trace with runner-ups: the token that came and the one after it."""
    rows = np.array([[token, token + 1] for token in trace.answer], np.int32)
    return TokenTrace(trace.id, trace.task, trace.prompt, trace.answer, rows)


def tables_of(labels: fitting.Labels) -> set[str]:
    cells = np.unique(labels.cells[labels.cells < fitting.NUM_FITTED]).tolist()
    return {max((name for name in OFFSETS if OFFSETS[name] <= c), key=OFFSETS.get) for c in cells}  # type: ignore[arg-type]


def test_context_alone_selects_the_context_tables() -> None:
    labels = fitting.collect([COPY, FRESH])
    assert tables_of(labels) == set(CONTEXT_TABLES)
    assert labels.cells.shape == (len(labels.right), fitting.NUM_CELLS)
    assert len(labels.starts) == len(labels.weight)
    assert labels.right.sum() <= len(labels.starts)


def test_edits_select_the_tables_of_returns() -> None:
    labels = fitting.collect([EDITED])
    assert {"return", "return_run"} < tables_of(labels)
    assert tables_of(labels) <= {*CONTEXT_TABLES, *ALIGNMENT_TABLES}
    first = labels.cells[:, 0]
    runs = labels.right[(first >= OFFSETS["return_run"]) & (first < OFFSETS["rewrite"])]
    # Each copy after a return is followed until it is wrong.
    assert 0 < 6 * (runs == 0).sum() < (runs == 1).sum()


def test_other_sources_select_tables_of_their_own() -> None:
    (earlier,) = fitting.collect_for(TokenSource.EARLIER, [COPY, OTHER])
    assert {"only", "only_rank", "only_rival", "copy"} < tables_of(earlier)
    stored = fitting.collect_for(TokenSource.DATASTORE, [COPY, OTHER])
    assert len(stored) == 2
    assert "also_match" in tables_of(fitting.join(stored))
    assert fitting.collect_for(TokenSource.RECYCLE, [COPY]) == []
    emptied, kept = fitting.collect_for(TokenSource.RECYCLE, [with_rows(COPY), with_rows(OTHER)])
    assert len(kept.right) > len(emptied.right) > 0
    free = [fitting.helper_weights(kind) for kind in (TokenSource.EARLIER, TokenSource.RECYCLE)]
    assert not (free[0] & free[1]).any()
    assert not (free[0] & fitting.table_weights(CONTEXT_TABLES)).any()
    assert free[0].sum() * fitting.NUM_HELPERS == sum(TABLE_SIZES[name] for name in HELPER_TABLES)


def test_slope_is_the_derivative_of_the_loss() -> None:
    parts = [fitting.collect([COPY, FRESH]), fitting.collect([COPY, OTHER], Knowledge(keep=True))]
    joined = fitting.join(fitting.balance(parts))
    weights = np.random.default_rng(0).normal(size=fitting.NUM_FITTED) * 0.1
    _, slope = fitting.loss(joined, weights)
    for cell in np.flatnonzero(slope)[::20]:
        nudge = np.zeros(fitting.NUM_FITTED)
        nudge[cell] = 1e-5
        rise = fitting.loss(joined, weights + nudge)[0] - fitting.loss(joined, weights - nudge)[0]
        assert slope[cell] == pytest.approx(rise / 2e-5, rel=1e-3, abs=1e-6)


def test_only_free_weights_move_and_the_rest_is_as_before() -> None:
    labels, start = fitting.collect([COPY]), fitting.blank()
    assert set(start.tolist()) == {0.0, ONLY_PRIOR}
    free = fitting.table_weights(CONTEXT_TABLES)
    weights = fitting.fit(labels, start, free, steps=60, ridge=0.1)
    assert fitting.loss(labels, weights)[0] < 0.5 * fitting.loss(labels, start)[0]
    assert (weights[~free] == start[~free]).all()
    far = fitting.fit(labels, start, free, steps=60, ridge=1e4)
    assert np.abs(far - start).max() < 0.2 < np.abs(weights - start).max()


def test_the_command_fits_and_writes_a_table_that_loads(tmp_path: Path) -> None:
    answers, out = tmp_path / "answers.npz", tmp_path / "priors.py"
    write_answers(answers, [with_rows(COPY), with_rows(OTHER)], model="tiny", num_vocab=99)
    arguments = [str(answers), "--stage", "recycle", "--output", str(out)]
    result = CliRunner().invoke(fitting.command, [*arguments, "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "recycle, answers:" in result.output
    assert not out.exists()
    assert CliRunner().invoke(fitting.command, arguments).exit_code == 0
    space: dict[str, dict[str, list[int]]] = {}
    exec(out.read_text(encoding="utf-8"), space)
    shipped = fitting.tables(np.array(shipped_weights()[: fitting.NUM_FITTED]))
    for name in (*CONTEXT_TABLES, *ALIGNMENT_TABLES):
        assert space["WEIGHTS"][name] == shipped[name]
    size = TABLE_SIZES["only"] // fitting.NUM_HELPERS
    recycled = space["WEIGHTS"]["only"][2 * size : 3 * size]
    assert set(recycled) != {int(100 * ONLY_PRIOR)}
    # The other sources' parts of the same tables stay as well.
    assert space["WEIGHTS"]["only"][: 2 * size] == shipped["only"][: 2 * size]
    missing = CliRunner().invoke(fitting.command, [str(tmp_path / "none.npz")])
    assert missing.exit_code == 1


def test_stages_are_fitted_in_order_and_memory_begins_as_a_datastore() -> None:
    texts = {"copies": [COPY, EDITED], "fresh": [FRESH, FRESH]}
    weights = fitting.fit_stages(("datastore", "return"), texts, {})
    shipped = np.array(shipped_weights()[: fitting.NUM_FITTED])
    moved = weights != shipped
    stored, learned = (
        fitting.helper_weights(kind) for kind in (TokenSource.DATASTORE, TokenSource.MEMORY)
    )
    assert (weights[stored] == weights[learned]).all()
    assert moved[fitting.table_weights(ALIGNMENT_TABLES)].any()
    kept = fitting.table_weights(CONTEXT_TABLES) | fitting.helper_weights(TokenSource.RECYCLE)
    assert not moved[kept].any()
    assert fitting.STAGES == ("context", "return", "earlier", "datastore", "recycle")


def test_what_is_shipped_leaves_no_trace_in_a_fit_of_everything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts = {"copies": [COPY, EDITED]}
    before = fitting.fit_stages(("context", "return"), texts, {})
    shipped = np.array(shipped_weights())
    shipped[: fitting.NUM_FITTED][fitting.table_weights(ALIGNMENT_TABLES)] += 5
    monkeypatch.setattr(fitting, "shipped_weights", shipped.tolist)
    after = fitting.fit_stages(("context", "return"), texts, {})
    assert (after == before).all()
