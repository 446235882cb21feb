"""The Python API: a model that answers, chats and streams, with speculation inside."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from sssd_local import overflow
from sssd_local.call import (
    Call,
    Chunk,
    Completion,
    Message,
    Turn,
    check_options,
    checked_arguments,
    checked_messages,
    checked_tokens,
    chunk_of,
    complete,
)
from sssd_local.chat.session import ChatSession
from sssd_local.chat.template import ChatTemplate
from sssd_local.config import ModelConfig, split_options
from sssd_local.draft.tree import Int32Array
from sssd_local.engine.context import Context
from sssd_local.engine.decode import Engine, Request, answer
from sssd_local.engine.output import StepResult
from sssd_local.engine.sampling import new_sampler
from sssd_local.errors import BusyError, Cancelled, SSSDError
from sssd_local.gguf_check import check_model_file
from sssd_local.loaded import Loaded
from sssd_local.stats import Stats, Tally
from sssd_local.store.datastores import open_datastores
from sssd_local.store.memory import Memory, make_memory

__all__ = ["LLM", "Chunk", "Completion", "Stats", "check_options"]


class LLM:
    """A GGUF model, ready to answer; use it as a context manager or call `close()`.

    Keyword options are the fields of ModelConfig; `progress(fraction)` hears of the loading.
    `memory` True keeps what is asked and answered in the app's folder (a path: in that one) and
    drafts from it; False keeps nothing. One answer at a time: a call from a second thread while
    one runs raises BusyError.

    >>> with LLM("model.gguf") as llm:                         # doctest: +SKIP
    ...     print(llm.chat([{"role": "user", "content": "Hello"}]).text)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        progress: Callable[[float], None] | None = None,
        memory: bool | str | os.PathLike[str] | Memory | None = False,
        **options: Any,
    ) -> None:
        (config,) = split_options(options, ModelConfig)
        self._turn = Turn()
        self._latest: Call | None = None
        self._closed = False
        header = check_model_file(Path(path))
        datastores = open_datastores(config.datastores, header)
        self.memory = make_memory(memory)
        memories = [] if self.memory is None else [self.memory.open(path, header)]
        try:
            self._loaded = Loaded(Path(path), config, header, [*datastores, *memories], progress)
        except BaseException:
            if self.memory is not None:
                self.memory.close()
            raise
        self._model, self._engine = self._loaded.model, self._loaded.engine
        if self.memory is not None:
            self.memory.piece = self._model.piece
        self.speculation = self._loaded.speculation
        self.speculation_note = self._loaded.speculation_note
        try:
            facts = self._model.facts
            source = config.chat_template or facts.chat_template
            self._template = ChatTemplate(source, bos=facts.bos, eos=facts.eos)
            self._template_arguments: Mapping[str, Any] = {}
            self._session = self._new_session()
        except BaseException:
            self._free()
            raise

    @property
    def config(self) -> ModelConfig:
        """How the model was loaded, with speculation as it is set now."""
        return self._loaded.config

    @property
    def threads(self) -> int:
        """Threads of a one-token step, as the user chose or measurement did."""
        return self._loaded.threads

    @property
    def threads_batch(self) -> int:
        """The same of a wider step."""
        return self._loaded.threads_batch

    def _new_session(self) -> ChatSession:
        return ChatSession(
            lambda messages: self._template.render(messages, **self._template_arguments),
            self.tokenize,
            self._model.piece,
            bos=self._model.facts.bos,
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
        ids = checked_tokens(tokens, self._model.facts.num_vocab).tolist()
        return b"".join(map(self._model.piece, ids)).decode("utf-8", "replace")

    def generate(self, prompt: str | Sequence[int], **options: Any) -> Completion:
        """Continues a text or token ids, without a chat template.

        Options are the fields of SamplingConfig and GenerationConfig, and `prompt_progress(done,
        total)`. Raises SSSDError for what a user can mend.
        """
        return complete(self.stream(prompt, **options))

    def stream(self, prompt: str | Sequence[int], **options: Any) -> Iterator[Chunk]:
        """Like `generate`, chunk by chunk; safe to leave at any time."""
        call = Call.from_options(options)
        self._open_context()
        tokens = self._prompt_tokens(prompt)
        if call.generation.overflow != "stop":
            call.make_room = overflow.shift(int(self._model.facts.add_bos))
        return self._start(tokens, call)

    def chat(self, messages: Sequence[Message], **options: Any) -> Completion:
        """Answers a conversation of {"role", "content"} messages through the model's template."""
        return complete(self.stream_chat(messages, **options))

    def stream_chat(self, messages: Sequence[Message], **options: Any) -> Iterator[Chunk]:
        """Like `chat`, chunk by chunk; safe to leave at any time.

        With overflow `drop-oldest` or `shift` the oldest turns are left out when the conversation
        does not fit, until a quarter of the context is free; `num_dropped_messages` tells how many.
        What the last answer left in the cache is not evaluated again. `template_arguments` are
        further variables of the chat template.
        """
        self._template_arguments = checked_arguments(options.pop("template_arguments", {}))
        call = Call.from_options(options)
        call.stop = (*call.generation.stop, *self._template.stop)
        call.record = self._session.record
        ctx = self._open_context().ctx
        tokens, call.make_room = overflow.plan_chat(
            self._session,
            checked_messages(messages),
            ctx,
            call.generation.overflow,
            int(self._model.facts.add_bos),
        )
        return self._start(tokens, call)

    def resume_chat(self, messages: Sequence[Message]) -> None:
        """Tells memory that a conversation goes on which it is not to take in once more."""
        if self.memory is not None:
            kept = checked_messages(messages)
            self.memory.resume(np.array(self._session.encode(kept), np.int32))

    def check_answer(self, **options: Any) -> None:
        """Raises SSSDError for options, grammar or schema that no answer of this model can have."""
        call = Call.from_options(options)
        self._open_context()
        new_sampler(self._model, call.sampling, np.empty(0, np.int32)).close()

    def render_chat(
        self, messages: Sequence[Message], template_arguments: Mapping[str, Any] | None = None
    ) -> str:
        """The prompt text that the chat template makes of a conversation."""
        return self._template.render(messages, **checked_arguments(template_arguments or {}))

    @property
    def num_dropped_messages(self) -> int:
        """How many of the oldest messages the last chat answer did without, so that it fitted."""
        return len(self._session.left_out)

    def set_speculation(self, value: str | int) -> None:
        """Changes how much is drafted from the next answer on: auto, off or a width.

        For auto the machine is measured unless that was done; this empties the cache.
        """
        config = replace(self.config, speculation=value)
        with self._exclusive():
            self._loaded.set_speculation(config)

    def _prompt_tokens(self, prompt: str | Sequence[int]) -> Int32Array:
        if isinstance(prompt, str):
            return self._model.tokenize(prompt, add_special=True, parse_special=True)
        return checked_tokens(prompt, self._model.facts.num_vocab)

    def _start(self, tokens: Int32Array, call: Call) -> Iterator[Chunk]:
        stream = self._run(tokens, call)
        call.stream = weakref.ref(stream)
        self._latest = call
        return stream

    def _run(self, tokens: Int32Array, call: Call) -> Generator[Chunk, None, None]:
        tally = Tally(len(tokens), self.speculation_note)
        ids: list[int] = []
        start = time.perf_counter()
        prompt_seconds = 0.0
        try:
            self._begin(call)
            if self.memory is not None:
                self.memory.begin(tokens)
            with closing(answer(self._engine, self._request(tokens, call))) as steps:
                for step in steps:
                    prompt_seconds = prompt_seconds or time.perf_counter() - start
                    tally.add(step)
                    call.num_written = tally.tokens
                    ids.extend(step.token_ids)
                    if step.finish_reason is not None:
                        break
                    yield chunk_of(step)
            last = step
        except Cancelled:
            last = StepResult((), (), (), "cancelled")
        finally:
            try:
                if ids and self.memory is not None:
                    stats = self._finish(tally, prompt_seconds)
                    self.memory.take(tokens, np.array(ids, np.int32), stats)
            finally:
                self._end(call, ids)
        yield chunk_of(last, self._finish(tally, prompt_seconds))

    def _request(self, tokens: Int32Array, call: Call) -> Request:
        return Request(
            prompt=tokens,
            sampler=new_sampler(self._model, call.sampling, tokens),
            max_tokens=call.generation.max_tokens,
            stop=call.stop,
            make_room=lambda history: call.make_room(history, call.num_written),
            should_stop=call.should_stop,
            progress=call.progress,
            temperature=call.sampling.temperature,
        )

    def _finish(self, tally: Tally, prompt_seconds: float) -> Stats:
        return tally.finish(
            reused_tokens=self._engine.reused_tokens,
            prompt_seconds=prompt_seconds,
            plain=self._engine.plain_seconds(),
        )

    def _begin(self, call: Call) -> None:
        self._turn.take(call)
        if self._closed:
            raise SSSDError("this model is closed; load it again")

    def _end(self, call: Call, ids: Sequence[int] = ()) -> None:
        if self._turn.holder is not call:
            return
        try:
            if call.record is not None:
                call.record(ids)
        finally:
            self._turn.give_back(call)
            if self._closed:
                self._free_when_idle()

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        call = Call()
        try:
            self._begin(call)
            yield
        finally:
            self._end(call)

    @contextmanager
    def engine(self) -> Iterator[Engine]:
        """The engine, for measurements; no answer can be written meanwhile."""
        with self._exclusive():
            yield self._engine

    def cancel(self) -> None:
        """Ends the running answer after the current step, or the one about to be read.

        May be called from another thread and from a signal handler.
        """
        call = self._turn.holder or self._latest
        if call is not None:
            call.cancelled = True

    def reset(self) -> None:
        """Forgets the conversation: cache and n-gram tables are emptied, learned odds stay."""
        with self._exclusive():
            self._engine.reset()
            self._session = self._new_session()
            # Its closures hold the conversation.
            self._latest = None
            if self.memory is not None:
                self.memory.end_chat()

    def close(self) -> None:
        """Ends a running answer and frees the model; doing it twice is harmless.

        An answer that is running in another thread ends at its next step; the model is freed then.
        """
        self._closed = True
        self.cancel()
        call = self._turn.holder
        stream = call.stream() if call is not None and call.stream is not None else None
        if stream is not None:
            # A generator that is running cannot be closed from here; it ends by itself.
            with suppress(ValueError):
                stream.close()
        self._free_when_idle()

    def _free_when_idle(self) -> None:
        call = Call()
        try:
            self._turn.take(call)
        except BusyError:
            # The call that has the turn frees the model when it ends.
            return
        try:
            self._free()
        finally:
            self._turn.give_back(call)

    def _free(self) -> None:
        try:
            if self.memory is not None:
                self.memory.close()
        finally:
            self._loaded.close()

    def _open_context(self) -> Context:
        if self._closed:
            raise SSSDError("this model is closed; load it again")
        return self._engine.context

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
