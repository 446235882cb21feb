"""The Python API: a model that answers, chats and streams, with speculation inside."""

from __future__ import annotations

import operator
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
    ALIASES,
    Call,
    Chunk,
    Completion,
    Message,
    Turn,
    checked_arguments,
    checked_messages,
    chunk_of,
    complete,
)
from sssd_local.chat.session import ChatSession
from sssd_local.chat.template import ChatTemplate
from sssd_local.config import GenerationConfig, ModelConfig, SamplingConfig, split_options
from sssd_local.costs import Measured, as_measured, kept_threads, measured_costs
from sssd_local.draft.calibrate import Calibration
from sssd_local.draft.drafter import Drafter
from sssd_local.draft.tree import Int32Array
from sssd_local.engine.ability import Speculation
from sssd_local.engine.context import Context
from sssd_local.engine.decode import Engine, Request, answer
from sssd_local.engine.model import Model
from sssd_local.engine.output import StepResult
from sssd_local.engine.sampling import new_sampler
from sssd_local.errors import BusyError, Cancelled, ConfigError, SSSDError
from sssd_local.gguf_check import check_model_file
from sssd_local.hardware.cost import CostModel
from sssd_local.hardware.governor import ThreadGovernor
from sssd_local.hardware.sizer import Sizer
from sssd_local.hardware.threads import default_threads
from sssd_local.stats import Stats, Tally
from sssd_local.store.datastores import open_datastores
from sssd_local.store.memory import Memory, make_memory

__all__ = ["LLM", "Chunk", "Completion", "Stats"]


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
        self.config: ModelConfig = config
        self.threads = config.threads or default_threads()
        self.threads_batch = config.threads_batch or config.threads or default_threads()
        header = check_model_file(Path(path))
        self._datastores = open_datastores(config.datastores, header)
        self.memory = make_memory(memory)
        self._memories = [] if self.memory is None else [self.memory.open(path, header)]
        self._model = Model(path, config, progress, header=header)
        self._context: Context | None = None
        self._measured: Measured | None = None
        try:
            chosen = as_measured(self._model, config)
            self._context = Context(self._model, chosen, self.threads, self.threads_batch)
            self._engine = self._new_engine(self._context)
            facts = self._model.facts
            source = config.chat_template or facts.chat_template
            self._template = ChatTemplate(source, bos=facts.bos, eos=facts.eos)
            self._template_arguments: Mapping[str, Any] = {}
            self._session = self._new_session()
        except BaseException:
            self._free()
            raise

    def _new_engine(self, context: Context) -> Engine:
        ability = context.plan.ability
        self.speculation: str = ability.speculation.value
        can_draft = ability.speculation is not Speculation.NONE
        width = self._width(self.config)
        self.speculation_note = "" if can_draft else f"no speculation: {ability.reason}"
        sources = [*self._datastores, *self._memories]
        drafter = Drafter(Calibration(), sources=sources, max_leaves=context.num_sequences)
        engine = Engine(self._model, context, drafter, Sizer(CostModel()), width)
        if width is None:
            self._measure(engine)
        elif (kept := kept_threads(self._model, self.config, context.plan)) is not None:
            self.threads, self.threads_batch = kept
            context.set_threads(*kept)
        return engine

    def _width(self, config: ModelConfig) -> int | None:
        """The engine's width: None sizes drafts by cost, 1 never drafts."""
        if self.speculation == Speculation.NONE or config.speculation == "off":
            return 1
        return None if config.speculation == "auto" else int(config.speculation)

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
        ids = self._checked_tokens(tokens).tolist()
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
        kept = checked_messages(messages)
        if call.generation.overflow == "stop":
            self._session.left_out = []
        else:
            kept = overflow.fit_turns(self._session, kept, ctx)
        tokens = np.array(self._session.encode(kept), np.int32)
        if call.generation.overflow == "drop-oldest":
            call.make_room = overflow.drop_turns(self._session, kept, ctx)
        elif call.generation.overflow == "shift":
            call.make_room = overflow.shift(self._system_length(kept, tokens))
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
            width = self._width(config)
            if width is None and self._measured is None:
                self._measure(self._engine)
            self._engine.width = width
            self.config = config

    def _measure(self, engine: Engine) -> None:
        """Sizes drafts by what this machine needs from now on: kept costs and odds, or a probe."""
        engine.ledger.clear()
        try:
            measured = measured_costs(
                self._model, engine.context, self.config, self.threads, self.threads_batch
            )
        finally:
            # Ctrl-C may have ended the measuring half-way.
            engine.ledger.clear()
        if measured.profile is not None:
            self.threads, self.threads_batch = measured.threads
        measured.teach(engine.drafter.calibration)
        engine.use(measured.sizer(), ThreadGovernor(self.threads, self.threads_batch))
        self._measured = measured

    def _system_length(self, messages: list[dict[str, str]], tokens: Int32Array) -> int:
        """How many first tokens of a conversation are its system message."""
        if not messages or messages[0].get("role") != "system":
            return int(self._model.facts.add_bos)
        first = [messages[0], {"role": "user", "content": "\ufffd"}]
        other = self._template.render(first, **self._template_arguments)
        probe = np.array(self._session.tokenize(other), np.int32)
        size = min(len(probe), len(tokens))
        differs = np.flatnonzero(probe[:size] != tokens[:size])
        return int(differs[0]) if len(differs) else size

    def _prompt_tokens(self, prompt: str | Sequence[int]) -> Int32Array:
        if isinstance(prompt, str):
            return self._model.tokenize(prompt, add_special=True, parse_special=True)
        return self._checked_tokens(prompt)

    def _checked_tokens(self, tokens: Sequence[int]) -> Int32Array:
        last = self._model.facts.num_vocab - 1
        try:
            ids = [operator.index(token) for token in tokens]
        except TypeError:
            raise ConfigError(
                f"a text or a list of token ids is needed, got {type(tokens).__name__}"
            ) from None
        if any(not 0 <= token <= last for token in ids):
            raise ConfigError(f"token ids must be from 0 to {last}")
        return np.array(ids, np.int32)

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
            self._free_model()

    def _free_model(self) -> None:
        measured, self._measured = self._measured, None
        if measured is not None:
            measured.keep(self._engine.drafter.calibration)
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
    split_options(answer_options, SamplingConfig, GenerationConfig, aliases=ALIASES)
