"""`python -m bench edit`: files of a project edited with its source as a datastore, simulated.

Each edit is a commit of the project's own history that changed a file: the answer is the file as
it was afterwards, the datastore all source of the tree before it. The request shows the whole file
as it was (`shown`), so that the context knows most of the answer, or names it only (`named`).
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np

from bench.curves import Float64Array, load_curve
from bench.knowledge import CONTEXT_ALONE, Knowledge
from bench.options import existing_file
from bench.simulate import Replay
from bench.tally import Tally
from bench.traces import Tokenize, TokenTrace, vocabulary_tokenizer
from sssd_local.draft.calibrate import Calibration
from sssd_local.draft.datastore import Segment
from sssd_local.errors import ConfigError, SSSDError
from sssd_local.gguf_file import read_header
from sssd_local.store.order import context_order
from sssd_local.store.segment import join

REQUESTS = ("shown", "named")
SUFFIXES = (".py", ".md", ".toml")
MAX_TOKENS = 6000


@dataclass(frozen=True, slots=True)
class Edit:
    """A file before and after one commit, and what that commit says of itself."""

    commit: str
    path: str
    subject: str
    old: str
    new: str

    def request(self, kind: str) -> str:
        """What a user would ask for."""
        task = f"Change {self.path}: {self.subject}. Answer with the whole new file."
        return f"{task}\n\n{self.old}" if kind == "shown" else task


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


def git(repo: Path, *words: str) -> str:
    """What a git command prints. Raises ConfigError where it fails."""
    try:
        done = subprocess.run(
            ["git", "-C", str(repo), *words], capture_output=True, check=True, encoding="utf-8"
        )
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"git cannot be run in {repo}: {error}") from error
    except subprocess.CalledProcessError as error:
        raise ConfigError(f"git {words[0]} failed in {repo}: {error.stderr.strip()}") from error
    return done.stdout


def edits(repo: Path, revision: str, count: int, max_chars: int) -> Iterator[Edit]:
    """The newest commits up to `revision` and of each the Python file it changed most.

    Passed over: files of more than `max_chars`, and where less than half of the lines stayed.
    """
    found = 0
    for line in git(repo, "log", "--no-merges", "--format=%H %s", revision).splitlines():
        commit, _, subject = line.partition(" ")
        if found == count or not git(repo, "rev-list", "--parents", "-1", commit).split()[1:]:
            return
        path = _most_changed(repo, commit)
        if path is None:
            continue
        old, new = (git(repo, "show", f"{at}:{path}") for at in (f"{commit}^", commit))
        kept = len(set(old.splitlines()) & set(new.splitlines()))
        if len(new) <= max_chars and 2 * kept >= len(set(new.splitlines())):
            found += 1
            yield Edit(commit, path, subject, old, new)


def _most_changed(repo: Path, commit: str) -> str | None:
    stat = git(repo, "show", "--numstat", "--diff-filter=M", "--format=", commit, "--", "*.py")
    changes = [line.split("\t") for line in stat.splitlines()]
    sizes = {path: int(added) + int(gone) for added, gone, path in changes if added != "-"}
    return max(sizes, key=sizes.__getitem__, default=None)


def tree(repo: Path, commit: str) -> Iterator[str]:
    """The source texts of a commit."""
    for path in git(repo, "ls-tree", "-r", "--name-only", "-z", commit).split("\0"):
        if path.endswith(SUFFIXES):
            yield git(repo, "show", f"{commit}:{path}")


def knowledge(texts: Iterator[str], tokenize: Tokenize, num_vocab: int) -> Knowledge:
    """A datastore of some texts."""
    tokens = join([np.array(tokenize(text, False), np.int32) for text in texts], num_vocab)
    return Knowledge(segment=Segment(tokens, context_order(tokens, num_vocab)), num_vocab=num_vocab)


def measure(
    found: Sequence[Edit], repo: Path, tokenize: Tokenize, num_vocab: int, costs: Float64Array
) -> list[Row]:
    """Replays every edit without and with the tree before it; odds learn on as for a user."""
    stores = [knowledge(tree(repo, f"{edit.commit}^"), tokenize, num_vocab) for edit in found]
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
    prompt = tokenize(f"USER: {edit.request(kind)} ASSISTANT:", True)
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
@click.option("--vocab", required=True, type=existing_file, help="GGUF whose tokenizer is used.")
@click.option("--curve", required=True, help="A name from curves.json or a JSON file.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write rows here.")
def command(
    repo: Path, revision: str, count: int, vocab: Path, curve: str, json_file: Path | None
) -> None:
    """Edit files of a project, by its history, with its own source as a datastore."""
    try:
        costs = load_curve(curve)
        num_vocab = len(read_header(vocab).tokens)
        found = list(edits(repo, revision, count, 4 * MAX_TOKENS))
        if not found:
            raise ConfigError(f"{repo} has no commit that changes a small Python file")
        rows = measure(found, repo, vocabulary_tokenizer(vocab), num_vocab, costs)
        if json_file:
            content = {
                "curve": curve,
                "vocab": vocab.name,
                "rows": [asdict(row) for row in rows],
                "edits": [{"commit": edit.commit, "path": edit.path} for edit in found],
            }
            json_file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except (SSSDError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(table(rows))


if __name__ == "__main__":
    command()
