"""The model's own answers in a store: of all text its own predicts it best."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from sssd_local.draft.tree import Int32Array
from sssd_local.errors import ContextFullError
from sssd_local.store.ingest import Report
from sssd_local.store.prompts import PROMPTS, Prompt, read_prompts
from sssd_local.store.segment import SourceRecord
from sssd_local.store.sources import Skipped
from sssd_local.store.store import Store

# A prompt to the token ids of its answer; raises ContextFullError for one that does not fit.
Answer = Callable[[Prompt], Sequence[int]]


class Answering:
    """Answers prompts and stores each answer once it is whole."""

    def __init__(
        self,
        store: Store,
        report: Report,
        *,
        progress: Callable[[Report], None] = lambda report: None,
        all_or_nothing: bool = False,
    ) -> None:
        """`report` is added to and handed to `progress`; `all_or_nothing` commits nothing."""
        self._store = store
        self._report = report
        self._progress = progress
        self._all_or_nothing = all_or_nothing
        self._start = time.monotonic() - report.seconds

    def wanted(self, roots: Sequence[str]) -> list[tuple[str, Prompt]]:
        """The prompts of some roots (`prompts:` and a path) without a stored answer, by root.

        Raises StoreError.
        """
        answered = {source.digest for source in self._store.sources()}
        wanted: dict[str, tuple[str, Prompt]] = {}
        for root in roots:
            for prompt in read_prompts(Path(root.removeprefix(PROMPTS))):
                self._report.num_prompts += 1
                if prompt.digest not in answered:
                    wanted.setdefault(prompt.digest, (root, prompt))
        self._report.num_answers = self._report.num_prompts - len(wanted)
        return list(wanted.values())

    def run(self, wanted: Sequence[tuple[str, Prompt]], answer: Answer) -> None:
        """Answers prompts in order. Raises StoreError, and what `answer` raises."""
        self._tell()
        for root, prompt in wanted:
            try:
                tokens = np.array(answer(prompt), np.int32)
            except ContextFullError as error:
                self._report.skipped.append(Skipped(root, f"a prompt was not answered: {error}"))
                continue
            self._take(root, prompt, tokens)
            self._tell()

    def _take(self, root: str, prompt: Prompt, tokens: Int32Array) -> None:
        source = SourceRecord(
            name=root,
            digest=prompt.digest,
            time=time.time(),
            num_texts=1,
            num_tokens=len(tokens),
        )
        self._store.append([tokens], [source])
        # Each answer took far longer than this; the sizes merged stay in proportion.
        self._store.merge()
        if not self._all_or_nothing:
            self._store.commit()
        self._report.num_answers += 1
        self._report.num_texts += 1
        self._report.num_tokens += len(tokens)

    def _tell(self) -> None:
        self._report.seconds = time.monotonic() - self._start
        self._progress(self._report)
