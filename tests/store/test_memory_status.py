"""What memory says of itself."""

from __future__ import annotations

import json
import time
from pathlib import Path

from sssd_local.store import memory_status as module
from sssd_local.store.memory_chats import KeptChats
from sssd_local.store.memory_choice import Choice
from sssd_local.store.memory_status import memory_status
from sssd_local.store.memory_turn import Worth
from tests.store.memories import FOLDER, FRESH, turn

DAY = 86_400.0


def test_nothing_is_kept(tmp_path: Path) -> None:
    for choice, word in (
        (Choice(), "off until you say yes at the end of a chat"),
        (Choice(True), "on"),
        (Choice(False), "off"),
    ):
        assert list(memory_status(choice, tmp_path / "m").lines()) == [
            f"memory is {word}; {tmp_path / 'm'}",
            "nothing is kept",
        ]


def test_what_it_was_worth(tmp_path: Path) -> None:
    kept = KeptChats(tmp_path / FOLDER)
    now = time.time()
    kept.add(FRESH, [turn([1] * 1000, "a", now - 30 * DAY, Worth(1, 900, 90, 12_000.0))])
    kept.add(FRESH, [turn([2] * 500, "b", now, Worth(1, 100, 30, 1_540.0))])
    kept.add(FRESH, [turn([2] * 5, "b", now, Worth())])
    status = memory_status(Choice(True), tmp_path)
    size = f"{kept.manifest().num_bytes / 1e3:.1f} kB"
    assert list(status.lines()) == [
        f"memory is on; {tmp_path}",
        f"m.gguf: 2 chats, 1,505 tokens, {size} of 64 MB",
        "  last 7 days  30 % of 100 tokens written came from it, about 1.5 s saved",
        "  in all       12 % of 1,000 tokens written came from it, about 13.5 s saved",
        "  growth       505 tokens in the last 7 days",
    ]
    facts = json.loads(json.dumps(status.as_dict()))
    assert facts["choice"] == {"keep": True, "max_mb": 64}
    assert facts["folder"] == str(tmp_path)
    assert facts["models"][0]["worth"]["from_memory"] == 120


def test_old_worth_and_single_chats(tmp_path: Path) -> None:
    kept = KeptChats(tmp_path / FOLDER)
    kept.add(FRESH, [turn([1] * 9, "a", time.time() - 30 * DAY, Worth(1, 9, 0, 0.0))])
    lines = list(memory_status(Choice(True), tmp_path).lines())
    assert lines[1].startswith("m.gguf: 1 chat, 9 tokens, ")
    assert lines[2:] == [
        "  last 7 days  nothing written",
        "  in all       0 % of 9 tokens written came from it",
        "  growth       0 tokens in the last 7 days",
    ]


def test_sizes_are_told_in_the_unit_that_shows_them() -> None:
    assert [module._size_text(size) for size in (0, 99_950, 100_000, 3_140_000)] == [
        "0.0 kB", "100.0 kB", "0.1 MB", "3.1 MB",
    ]  # fmt: skip


def test_damage_is_told(tmp_path: Path) -> None:
    kept = KeptChats(tmp_path / FOLDER)
    kept.add(FRESH, [turn([1])])
    (kept.folder / "manifest.json").write_text("{")
    status = memory_status(Choice(True), tmp_path)
    assert "manifest.json is damaged" in list(status.lines())[1]
    assert status.models == ()
