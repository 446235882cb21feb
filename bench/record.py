"""`python -m bench record`: greedy answers of a real model with its runner-up tokens."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from bench.answers import write_answers
from bench.options import existing_file
from bench.traces import TokenTrace
from sssd_local.cli_status import StatusLine
from sssd_local.draft.tree import Float32Array, Int32Array, empty_tree
from sssd_local.engine.decode import Engine, Request
from sssd_local.engine.verify import verify
from sssd_local.errors import ConfigError, SSSDError
from sssd_local.llm import LLM

Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model is asked: a text to continue, or a conversation to answer."""

    id: str
    task: str
    messages: tuple[Message, ...]

    def raw_text(self) -> str:
        """The text of a prompt that is one message. Raises ConfigError for a conversation."""
        if len(self.messages) != 1:
            raise ConfigError(f"prompt {self.id} is a conversation; leave out --raw")
        return self.messages[0]["content"]


def read_prompts(path: Path) -> list[Prompt]:
    """Prompts of a file, in its order: a .jsonl of {"prompt": TEXT} or {"messages": [{"role",
    "content"}, …]}, each with `id` and `task` if it likes; else a text file with one in each line.

    Raises ConfigError for a file without prompts and for a line that is none.
    """
    found: list[Prompt] = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the prompts file {path} cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            record: Any = {"prompt": line.strip()}
            if path.suffix == ".jsonl":
                record = _parsed(line, f"{path}:{number}")
            found.append(_prompt(record, f"{path.stem}:{number}", path.stem, f"{path}:{number}"))
    if not found:
        raise ConfigError(f"the prompts file {path} is empty")
    return found


def _parsed(line: str, place: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{place} is not JSON: {error}") from error


def _prompt(record: Any, name: str, task: str, place: str) -> Prompt:
    try:
        messages = record.get("messages") or [{"role": "user", "content": record["prompt"]}]
        kept = tuple(
            {"role": str(message["role"]), "content": str(message["content"])}
            for message in messages
        )
        return Prompt(str(record.get("id", name)), str(record.get("task", task)), kept)
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f'{place} is no prompt; it must be {{"prompt": TEXT}} or {{"messages": [{{"role", '
            '"content"}, …]}'
        ) from error


class RankedGreedy:
    """Greedy sampling that keeps the `top_k` likeliest tokens of each row, the likeliest first."""

    def __init__(self, top_k: int) -> None:
        self._top_k = top_k
        self.rows: list[Int32Array] = []

    def sample(self, logits: Float32Array) -> int:
        """The index of the largest logit, the first of equals."""
        self.rows.append(likeliest(logits, self._top_k))
        return int(self.rows[-1][0])

    def close(self) -> None:
        """Nothing to free."""


def likeliest(logits: Float32Array, count: int) -> Int32Array:
    """The tokens of the largest logits, int32 [count]; of equals the smaller id comes first."""
    least = np.partition(logits, len(logits) - count)[len(logits) - count]
    among = np.flatnonzero(logits >= least)
    order = np.argsort(-logits[among], kind="stable")[:count]
    return among[order].astype(np.int32)


@dataclass(frozen=True, slots=True)
class Recording:
    """How answers are recorded; `past_end` takes the token that ends an answer for any other."""

    top_k: int = 8
    max_tokens: int = 200
    raw: bool = False
    past_end: bool = False


def record(
    llm: LLM, prompts: Sequence[Prompt], settings: Recording, say: Callable[[str], None]
) -> list[TokenTrace]:
    """The model's greedy answers by plain decoding; llm must have been loaded without speculation.

    Raises ConfigError for a vocabulary below `top_k` and for chats with a model without a
    template, ContextFullError for a prompt that does not fit.
    """
    answers: list[TokenTrace] = []
    with llm.engine() as engine:
        facts = engine.model.facts
    if settings.top_k > facts.num_vocab:
        raise ConfigError(f"--top-k is at most {facts.num_vocab}, the size of the vocabulary")
    if not settings.raw and facts.chat_template is None:
        raise ConfigError(f"{engine.model.path} has no chat template; continue texts with --raw")
    for number, prompt in enumerate(prompts, start=1):
        say(f"prompt {number} of {len(prompts)}")
        if settings.raw:
            tokens = llm.tokenize(prompt.raw_text())
        else:
            text = llm.render_chat(prompt.messages)
            written = bool(facts.bos) and text.startswith(facts.bos)
            tokens = llm.tokenize(text, add_special=not written, parse_special=True)
        with llm.engine() as engine:
            answer, rows = greedy_answer(engine, np.array(tokens, np.int32), settings)
        answers.append(TokenTrace(prompt.id, prompt.task, tuple(tokens), answer, rows))
    return answers


def greedy_answer(
    engine: Engine, prompt: Int32Array, settings: Recording
) -> tuple[tuple[int, ...], Int32Array]:
    """One answer and the runner-ups of its positions, int32 [tokens, top_k].

    `rows[i]` are the likeliest tokens where token i was sampled. It ends with the answer, at
    `max_tokens`, or where the context is full.
    """
    sampler = RankedGreedy(settings.top_k)
    request = Request(
        prompt=prompt,
        sampler=sampler,
        max_tokens=settings.max_tokens,
        stop=(),
        make_room=lambda history: None,
        should_stop=lambda: False,
    )
    tokens: list[int] = []
    try:
        token = engine.evaluate_prompt(request)
        while settings.past_end or not engine.model.is_eog(token):
            tokens.append(token)
            if len(tokens) == settings.max_tokens or engine.ledger.room < 1:
                break
            engine.decode(token, empty_tree())
            verdict = verify(empty_tree(), engine.context.logits, sampler, engine.model.is_eog)
            engine.keep(token, empty_tree(), None, verdict)
            token = verdict.token
    finally:
        engine.reset()
    rows = sampler.rows[: len(tokens)]
    return tuple(tokens), np.array(rows, np.int32).reshape(len(tokens), settings.top_k)


@click.command("record")
@click.option("--model", required=True, type=existing_file, help="A GGUF file.")
@click.option("--prompts", required=True, type=existing_file, help="JSON lines, or a text a line.")
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help=".npz")
@click.option("--top-k", default=8, show_default=True, type=click.IntRange(1, 64))
@click.option("--max-tokens", default=200, show_default=True, type=click.IntRange(1))
@click.option("--raw", is_flag=True, help="Continue the texts; no chat template.")
@click.option("--past-end", is_flag=True, help="Go on where the model ends its answer.")
@click.option("--ctx", type=click.IntRange(2), help="Context [the program's default].")
@click.option("--threads", type=click.IntRange(1), help="[physical cores].")
def command(
    model: Path,
    prompts: Path,
    out: Path,
    ctx: int | None,
    threads: int | None,
    **options: Any,
) -> None:
    """Write a model's greedy answers and the likeliest tokens of each position to a file.

    Plain decoding, each prompt in an empty cache. `simulate` reads the file.
    """
    status = StatusLine()
    chosen = {"ctx": ctx, "threads": threads}
    try:
        questions = read_prompts(prompts)
        given: dict[str, Any] = {name: value for name, value in chosen.items() if value}
        with LLM(model, speculation="off", **given) as llm:
            answers = record(llm, questions, Recording(**options), status.show)
            with llm.engine() as engine:
                num_vocab = engine.model.facts.num_vocab
        write_answers(out, answers, model=model.name, num_vocab=num_vocab)
    except (SSSDError, OSError) as error:
        raise click.ClickException(str(error)) from error
    finally:
        status.wipe()
    num_tokens = sum(len(answer.answer) for answer in answers)
    click.echo(f"{len(answers)} answers of {num_tokens} tokens: {out}")


if __name__ == "__main__":
    command()
