"""What the user's own chats taught: a source of drafts that outlives the process if allowed to."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path

from sssd_local.draft.datastore import Datastore, Segment
from sssd_local.draft.tree import Int32Array, TokenSource
from sssd_local.gguf_file import Header
from sssd_local.stats import Stats
from sssd_local.store.errors import BusyStoreError, StoreError
from sssd_local.store.fingerprint import tokenizer_of
from sssd_local.store.manifest import Manifest
from sssd_local.store.memory_chats import PATIENCE_SECONDS, KeptChats, patiently
from sssd_local.store.memory_choice import DEFAULT_MAX_MB, memory_folder, read_choice
from sssd_local.store.memory_ignore import IgnoredLines, Piece
from sssd_local.store.memory_turn import ChatCutter, Turn, Worth
from sssd_local.store.order import context_order
from sssd_local.store.segment import join

# Tokens held in RAM for the disk; beyond it the oldest turns go.
MAX_HELD = 1 << 20
# At 19 a busy program would keep it from giving Python's lock back, and the chat would wait.
NICENESS = 5
# Shorter turns say nothing.
LEAST_TOKENS = 2


class Memory:
    """The chats with models of one tokenizer, read from disk and added to by a thread.

    `keep` True writes each turn once it is done; None holds turns in RAM until `decide`; False
    only reads, whatever is decided. `source` is what to draft from: the chats before the running
    one. `problem` says why turns could not be read or kept, "" for nothing; they stay in RAM and
    are tried again.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        keep: bool | None = True,
        max_bytes: int = DEFAULT_MAX_MB * 1_000_000,
        follows_choice: bool = False,
        ignore: Iterable[str] = (),
    ) -> None:
        """`folder` is that of all chats [the app's]; see `open` for what needs a model.

        `follows_choice`: nothing more is written once the user said no, in whatever program.
        `ignore`: regular expressions; a line that one matches anywhere is never taken in. They
        need `piece`, the bytes of a token. Raises ConfigError for what is none.
        """
        self.folder = memory_folder() if folder is None else folder
        self.problem = ""
        self.piece: Piece | None = None
        self._ignored = IgnoredLines(ignore)
        self.may_write = keep is not False
        self._keep = keep
        self._max_bytes = max_bytes
        self._follows_choice = follows_choice
        self._cutter = ChatCutter()
        self._lock = threading.Lock()
        self._held: list[Turn] = []
        # The running chat's: an undone first message or a new system message begins another by
        # name only. A chat that was ended is the running one until something is said.
        self._names: set[str] = set()
        self._is_ended = False
        self._writer: threading.Thread | None = None
        # Whether the writer still looks for turns.
        self._writes = False
        # When the writer stops waiting for another process; set by `close`.
        self._give_up_at = math.inf

    def open(self, model: str | os.PathLike[str], header: Header | None = None) -> Datastore:
        """Makes ready for a GGUF file, of which only the header is needed; returns `source`.

        Raises ModelError for the file; damaged memory is a `problem`, and an empty source.
        """
        fingerprint, num_vocab = tokenizer_of(header or model)
        self._fresh = Manifest(
            fingerprint=fingerprint, num_vocab=num_vocab, model=os.path.abspath(model)
        )
        self._chats = KeptChats(self.folder / fingerprint)
        self.source = Datastore([], num_vocab, name="memory", kind=TokenSource.MEMORY)
        # What a killed process left may be text that was to be forgotten.
        with suppress(StoreError):
            if self._keep and self._chats.exists:
                self._chats.sweep()
        self._refresh()
        return self.source

    @property
    def asks(self) -> bool:
        """Whether there is something to keep and the user is to be asked."""
        return self._keep is None and bool(self._held)

    def begin(self, prompt: Int32Array) -> None:
        """Hears of a prompt, int32 [n], before it is answered; a new chat sees those before it.

        So does one whose files were joined to others, by any program, or forgotten.
        """
        is_new = self._cutter.chat and not self._cutter.goes_on(prompt)
        if is_new or not self._chats.is_current:
            self._refresh()

    def take(self, prompt: Int32Array, answer: Int32Array, stats: Stats) -> None:
        """Takes in what an answer added to its chat; the disk is left to another thread."""
        # Also what is not kept is followed, or it would be new to the next turn.
        tokens = self._cutter.cut(prompt, answer)
        if self._keep is False:
            return
        runs = [run for run in self._wanted(tokens) if len(run) >= LEAST_TOKENS]
        if runs:
            if self._is_ended:
                self._names, self._is_ended = set(), False
            self._names.add(self._cutter.chat)
            with self._lock:
                self._held.append(Turn(self._cutter.chat, time.time(), runs, Worth.of(stats)))
                while sum(turn.num_tokens for turn in self._held) > MAX_HELD and self._held[1:]:
                    del self._held[0]
        self._give_up_at = math.inf
        # Also what could not be written before is tried again.
        if self._keep and self._held:
            self._start_writer()

    def _wanted(self, tokens: Int32Array) -> list[Int32Array]:
        """What may be kept of the chat's last tokens, cut where lines are left out."""
        if not self._ignored:
            return [tokens]
        if self.piece is None:
            self.problem = "lines to ignore cannot be told without a vocabulary; nothing is kept"
            return []
        history = self._cutter.history
        return self._ignored.rest(history, len(history) - len(tokens), self.piece)

    def end_chat(self) -> None:
        """The conversation is forgotten; what is not on disk, and may not be, goes with it."""
        self._cutter.end()
        self._is_ended = True
        if self._keep is None:
            self._drop_held()
        self._refresh()

    def resume(self, tokens: Int32Array) -> None:
        """A conversation of int32 [n] is gone on with: what it says already is not taken in."""
        self._cutter.resume(tokens)

    def decide(self, keep: bool) -> None:
        """The user's answer: keeps the turns held and all to come, or none of them."""
        self._keep = keep
        self._give_up_at = math.inf
        if keep:
            self._start_writer()
        else:
            self._drop_held()
            self._refresh()

    def forget_chat(self) -> int:
        """Deletes the running chat so far, kept or held; returns how many turns.

        Raises StoreError.
        """
        # First the writer must be done, which has turns in its hands.
        self.close()
        number = self._drop_held()
        names = self._names
        if self.may_write and names and self._chats.exists:
            number += patiently(partial(self._chats.forget, lambda source: source.name in names))
        self._refresh()
        return number

    def _drop_held(self) -> int:
        with self._lock:
            number = len(self._held)
            self._held = []
        return number

    def close(self) -> None:
        """Waits until what is to be kept is written; harmless twice.

        For another process it waits PATIENCE_SECONDS at most, all calls together.
        """
        self._give_up_at = min(self._give_up_at, time.monotonic() + PATIENCE_SECONDS)
        if self._keep and self._held:
            self._start_writer()
        writer = self._writer
        if writer is not None:
            writer.join()

    def _refresh(self) -> None:
        """Reads what is kept now, and what is about to be."""
        with self._lock:
            held = [text for turn in self._held for text in turn.texts]
        segments: list[Segment] = []
        try:
            segments = self._chats.segments()
        except StoreError as error:
            self.problem = self.problem or str(error)
        if held:
            num_vocab = self._fresh.num_vocab
            tokens = join(held, num_vocab)
            segments.append(Segment(tokens, context_order(tokens, num_vocab)))
        self.source.read(segments)

    def _start_writer(self) -> None:
        with self._lock:
            if not self._writes:
                self._writes = True
                # A daemon: killed with the process, as any writer may be.
                writer = threading.Thread(target=self._write, daemon=True)
                try:
                    writer.start()
                except RuntimeError as error:
                    self._writes, self.problem = False, str(error)
                else:
                    self._writer = writer

    def _write(self) -> None:
        """Writes held turns until there are none, then tidies up."""
        _step_back()
        try:
            while turns := self._waiting():
                patiently(partial(self._chats.add, self._fresh, turns), lambda: self._give_up_at)
                with self._lock:
                    self._held = [turn for turn in self._held if turn not in turns]
                self.problem = ""
            # Whoever has the lock, or writes next, does it as well.
            with suppress(BusyStoreError):
                self._chats.tidy(self._max_bytes)
        except (StoreError, OSError, ValueError, MemoryError) as error:
            self.problem = str(error) or "there is no memory left"
            with self._lock:
                # One that was started since has its own turns in its hands.
                if self._writer is threading.current_thread():
                    self._writes = False

    def _waiting(self) -> list[Turn]:
        """The turns to write; after [] they are another thread's."""
        if self._follows_choice and read_choice().keep is False:
            self._keep = False
            self._drop_held()
        with self._lock:
            self._writes = bool(self._held and self._keep)
            return list(self._held) if self._keep else []


def make_memory(wanted: bool | str | os.PathLike[str] | Memory | None) -> Memory | None:
    """What `LLM(memory=…)` means: True is the app's folder, a path another one, False nothing."""
    if wanted is None or isinstance(wanted, Memory):
        return wanted
    if isinstance(wanted, bool):
        return Memory() if wanted else None
    return Memory(Path(wanted))


def chosen_memory(*, may_write: bool, may_ask: bool, ignore: Iterable[str] = ()) -> Memory | None:
    """The memory that the user decided for.

    Without `may_write` it is only read. `may_ask`: held for a question where none was answered.
    `ignore` as for Memory. Raises ConfigError.
    """
    choice = read_choice()
    if choice.keep is None and may_ask and may_write:
        keep = None
    elif choice.keep:
        keep = may_write
    else:
        return None
    return Memory(keep=keep, max_bytes=choice.max_bytes, follows_choice=True, ignore=ignore)


def _step_back() -> None:
    """Lets this thread come after others; Linux counts it by itself."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
