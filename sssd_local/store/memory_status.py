"""What memory holds and what it was good for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from sssd_local.store.errors import StoreError
from sssd_local.store.memory_chats import KeptChats, day_of, kept_chats, patiently
from sssd_local.store.memory_choice import Choice
from sssd_local.store.memory_turn import Worth

RECENT_DAYS = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelMemory:
    """The chats of one tokenizer; `recent` and `recent_tokens` are those of RECENT_DAYS."""

    model: str
    chats: int
    tokens: int
    recent_tokens: int
    num_bytes: int
    worth: Worth
    recent: Worth

    @classmethod
    def of(cls, kept: KeptChats, now: float) -> ModelMemory:
        """Raises StoreError."""
        manifest, sources, days = kept.manifest(), kept.sources(), kept.days()
        start = now - RECENT_DAYS * 86_400
        recent = [worth for day, worth in days.items() if day >= day_of(start)]
        return cls(
            model=manifest.model,
            chats=len({source.name for source in sources}),
            tokens=manifest.num_tokens,
            recent_tokens=sum(s.num_tokens for s in sources if s.time >= start),
            num_bytes=manifest.num_bytes,
            worth=sum(days.values(), Worth()),
            recent=sum(recent, Worth()),
        )

    def lines(self, max_mb: int) -> Iterator[str]:
        """For people."""
        yield (
            f"{Path(self.model).name}: {_counted(self.chats, 'chat')}, {self.tokens:,} tokens, "
            f"{_size_text(self.num_bytes)} of {max_mb} MB"
        )
        if self.worth.tokens:
            yield f"  last {RECENT_DAYS} days  {_worth_text(self.recent)}"
            yield f"  in all       {_worth_text(self.worth)}"
        yield f"  growth       {self.recent_tokens:,} tokens in the last {RECENT_DAYS} days"


@dataclass(frozen=True, slots=True)
class MemoryStatus:
    """The decision, and what is kept for each tokenizer; `problems` are of parts left out."""

    choice: Choice
    folder: Path
    models: tuple[ModelMemory, ...]
    problems: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """All of it, ready for JSON."""
        return {**asdict(self), "folder": str(self.folder)}

    def lines(self) -> Iterator[str]:
        """For people."""
        keep = self.choice.keep
        word = {True: "on", False: "off", None: "off until you say yes at the end of a chat"}[keep]
        yield f"memory is {word}; {self.folder}"
        for model in self.models:
            yield from model.lines(self.choice.max_mb)
        yield from self.problems
        if not self.models and not self.problems:
            yield "nothing is kept"


def memory_status(choice: Choice, root: Path) -> MemoryStatus:
    """Reads what is kept; the text itself is not looked at. Raises StoreError."""
    models, problems = [], []
    for kept in kept_chats(root):
        try:
            if kept.exists:
                models.append(patiently(partial(ModelMemory.of, kept, time.time())))
        except StoreError as error:
            problems.append(str(error))
    return MemoryStatus(choice, root, tuple(models), tuple(problems))


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _size_text(num_bytes: int) -> str:
    return f"{num_bytes / 1e3:.1f} kB" if num_bytes < 100_000 else f"{num_bytes / 1e6:.1f} MB"


def _worth_text(worth: Worth) -> str:
    if not worth.tokens:
        return "nothing written"
    text = f"{100 * worth.share:.0f} % of {worth.tokens:,} tokens written came from it"
    seconds = worth.saved_ms / 1000
    return f"{text}, about {seconds:.1f} s saved" if abs(seconds) >= 0.1 else text
