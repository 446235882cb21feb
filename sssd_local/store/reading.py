"""One file on its way into a store: its texts in order, and how its reading went."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sssd_local.draft.tree import Int32Array
from sssd_local.engine.model import Model
from sssd_local.errors import ModelError
from sssd_local.store.segment import SourceRecord
from sssd_local.store.sources import Place, Skipped


def tokenize(vocabulary: Model, text: str) -> Int32Array:
    """A text's tokens as they stand inside an answer, int32 [n]."""
    try:
        return vocabulary.tokenize(text, add_special=False, parse_special=False)
    except ModelError:
        # The vocabulary cannot spell it, so no model with it can write it.
        return np.empty(0, np.int32)


class Reading:
    """One place being read; `whole` and `problems` tell how it went, once all texts were taken."""

    def __init__(self, place: Place, num_stored: int = 0) -> None:
        """Its first `num_stored` texts are in the store."""
        self.place = place
        self.num_taken = num_stored
        # Taken since the last segment.
        self.num_texts = 0
        self.num_tokens = 0
        self.whole = True
        self._problems: list[Skipped] = []
        self._num_stored = num_stored

    def texts(self) -> Iterator[str]:
        """Its further texts in order."""
        num_read = num_without = 0
        try:
            for text in self.place.texts():
                if text is None:
                    num_without += 1
                    continue
                num_read += 1
                if num_read > self._num_stored:
                    yield text
        except OSError as error:
            self.whole = False
            reason = f"cannot be read: {error.strerror or error}"
            self._problems.append(Skipped(self.place.name, reason))
        if num_without:
            self._problems.append(Skipped(self.place.name, f"{num_without} lines have no text"))

    @property
    def is_empty(self) -> bool:
        """Whether no text was taken from it."""
        return not self.num_taken and not self.num_texts

    def problems(self) -> list[Skipped]:
        """What of it was passed over."""
        nothing = [Skipped(self.place.name, "has no text to store")] if self.is_empty else []
        return self._problems + nothing

    def record(self, *, done: bool) -> SourceRecord:
        """The texts taken since the last record; `done` if no more follow."""
        record = SourceRecord(
            name=self.place.name,
            digest=self.place.digest,
            time=self.place.time,
            num_texts=self.num_texts,
            num_tokens=self.num_tokens,
            done=done,
        )
        self.num_taken += self.num_texts
        self.num_texts = self.num_tokens = 0
        return record
