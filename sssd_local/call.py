"""One call of a model: its options, its place in line, and what it gives back."""

from __future__ import annotations

import operator
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sssd_local import overflow
from sssd_local.config import GenerationConfig, ModelConfig, SamplingConfig, split_options
from sssd_local.draft.tree import Int32Array
from sssd_local.engine.output import StepResult
from sssd_local.errors import BusyError, ConfigError
from sssd_local.stats import Stats

Message = Mapping[str, str]

ALIASES = {"temp": "temperature"}


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


def chunk_of(step: StepResult, stats: Stats | None = None) -> Chunk:
    """A step as users see it."""
    sources = tuple(source.label for source in step.sources)
    text = "".join(step.pieces)
    return Chunk(text, step.token_ids, sources, step.pieces, step.finish_reason, stats)


def complete(chunks: Iterator[Chunk]) -> Completion:
    """All chunks of an answer as one."""
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


def checked_messages(messages: Sequence[Message]) -> list[dict[str, str]]:
    """A conversation as lists and dicts of its own; raises ConfigError for anything else."""
    fine = isinstance(messages, Sequence) and not isinstance(messages, str)
    if not fine or not all(isinstance(item, Mapping) and "role" in item for item in messages):
        raise ConfigError('messages must be a list of {"role": …, "content": …}')
    return [dict(message) for message in messages]


def checked_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Further variables of a chat template; raises ConfigError for those every chat sets."""
    for name in ("messages", "add_generation_prompt"):
        if name in arguments:
            raise ConfigError(f"{name} is set for every chat; it cannot be a template argument")
    return dict(arguments)


@dataclass(slots=True, eq=False)
class Call:
    """One call's options, what it does at the context's end and at its own, and its stream."""

    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    progress: Callable[[int, int], None] | None = None
    stop: tuple[str, ...] = ()
    make_room: overflow.MakeRoom = overflow.stop
    record: Callable[[Sequence[int]], None] | None = None
    num_written: int = 0
    # A plain flag: setting an Event from a signal handler can deadlock.
    cancelled: bool = False
    stream: weakref.ref[Generator[Chunk, None, None]] | None = None

    @classmethod
    def from_options(cls, options: dict[str, Any]) -> Call:
        """The call that keyword options describe; raises ConfigError."""
        progress = options.pop("prompt_progress", None)
        if progress is not None and not callable(progress):
            raise ConfigError(f"prompt_progress must be a function, got {progress!r}")
        sampling, generation = split_options(
            options, SamplingConfig, GenerationConfig, aliases=ALIASES
        )
        return cls(sampling, generation, progress, generation.stop)

    def should_stop(self) -> bool:
        """Whether the answer was cancelled."""
        return self.cancelled


class Turn:
    """Whose turn it is: one call at a time, and never a call left holding it.

    The holder is a dictionary entry, set and read in one atomic operation, so that wherever Ctrl-C
    strikes, `give_back` in the call's `finally` knows whether the turn was taken.
    """

    def __init__(self) -> None:
        self._holder: dict[str, Call] = {}

    @property
    def holder(self) -> Call | None:
        """The call that is being answered."""
        return self._holder.get("call")

    def take(self, call: Call) -> None:
        """Raises BusyError while another call has the turn."""
        if self._holder.setdefault("call", call) is not call:
            raise BusyError(
                "this model is writing another answer; finish or close that one first, or load the "
                "model a second time"
            )

    def give_back(self, call: Call) -> None:
        """Ends the call's turn, if it has it."""
        if self._holder.get("call") is call:
            del self._holder["call"]


def checked_tokens(tokens: Sequence[int], num_vocab: int) -> Int32Array:
    """Token ids as int32 [n]. Raises ConfigError for what is none of a vocabulary's."""
    try:
        ids = [operator.index(token) for token in tokens]
    except TypeError:
        raise ConfigError(
            f"a text or a list of token ids is needed, got {type(tokens).__name__}"
        ) from None
    if any(not 0 <= token < num_vocab for token in ids):
        raise ConfigError(f"token ids must be from 0 to {num_vocab - 1}")
    return np.array(ids, np.int32)


def check_options(model_options: Mapping[str, Any], answer_options: Mapping[str, Any]) -> None:
    """Raises ConfigError for impossible or unknown options, before a model is loaded."""
    split_options(model_options, ModelConfig)
    split_options(answer_options, SamplingConfig, GenerationConfig, aliases=ALIASES)
