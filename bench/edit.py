"""`python -m bench edit`: files of a project edited with its source as a datastore, simulated.

Each edit is a commit of the project's own history that changed a file: the answer is the file as
it was afterwards, the datastore all source of the tree before it. The request shows the whole file
as it was (`shown`), so that the context knows most of the answer, or names it only (`named`).
With `--rename` two names are replaced in files of a folder instead.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np

from bench.commits import REQUESTS, Edit, edits, renames, tree, write_traces, write_tree
from bench.curves import Float64Array, load_curve
from bench.knowledge import CONTEXT_ALONE, Knowledge
from bench.options import existing_file
from bench.simulate import Replay
from bench.tally import Tally
from bench.traces import Tokenize, TokenTrace, render_prompt, vocabulary_tokenizer
from sssd_local.draft.calibrate import Calibration
from sssd_local.draft.datastore import Segment
from sssd_local.errors import ConfigError, SSSDError
from sssd_local.gguf_file import read_header
from sssd_local.store.order import context_order
from sssd_local.store.segment import join

MAX_TOKENS = 6000
CHARS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Row:
    """All edits with one kind of request: speed-ups over plain decoding, drafting excluded.

    `draft_us` is the median of a step's drafting and learning in microseconds.
    """

    request: str
    edits: int
    tokens: int
    alone: float
    with_store: float
    alone_tokens_per_step: float
    with_store_tokens_per_step: float
    alone_draft_us: float
    with_store_draft_us: float


def knowledge(texts: Iterable[str], tokenize: Tokenize, num_vocab: int) -> Knowledge:
    """A datastore of some texts."""
    tokens = join([np.array(tokenize(text, False), np.int32) for text in texts], num_vocab)
    return Knowledge(segment=Segment(tokens, context_order(tokens, num_vocab)), num_vocab=num_vocab)


def measure(
    found: Sequence[Edit], repo: Path, tokenize: Tokenize, num_vocab: int, costs: Float64Array
) -> list[Row]:
    """Replays every edit without and with the tree before it; odds learn on as for a user."""
    stores = []
    for edit in found:
        texts = (text for _, text in tree(repo, edit.before))
        stores.append(knowledge(texts, tokenize, num_vocab))
    rows = []
    for kind in REQUESTS:
        traces = [_trace(edit, kind, tokenize) for edit in found]
        alone = _replayed(traces, [CONTEXT_ALONE] * len(traces), costs)
        with_store = _replayed(traces, stores, costs)
        rows.append(
            Row(
                request=kind,
                edits=len(traces),
                tokens=alone.tokens,
                alone=alone.speedup,
                with_store=with_store.speedup,
                alone_tokens_per_step=alone.tokens / alone.steps,
                with_store_tokens_per_step=with_store.tokens / with_store.steps,
                alone_draft_us=float(np.median(alone.draft_us)),
                with_store_draft_us=float(np.median(with_store.draft_us)),
            )
        )
    return rows


def _trace(edit: Edit, kind: str, tokenize: Tokenize) -> TokenTrace:
    prompt = tokenize(render_prompt(edit.messages(kind)), True)
    return TokenTrace(edit.commit[:10], kind, tuple(prompt), tuple(tokenize(edit.new, False)))


def _replayed(
    traces: Sequence[TokenTrace], known: Sequence[Knowledge], costs: Float64Array
) -> Tally:
    total, odds = Tally(), Calibration()
    for trace, knowledge in zip(traces, known, strict=True):
        replay = Replay(costs, knowledge)
        replay.drafter.calibration = odds
        total.add(replay.run(trace))
    return total


def table(rows: Sequence[Row]) -> str:
    """A markdown table."""
    lines = [
        "| request | edits | tokens | context alone | with the store | tokens a step | drafting |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row.request} | {row.edits} | {row.tokens} | {row.alone:.2f} | {row.with_store:.2f} "
        f"| {row.alone_tokens_per_step:.2f} → {row.with_store_tokens_per_step:.2f} "
        f"| {row.alone_draft_us:.0f} → {row.with_store_draft_us:.0f} µs |"
        for row in rows
    ]
    return "\n".join(lines)


@click.command("edit")
@click.option("--repo", default=".", show_default=True, type=click.Path(path_type=Path))
@click.option("--revision", default="HEAD", show_default=True, help="The newest commit to use.")
@click.option("--count", default=10, show_default=True, type=click.IntRange(1), help="Edits.")
@click.option(
    "--max-tokens",
    default=MAX_TOKENS,
    show_default=True,
    type=click.IntRange(1),
    help="Longest file, at four characters a token.",
)
@click.option(
    "--rename",
    metavar="FOLDER",
    help="No commits: files of FOLDER with two of their names replaced.",
)
@click.option("--vocab", type=existing_file, help="GGUF whose tokenizer is used.")
@click.option("--curve", help="A name from curves.json or a JSON file.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write rows here.")
@click.option(
    "--traces-out",
    type=click.Path(path_type=Path),
    help="Measure nothing: write the edits here, for `replay`.",
)
@click.option(
    "--tree-out",
    type=click.Path(path_type=Path),
    help="With --traces-out: a new folder for the source before all edits.",
)
def command(
    repo: Path,
    revision: str,
    count: int,
    max_tokens: int,
    rename: str | None,
    vocab: Path | None,
    curve: str | None,
    json_file: Path | None,
    traces_out: Path | None,
    tree_out: Path | None,
) -> None:
    """Edit files of a project, by its history, with its own source as a datastore."""
    if tree_out is not None and traces_out is None:
        raise click.UsageError("--tree-out needs --traces-out")
    if traces_out is None and (vocab is None or curve is None):
        raise click.UsageError("give --vocab and --curve, or --traces-out")
    try:
        max_chars = CHARS_PER_TOKEN * max_tokens
        if rename is not None:
            found = list(renames(repo, revision, rename, count, max_chars))
        else:
            found = list(edits(repo, revision, count, max_chars))
        if not found:
            what = f"Python file in {rename}" if rename else "commit that changes a Python file,"
            raise ConfigError(f"{repo} has no {what} of a fitting size")
        if traces_out is not None:
            write_traces(found, traces_out)
            if tree_out is not None:
                write_tree(repo, found[-1].before, tree_out)
            click.echo(f"{len(found)} edits, each in two ways: {traces_out}")
        elif vocab is not None and curve is not None:
            _simulate(found, repo, vocab, curve, json_file)
    except (SSSDError, OSError) as error:
        raise click.ClickException(str(error)) from error


def _simulate(
    found: Sequence[Edit], repo: Path, vocab: Path, curve: str, json_file: Path | None
) -> None:
    costs, num_vocab = load_curve(curve), len(read_header(vocab).tokens)
    rows = measure(found, repo, vocabulary_tokenizer(vocab), num_vocab, costs)
    if json_file:
        content = {
            "curve": curve,
            "vocab": vocab.name,
            "rows": [asdict(row) for row in rows],
            "edits": [{"commit": edit.commit, "path": edit.path} for edit in found],
        }
        json_file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    click.echo(table(rows))


if __name__ == "__main__":
    command()
