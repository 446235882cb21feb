"""Forgetting what was kept of chats: by chat, by time, or everything."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path

from sssd_local.errors import ConfigError
from sssd_local.store.memory_chats import kept_chats, last_chat, patiently
from sssd_local.store.segment import SourceRecord

_UNITS = {"m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_SPAN = re.compile(r"(\d{1,6})([mhdw])")


def parse_since(text: str, now: float | None = None) -> float:
    """A moment in seconds since 1970, from `2h`, `7d`, a date or a date and time.

    Raises ConfigError.
    """
    now = time.time() if now is None else now
    span = _SPAN.fullmatch(text.strip())
    if span:
        return now - int(span[1]) * _UNITS[span[2]]
    try:
        return datetime.fromisoformat(text.strip()).timestamp()
    except (ValueError, OverflowError, OSError):
        raise ConfigError(
            f"{text!r} is no time; give a span like 30m, 2h, 7d or 2w, or a date like 2026-01-31"
        ) from None


def forget_last(root: Path) -> int:
    """Deletes the chat with the newest turn; returns how many turns it had. Raises StoreError."""
    chats = kept_chats(root)
    name = patiently(partial(last_chat, chats))
    return forget_chat(root, name) if name is not None else 0


def forget_chat(root: Path, name: str) -> int:
    """Deletes one chat; returns how many turns it had. Raises StoreError."""
    return _forget(root, lambda source: source.name == name)


def forget_since(root: Path, since: float) -> int:
    """Deletes all turns from a moment on; returns how many. Raises StoreError."""
    return _forget(root, lambda source: source.time >= since, since)


def forget_damaged(root: Path) -> int:
    """Deletes what cannot be read any more; returns how many turns it was. Raises StoreError."""
    return _forget(root, lambda source: False)


def forget_all(root: Path) -> None:
    """Deletes all chats, damaged or not; what the user decided about memory stays.

    Raises StoreError.
    """
    for kept in kept_chats(root):
        patiently(kept.forget_all)


def _forget(
    root: Path, is_forgotten: Callable[[SourceRecord], bool], since: float | None = None
) -> int:
    num_turns = 0
    for kept in kept_chats(root):
        if kept.exists:
            num_turns += patiently(partial(kept.forget, is_forgotten, since))
        else:
            # The rest of a deletion that was cut off.
            patiently(kept.forget_all)
    return num_turns
