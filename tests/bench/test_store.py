"""The datastore benchmark: its texts, its numbers and its files."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from bench import store as module
from bench.store import (
    Size,
    build,
    command,
    contexts,
    lookups,
    merged,
    plot,
    synthetic_texts,
    table,
)
from sssd_local.errors import ConfigError
from sssd_local.store.store import read_segments

SIZE = Size(
    num_tokens=1_000_000,
    num_vocab=32_000,
    num_segments=1,
    sort_tokens_per_second=4.2e6,
    sort_bytes_per_token=13.7,
    disk_bytes_per_token=6.0,
    open_ms=0.84,
    lookup_median_us=15.4,
    lookup_p99_us=80.0,
    levels_median_us=50.0,
    mean_match=4.5,
    private_bytes_after=1_200_000,
)


def test_texts_repeat_themselves_and_are_the_same_each_time() -> None:
    tokens = synthetic_texts(20_000, 300)
    assert tokens.dtype == np.uint16
    assert np.array_equal(tokens, synthetic_texts(20_000, 300))
    assert np.array_equal(np.flatnonzero(tokens == 300)[:-1], np.arange(0, 20_000, 500))
    common, rare = np.count_nonzero(tokens == 0), np.count_nonzero(tokens == 100)
    assert common > 20 * rare > 0
    assert synthetic_texts(1000, 70_000).dtype == np.uint32


def test_contexts_end_as_the_texts_do() -> None:
    tokens = synthetic_texts(20_000, 300)
    found = contexts(tokens, 50, 300)
    assert len(found) == 50
    assert all(len(context) == 32 and 300 not in context for context in found)
    assert {context[0] for context in found} <= set(tokens.tolist())


def test_a_store_is_built_and_asked(tmp_path: Path) -> None:
    tokens = synthetic_texts(20_000, 300)
    build(tmp_path / "store", tokens, 300, 8000)
    manifest, segments = read_segments(tmp_path / "store")
    assert manifest.num_tokens == np.count_nonzero(tokens != 300)
    assert len(segments) == 3
    found = lookups(tmp_path / "store", contexts(tokens, 40, 300))
    assert found["num_segments"] == 3
    assert found["mean_match"] > 1
    assert 0 < found["lookup_median_us"] <= found["lookup_p99_us"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_private_memory_is_counted() -> None:
    before = module.private_bytes()
    held = np.ones(1 << 24, np.uint8)
    assert module.private_bytes() - before > 1 << 23
    assert len(held) == 1 << 24


def test_sorting_is_measured_in_a_process_of_its_own() -> None:
    rate, peak = module.sorting(50_000, 300)
    assert rate > 0
    assert peak >= 2


def test_results_join_older_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(module, "sorting", lambda tokens, vocab: (1e6, 12.0))
    for count in ("3000", "2000", "3000"):
        words = ["--tokens", count, "--vocab", "300", "--lookups", "8", "--out", str(tmp_path)]
        result = CliRunner().invoke(command, words)
        assert result.exit_code == 0, result.output
    data = json.loads((tmp_path / "store.json").read_text())
    assert [size["num_tokens"] for size in data["sizes"]] == [2000, 3000]
    assert data["machine"]["sorted_by"] in ("libdivsufsort", "numpy")
    assert (tmp_path / "store.svg").read_text().startswith("<?xml")
    assert (tmp_path / "store.md").read_text() == result.output.rstrip("\n") + "\n"


def test_newer_numbers_replace_older_ones(tmp_path: Path) -> None:
    path = tmp_path / "store.json"
    assert merged(path, [SIZE]) == [SIZE]
    path.write_text(json.dumps({"sizes": [module.asdict(SIZE)]}))
    newer = replace(SIZE, open_ms=2.0)
    assert merged(path, [newer]) == [newer]


def test_the_table_has_units() -> None:
    row = table([SIZE]).splitlines()[-1]
    assert row == (
        "| 1,000,000 | 1 | 15 µs | 80 µs | 50 µs | 0.8 ms | 4.2 M tokens/s | 13.7 B | 6.0 B "
        "| +1.2 MB |"
    )


def test_a_plot_needs_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match="plots need matplotlib"):
        plot(tmp_path / "plot.svg", [SIZE])
