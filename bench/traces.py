"""Recorded prompts and answers of real models, read from JSON lines and turned into tokens.

A line is {"id", "task", "messages": [{"role", "content"}], "output"}; other fields are ignored.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sssd_local.draft.tree import Int32Array
from sssd_local.errors import ConfigError

# (text, whether it starts a sequence and so gets BOS where the vocabulary wants it) -> token ids
Tokenize = Callable[[str, bool], list[int]]


@dataclass(frozen=True, slots=True)
class Trace:
    """A conversation and the answer a model gave; `task` is the part before the first slash."""

    id: str
    task: str
    messages: tuple[Mapping[str, str], ...]
    output: str


@dataclass(frozen=True, slots=True)
class TokenTrace:
    """A trace as token ids of one vocabulary.

    `runner_ups` int32 [answer, k], where known: the likeliest tokens at each position, best first.
    """

    id: str
    task: str
    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    runner_ups: Int32Array | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


def read_traces(paths: Iterable[str | os.PathLike[str]]) -> Iterator[Trace]:
    """All traces of some files in file order; raises ConfigError for a line that is none."""
    for path in map(Path, paths):
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _parse(line, f"{path}:{number}")


def _parse(line: str, place: str) -> Trace:
    try:
        record = json.loads(line)
        return Trace(
            id=str(record["id"]),
            task=str(record["task"]).partition("/")[0],
            messages=tuple(
                {"role": str(message["role"]), "content": str(message["content"])}
                for message in record["messages"]
            ),
            output=str(record["output"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{place} is no trace ({type(error).__name__}: {error}); a trace is a JSON object "
            "with id, task, messages and output"
        ) from error


def render_prompt(messages: Sequence[Mapping[str, str]]) -> str:
    """A conversation as plain text in Vicuna's way, the same for every vocabulary.

    >>> render_prompt([{"role": "system", "content": "A."}, {"role": "user", "content": "Hi"}])
    'A. USER: Hi ASSISTANT:'
    """
    turns = [
        message["content"]
        if message["role"] == "system"
        else f"{message['role'].upper()}: {message['content']}"
        for message in messages
    ]
    return " ".join([*turns, "ASSISTANT:"])


def select_traces(
    traces: Iterable[Trace],
    tokenize: Tokenize,
    *,
    per_task: int | None = None,
    min_tokens: int = 1,
) -> list[TokenTrace]:
    """The first `per_task` traces (all if None) of each task with answers of `min_tokens` or more.

    The answer is tokenised by itself and put after the prompt's tokens.
    """
    taken: Counter[str] = Counter()
    chosen: list[TokenTrace] = []
    for trace in traces:
        if per_task is not None and taken[trace.task] >= per_task:
            continue
        answer = tokenize(trace.output, False)
        if len(answer) < min_tokens:
            continue
        taken[trace.task] += 1
        prompt = tokenize(render_prompt(trace.messages), True)
        chosen.append(TokenTrace(trace.id, trace.task, tuple(prompt), tuple(answer)))
    return chosen


def vocabulary_tokenizer(vocab_gguf: str | os.PathLike[str]) -> Tokenize:
    """Tokenises with a GGUF's vocabulary; texts that spell special tokens stay plain text."""
    import llama_cpp

    try:
        vocabulary = llama_cpp.Llama(os.fspath(vocab_gguf), vocab_only=True, verbose=False)
    except ValueError as error:
        raise ConfigError(
            f"{os.fspath(vocab_gguf)} cannot be read as a vocabulary: {error}"
        ) from error

    def tokenize(text: str, starts: bool) -> list[int]:
        return list(vocabulary.tokenize(text.encode(), add_bos=starts, special=False))

    return tokenize


def load_traces(
    paths: Sequence[Path],
    vocab: Path | None,
    per_task: int | None = None,
    min_tokens: int = 1,
) -> list[TokenTrace]:
    """Reads recorded answers as token ids, see `select_traces`.

    Texts take a GGUF's vocabulary; the answers of an .npz, written by `record`, are token ids
    already. Raises ConfigError for texts without a vocabulary.
    """
    from bench.answers import read_answers

    chosen: list[TokenTrace] = []
    texts = [path for path in paths if path.suffix != ".npz"]
    if texts:
        if vocab is None:
            raise ConfigError(f"{texts[0]} has texts: a vocabulary is needed to read it (--vocab)")
        tokenize = vocabulary_tokenizer(vocab)
        traces = read_traces(texts)
        chosen += select_traces(traces, tokenize, per_task=per_task, min_tokens=min_tokens)
    recorded = [answer for path in paths if path not in texts for answer in read_answers(path)]
    long_enough = [answer for answer in recorded if len(answer.answer) >= min_tokens]
    return chosen + _first_of_each_task(long_enough, per_task)


def _first_of_each_task(traces: Iterable[TokenTrace], per_task: int | None) -> list[TokenTrace]:
    taken: Counter[str] = Counter()
    chosen: list[TokenTrace] = []
    for trace in traces:
        taken[trace.task] += 1
        if per_task is None or taken[trace.task] <= per_task:
            chosen.append(trace)
    return chosen
