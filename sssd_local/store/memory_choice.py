"""Whether chats are kept, as the user decided it, and where."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from sssd_local.errors import ConfigError
from sssd_local.files import app_folder, write_atomic
from sssd_local.store.store import writing

NAME = "choice.json"
DEFAULT_MAX_MB = 64
MAX_MB = 1 << 20


@dataclass(frozen=True, slots=True)
class Choice:
    """What the user said; `keep` None is nothing yet. `max_mb` bounds what one tokenizer's take."""

    keep: bool | None = None
    max_mb: int = DEFAULT_MAX_MB

    def __post_init__(self) -> None:
        if not 1 <= self.max_mb <= MAX_MB:
            raise ConfigError(f"memory may take from 1 to {MAX_MB} MB, got {self.max_mb}")

    @property
    def max_bytes(self) -> int:
        return self.max_mb * 1_000_000


def memory_folder() -> Path:
    """The one folder of all that is kept of chats, there or not."""
    return app_folder() / "memory"


def read_choice() -> Choice:
    """What was decided; nothing where no file says so in a way that can be understood."""
    try:
        found = json.loads((memory_folder() / NAME).read_bytes())
        keep, max_mb = found["keep"], found["max_mb"]
        if not (isinstance(keep, bool) and isinstance(max_mb, int)):
            return Choice()
        return Choice(keep, max_mb)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return Choice()


def write_choice(choice: Choice) -> None:
    """Keeps a decision. Raises StoreError."""
    folder = memory_folder()
    with writing(folder):
        write_atomic(folder / NAME, json.dumps(asdict(choice)).encode())
