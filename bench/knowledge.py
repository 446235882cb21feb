"""What a drafter may know beside the answer's own context: earlier texts, stores, runner-ups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bench.traces import TokenTrace
from sssd_local.draft.calibrate import Calibration
from sssd_local.draft.datastore import Datastore, Segment
from sssd_local.draft.drafter import Drafter
from sssd_local.draft.tree import Int32Array
from sssd_local.store.order import context_order
from sssd_local.store.segment import join


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What is known before an answer begins.

    `history`: texts read before the first answer. `keep`: whether texts and runner-ups of one
    answer stay usable in the next ones. `recycle`: whether the recorded runner-ups are handed
    over. `segment`: a datastore's texts, of a vocabulary of `num_vocab` ids.
    """

    history: tuple[TokenTrace, ...] = ()
    keep: bool = False
    recycle: bool = True
    segment: Segment | None = None
    num_vocab: int = 0

    def __post_init__(self) -> None:
        if self.history and not self.keep:
            raise ValueError("a history that is not kept would be of no use")

    def new_drafter(self, max_nodes: int) -> Drafter:
        """A drafter with cold odds that has read the history; each has its own."""
        sources = []
        if self.segment is not None:
            sources.append(Datastore([self.segment], self.num_vocab, name="history"))
        drafter = Drafter(
            Calibration(),
            sources=sources,
            max_nodes=max_nodes,
            keep_earlier=self.keep,
            recycle=self.recycle,
        )
        for trace in self.history:
            drafter.sync(text_of(trace), len(trace.prompt))
        return drafter

    def with_datastore(self, texts: Sequence[TokenTrace]) -> Knowledge:
        """The same with a datastore of these texts, each an entry of prompt and answer."""
        num_vocab = 1 + max((int(text_of(text).max(initial=0)) for text in texts), default=0)
        tokens = join([text_of(text) for text in texts], num_vocab)
        segment = Segment(tokens, context_order(tokens, num_vocab))
        return replace(self, segment=segment, num_vocab=num_vocab)


def text_of(trace: TokenTrace) -> Int32Array:
    """Prompt and answer in one, int32 [tokens]."""
    return np.array([*trace.prompt, *trace.answer], np.int32)


def known(
    texts: Sequence[TokenTrace], *, datastore: bool, keep: bool, recycle: bool = True
) -> Knowledge:
    """What earlier texts give: a datastore of them, or the drafter's own memory of them."""
    if datastore:
        return Knowledge(keep=keep, recycle=recycle).with_datastore(texts)
    return Knowledge(history=tuple(texts), keep=keep or bool(texts), recycle=recycle)


CONTEXT_ALONE = Knowledge()
