"""The Python API: a model that answers, chats and streams, with speculation inside."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np

from sssd_local import overflow
from sssd_local.chat.session import ChatSession
from sssd_local.chat.template import ChatTemplate
from sssd_local.config import GenerationConfig, ModelConfig, SamplingConfig, split_options
from sssd_local.costs import measured_costs
from sssd_local.draft.calibrate import Calibration
from sssd_local.draft.drafter import Drafter
from sssd_local.draft.tree import Int32Array
from sssd_local.engine.context import NUM_SEQUENCES, Context
from sssd_local.engine.decode import Engine, Request, answer
from sssd_local.engine.model import Model
from sssd_local.engine.output import StepResult
from sssd_local.engine.sampling import new_sampler
from sssd_local.errors import BusyError, Cancelled, ConfigError, SSSDError
from sssd_local.hardware.cost import CostModel
from sssd_local.hardware.sizer import Sizer
from sssd_local.hardware.threads import default_threads
from sssd_local.stats import Stats, Tally

Message = Mapping[str, str]

_ALIASES = {"temp": "temperature"}


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of an answer as it is written.

    `pieces[i]` is the text that `token_ids[i]` released and `sources[i]` where the token came from
    (model, prompt, output, datastore, memory or recycle). `finish_reason` (stop, length, cancelled)
    and `stats` come with the last chunk.
    """

    text: str
    token_ids: tuple[int, ...]
    sources: tuple[str, ...]
    pieces: tuple[str, ...]
    finish_reason: str | None = None
    stats: Stats | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer."""

    text: str
    token_ids: tuple[int, ...]
    sources: tuple[str, ...]
    finish_reason: str
    stats: Stats


@dataclass(slots=True)
class _Call:
    """One call's options and what it does at the context's end and at its own."""

    sampling: SamplingConfig
    generation: GenerationConfig
    progress: Callable[[int, int], None] | None
    stop: tuple[str, ...]
    make_room: overflow.MakeRoom = overflow.stop
    record: Callable[[Sequence[int]], None] | None = None
    num_written: int = 0

    @classmethod
    def from_options(cls, options: dict[str, Any]) -> _Call:
        progress = options.pop("prompt_progress", None)
        sampling, generation = split_options(
            options, SamplingConfig, GenerationConfig, aliases=_ALIASES
        )
        return cls(sampling, generation, progress, generation.stop)


class LLM:
    """A GGUF model, ready to answer; use it as a context manager or call `close()`.

    Keyword options are the fields of ModelConfig; `progress(fraction)` hears of the loading. One
    answer at a time: a call from a second thread while one runs raises BusyError.

    >>> with LLM("model.gguf") as llm:                         # doctest: +SKIP
    ...     print(llm.chat([{"role": "user", "content": "Hello"}]).text)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        progress: Callable[[float], None] | None = None,
        **options: Any,
    ) -> None:
        (config,) = split_options(options, ModelConfig)
        self._lock = threading.Lock()
        self._cancelled = threading.Event()
        self._closed = False
        self._active: weakref.ref[Generator[Chunk, None, None]] | None = None
        self.config: ModelConfig = config
        self.threads = config.threads or default_threads()
        self.threads_batch = config.threads_batch or config.threads or default_threads()
        self._model = Model(path, config, progress)
        self._context: Context | None = None
        try:
            self._context = Context(self._model, config, self.threads, self.threads_batch)
            self._engine = self._new_engine(self._context)
            facts = self._model.facts
            source = config.chat_template or facts.chat_template
            self._template = ChatTemplate(source, bos=facts.bos, eos=facts.eos)
            self._session = self._new_session()
        except BaseException:
            self._free()
            raise

    def _new_engine(self, context: Context) -> Engine:
        speculation = self.config.speculation
        recurrent = self._model.facts.recurrent
        width = {"auto": None, "off": 1}.get(str(speculation), speculation)
        self.speculation_note = "no speculation: this model cannot roll back" if recurrent else ""
        if width is None and not recurrent:
            cost = measured_costs(
                self._model, context, self.config, self.threads, self.threads_batch
            )
        else:
            cost = CostModel()
        drafter = Drafter(Calibration(), max_leaves=NUM_SEQUENCES)
        forced = None if width is None else int(width)
        return Engine(self._model, context, drafter, Sizer(cost), 1 if recurrent else forced)

    def _new_session(self) -> ChatSession:
        return ChatSession(
            self._template.render, self.tokenize, self._model.piece, bos=self._model.facts.bos
        )

    @property
    def n_ctx(self) -> int:
        """How many tokens prompt and answer may have together."""
        return self._open_context().ctx

    def tokenize(
        self, text: str, *, add_special: bool = True, parse_special: bool = False
    ) -> list[int]:
        """Token ids of a text; `add_special` adds BOS where the model wants it."""
        ids = self._model.tokenize(text, add_special=add_special, parse_special=parse_special)
        return list(map(int, ids))

    def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of token ids, with U+FFFD for bytes that are no UTF-8."""
        return b"".join(map(self._model.piece, tokens)).decode("utf-8", "replace")

    def generate(self, prompt: str | Sequence[int], **options: Any) -> Completion:
        """Continues a text or token ids, without a chat template.

        Options are the fields of SamplingConfig and GenerationConfig, and `prompt_progress(done,
        total)`. Raises SSSDError for what a user can mend.
        """
        return _complete(self.stream(prompt, **options))

    def stream(self, prompt: str | Sequence[int], **options: Any) -> Iterator[Chunk]:
        """Like `generate`, chunk by chunk; safe to leave at any time."""
        call = _Call.from_options(options)
        self._open_context()
        tokens = self._prompt_tokens(prompt)
        if call.generation.overflow != "stop":
            call.make_room = overflow.shift(int(self._model.facts.add_bos))
        return self._start(tokens, call)

    def chat(self, messages: Sequence[Message], **options: Any) -> Completion:
        """Answers a conversation of {"role", "content"} messages through the model's template."""
        return _complete(self.stream_chat(messages, **options))

    def stream_chat(self, messages: Sequence[Message], **options: Any) -> Iterator[Chunk]:
        """Like `chat`, chunk by chunk; safe to leave at any time.

        With overflow `drop-oldest` or `shift` the oldest turns are left out when the conversation
        does not fit. What the last answer left in the cache is not evaluated again.
        """
        call = _Call.from_options(options)
        call.stop = (*call.generation.stop, *self._template.stop)
        call.record = self._session.record
        ctx = self._open_context().ctx
        kept = [dict(message) for message in messages]
        if call.generation.overflow != "stop":
            kept, _ = self._session.fit(kept, ctx - 1)
        tokens = np.array(self._session.encode(kept), np.int32)
        if call.generation.overflow == "drop-oldest":
            call.make_room = overflow.drop_turns(self._session, kept, ctx)
        elif call.generation.overflow == "shift":
            call.make_room = overflow.shift(self._system_length(kept, tokens))
        return self._start(tokens, call)

    def _system_length(self, messages: list[dict[str, str]], tokens: Int32Array) -> int:
        """How many first tokens of a conversation are its system message."""
        if not messages or messages[0].get("role") != "system":
            return int(self._model.facts.add_bos)
        other = self._template.render([messages[0], {"role": "user", "content": "\ufffd"}])
        probe = np.array(self._session.tokenize(other), np.int32)
        size = min(len(probe), len(tokens))
        differs = np.flatnonzero(probe[:size] != tokens[:size])
        return int(differs[0]) if len(differs) else size

    def _prompt_tokens(self, prompt: str | Sequence[int]) -> Int32Array:
        if isinstance(prompt, str):
            return self._model.tokenize(prompt, add_special=True, parse_special=True)
        tokens = np.asarray(prompt, np.int64).reshape(-1)
        if len(tokens) and not 0 <= tokens.min() <= tokens.max() < self._model.facts.num_vocab:
            raise ConfigError(f"token ids must be from 0 to {self._model.facts.num_vocab - 1}")
        return tokens.astype(np.int32)

    def _start(self, tokens: Int32Array, call: _Call) -> Iterator[Chunk]:
        stream = self._run(tokens, call)
        self._active = weakref.ref(stream)
        return stream

    def _run(self, tokens: Int32Array, call: _Call) -> Generator[Chunk, None, None]:
        self._acquire()
        tally = Tally(len(tokens), self.speculation_note)
        ids: list[int] = []
        start = first = time.perf_counter()
        try:
            request = self._request(tokens, call)
            with closing(answer(self._engine, request)) as steps:
                for step in steps:
                    if not tally.tokens:
                        first = time.perf_counter()
                    tally.add(step)
                    call.num_written = tally.tokens
                    ids.extend(step.token_ids)
                    if step.finish_reason is not None:
                        break
                    yield _chunk(step)
            last = step
        except Cancelled:
            last = StepResult((), (), (), "cancelled")
        finally:
            if call.record is not None:
                call.record(ids)
            self._lock.release()
        yield _chunk(last, self._finish(tally, first - start, time.perf_counter() - first))

    def _request(self, tokens: Int32Array, call: _Call) -> Request:
        return Request(
            prompt=tokens,
            sampler=new_sampler(self._model, call.sampling, tokens),
            max_tokens=call.generation.max_tokens,
            stop=call.stop,
            make_room=lambda history: call.make_room(history, call.num_written),
            should_stop=self._cancelled.is_set,
            progress=call.progress,
        )

    def _finish(self, tally: Tally, prompt_seconds: float, seconds: float) -> Stats:
        return tally.finish(
            reused_tokens=self._engine.reused_tokens,
            prompt_seconds=prompt_seconds,
            seconds=seconds,
            plain=self._engine.plain_seconds(),
        )

    def _acquire(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise BusyError(
                "this model is writing another answer; finish or close that one first, or load the "
                "model a second time"
            )
        if self._closed:
            self._lock.release()
            raise SSSDError("this model is closed; load it again")
        self._cancelled.clear()

    def cancel(self) -> None:
        """Ends the running answer after the current step; may be called from another thread."""
        self._cancelled.set()

    def reset(self) -> None:
        """Forgets the conversation: cache and n-gram tables are emptied, learned odds stay."""
        self._acquire()
        try:
            self._engine.reset()
            self._session = self._new_session()
        finally:
            self._lock.release()

    def close(self) -> None:
        """Ends a running answer and frees the model; doing it twice is harmless."""
        self._closed = True
        self._cancelled.set()
        active = self._active() if self._active is not None else None
        if active is not None:
            # A generator that is running in another thread cannot be closed from here; it ends
            # by itself at the next step and then gives the lock back.
            with suppress(ValueError):
                active.close()
        with self._lock:
            self._free()

    def _free(self) -> None:
        if self._context is not None:
            self._context.close()
        self._model.close()

    def _open_context(self) -> Context:
        if self._closed or self._context is None:
            raise SSSDError("this model is closed; load it again")
        return self._context

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def check_options(model_options: Mapping[str, Any], answer_options: Mapping[str, Any]) -> None:
    """Raises ConfigError for impossible or unknown options, before a model is loaded."""
    split_options(model_options, ModelConfig)
    split_options(answer_options, SamplingConfig, GenerationConfig, aliases=_ALIASES)


def _chunk(step: StepResult, stats: Stats | None = None) -> Chunk:
    sources = tuple(source.label for source in step.sources)
    text = "".join(step.pieces)
    return Chunk(text, step.token_ids, sources, step.pieces, step.finish_reason, stats)


def _complete(chunks: Iterator[Chunk]) -> Completion:
    parts = list(chunks)
    last = parts[-1]
    assert last.finish_reason is not None
    assert last.stats is not None
    return Completion(
        text="".join(part.text for part in parts),
        token_ids=tuple(token for part in parts for token in part.token_ids),
        sources=tuple(source for part in parts for source in part.sources),
        finish_reason=last.finish_reason,
        stats=last.stats,
    )
