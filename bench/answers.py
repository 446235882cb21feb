"""Files of recorded answers with the model's runner-up tokens: written by `record`, read anywhere.

An .npz of plain arrays: `format` and `version`; `model` (file name) and `num_vocab`; for each
answer `ids`, `tasks`, `prompt_lengths`, `answer_lengths`; and all answers one after another
`prompt_tokens`, `answer_tokens` (int32) and `runner_ups` (int32 [answer tokens, k]).
"""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.traces import TokenTrace
from sssd_local.errors import ConfigError
from sssd_local.files import write_atomic

FORMAT = "sssd-local answers"
VERSION = 1


def write_answers(path: Path, answers: Sequence[TokenTrace], *, model: str, num_vocab: int) -> None:
    """Writes answers that all have runner-ups of one width, atomically.

    Raises ConfigError for answers that do not fit together, OSError where it cannot be written.
    """
    rows = [answer.runner_ups for answer in answers if answer.runner_ups is not None]
    if len(rows) != len(answers) or not rows:
        raise ConfigError("there is nothing to write: an answer has no runner-up tokens")
    arrays: dict[str, NDArray[Any]] = {
        "format": np.array(FORMAT),
        "version": np.array(VERSION),
        "model": np.array(model),
        "num_vocab": np.array(num_vocab),
        "ids": np.array([answer.id for answer in answers]),
        "tasks": np.array([answer.task for answer in answers]),
        "prompt_lengths": np.array([len(answer.prompt) for answer in answers], np.int64),
        "answer_lengths": np.array([len(answer.answer) for answer in answers], np.int64),
        "prompt_tokens": _joined([answer.prompt for answer in answers]),
        "answer_tokens": _joined([answer.answer for answer in answers]),
        "runner_ups": np.concatenate(rows),
    }
    _check(arrays)
    data = io.BytesIO()
    np.savez_compressed(data, allow_pickle=False, **arrays)
    write_atomic(path, data.getvalue(), mode=0o644)


def _joined(parts: Sequence[Sequence[int]]) -> NDArray[np.int32]:
    return np.array([token for part in parts for token in part], np.int32)


def read_answers(path: str | os.PathLike[str]) -> list[TokenTrace]:
    """The answers of a file, in its order. Raises ConfigError for a file of another kind."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name]) for name in file.files}
        _check(arrays)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        what = f"there is no {error}" if isinstance(error, KeyError) else str(error)
        raise ConfigError(
            f"{os.fspath(path)} is no file of recorded answers: {what}; make one with "
            "`python -m bench record`"
        ) from error
    prompts = np.split(arrays["prompt_tokens"], np.cumsum(arrays["prompt_lengths"])[:-1])
    ends = np.cumsum(arrays["answer_lengths"])[:-1]
    answers, rows = np.split(arrays["answer_tokens"], ends), np.split(arrays["runner_ups"], ends)
    names = zip(arrays["ids"].tolist(), arrays["tasks"].tolist(), strict=True)
    return [
        TokenTrace(name, task, tuple(prompt.tolist()), tuple(answer.tolist()), runner_ups)
        for (name, task), prompt, answer, runner_ups in zip(
            names, prompts, answers, rows, strict=True
        )
    ]


def _check(arrays: dict[str, NDArray[Any]]) -> None:
    """Raises ValueError or KeyError for arrays that are no recorded answers."""
    if str(arrays["format"]) != FORMAT:
        raise ValueError("it is of another format")
    if arrays["version"].tolist() != VERSION:
        raise ValueError(f"it has version {arrays['version']!s:.20}, this program reads {VERSION}")
    ids, tasks, num_vocab = arrays["ids"], arrays["tasks"], arrays["num_vocab"]
    if ids.dtype.kind != "U" or tasks.dtype.kind != "U" or num_vocab.dtype.kind != "i":
        raise ValueError("its names are no texts")
    if ids.ndim != 1 or ids.shape != tasks.shape or num_vocab.ndim or not len(ids):
        raise ValueError("its arrays do not fit together")
    rows = arrays["runner_ups"]
    if rows.ndim != 2 or not rows.shape[1] or rows.shape[:1] != arrays["answer_tokens"].shape:
        raise ValueError("its arrays do not fit together")
    for part in ("prompt", "answer"):
        lengths, tokens = arrays[f"{part}_lengths"], arrays[f"{part}_tokens"]
        if lengths.dtype != np.int64 or lengths.shape != ids.shape or int(lengths.min()) < 0:
            raise ValueError(f"its {part} lengths are damaged")
        if tokens.ndim != 1 or int(lengths.sum()) != len(tokens):
            raise ValueError("its arrays do not fit together")
    for name in ("prompt_tokens", "answer_tokens", "runner_ups"):
        tokens = arrays[name]
        if tokens.dtype != np.int32:
            raise ValueError(f"{name} are no token ids")
        if tokens.size and not (int(tokens.min()) >= 0 and int(tokens.max()) < int(num_vocab)):
            raise ValueError(f"{name} has an id outside the vocabulary of {int(num_vocab)}")
