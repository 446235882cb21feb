"""Forgetting by chat and time, over all tokenizers."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from sssd_local.errors import ConfigError
from sssd_local.store.memory_chats import KeptChats
from sssd_local.store.memory_forget import (
    forget_all,
    forget_chat,
    forget_damaged,
    forget_last,
    forget_since,
    parse_since,
)
from tests.store.memories import FOLDER, FRESH, texts, turn


@pytest.fixture
def stores(tmp_path: Path) -> tuple[KeptChats, KeptChats]:
    one, two = KeptChats(tmp_path / FOLDER), KeptChats(tmp_path / FOLDER[::-1])
    one.add(FRESH, [turn([1], "a", 10.0), turn([2], "b", 20.0)])
    two.add(FRESH, [turn([3], "c", 30.0), turn([4], "c", 40.0)])
    return one, two


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30m", 8200.0),
        ("2h", 2800.0),
        ("0d", 10_000.0),
        (" 1w ", 10_000.0 - 604_800),
        ("2026-01-31", datetime(2026, 1, 31).timestamp()),
        ("2026-01-31T10:30", datetime(2026, 1, 31, 10, 30).timestamp()),
        ("2026-01-31T10:30+00:00", 1769855400.0),
    ],
)
def test_moments(text: str, seconds: float) -> None:
    assert parse_since(text, 10_000.0) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "-2h", "2 hours", "yesterday", "2026-13-01"])
def test_what_is_no_moment(text: str) -> None:
    with pytest.raises(ConfigError, match="is no time; give a span like"):
        parse_since(text)


def test_the_last_chat(tmp_path: Path, stores: tuple[KeptChats, KeptChats]) -> None:
    one, two = stores
    assert forget_last(tmp_path) == 2
    assert (len(texts(one)), texts(two)) == (2, [])
    assert forget_last(tmp_path) == 1
    assert texts(one) == [("a", [1])]
    assert forget_last(tmp_path) == 1
    assert forget_last(tmp_path) == 0
    assert forget_last(tmp_path / "none") == 0


def test_one_chat(tmp_path: Path, stores: tuple[KeptChats, KeptChats]) -> None:
    assert forget_chat(tmp_path, "a") == 1
    assert forget_chat(tmp_path, "a") == 0
    assert texts(stores[0]) == [("b", [2])]


def test_since_a_moment(tmp_path: Path, stores: tuple[KeptChats, KeptChats]) -> None:
    assert forget_since(tmp_path, 20.0) == 3
    assert texts(stores[0]) == [("a", [1])]
    assert stores[0].days() == {}


def test_all(tmp_path: Path, stores: tuple[KeptChats, KeptChats]) -> None:
    (tmp_path / "choice.json").write_text("{}")
    forget_all(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["choice.json"]


def test_what_is_damaged(tmp_path: Path, stores: tuple[KeptChats, KeptChats]) -> None:
    assert forget_damaged(tmp_path) == 0
    (stores[1].folder / "000000.sources.json").unlink()
    assert forget_damaged(tmp_path) == 2
    assert len(texts(stores[0])) == 2


def test_the_rest_of_a_deletion_that_was_cut_off(
    tmp_path: Path, stores: tuple[KeptChats, KeptChats]
) -> None:
    (stores[1].folder / "manifest.json").unlink()
    assert forget_since(tmp_path, 99.0) == 0
    assert not stores[1].folder.exists()
