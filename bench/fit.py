"""Fits the shipped weights of evidence (sssd_local/draft/priors.py) to recorded answers.

At every position of every answer the candidates and the token that came are known, so the weights
are a multinomial logistic regression with the escape "none of the candidates" at score 0: the
log-likelihood is concave, and a few hundred steps of Adam on all positions reach its maximum.

The context's weights are fitted first, to answers with nothing else known. Then they stay as they
are, so that other evidence changes nothing where there is none, and what it adds is fitted one kind
at a time: where an answer returns to the passage it copies, earlier text to the answers of a file
one after another, stores to each half of a file's answers with those of the other half stored,
runner-ups to answers that have them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from bench.knowledge import CONTEXT_ALONE, Knowledge
from bench.traces import TokenTrace, load_traces
from sssd_local.draft.calibrate import ALONE_TABLES, ONLY_PRIOR, shipped_weights
from sssd_local.draft.cells import (
    ALIGNMENT_TABLES,
    CONTEXT_TABLES,
    FIRST_HELPER,
    HELPER_TABLES,
    KEPT_TABLES,
    NUM_HELPERS,
    OFFSETS,
    TABLE_SIZES,
    Cells,
)
from sssd_local.draft.drafter import Drafter
from sssd_local.draft.expansion import Expansion
from sssd_local.draft.tree import TokenSource, empty_tree
from sssd_local.errors import SSSDError

Float64Array = NDArray[np.float64]

# The weights of evidence come first of all.
NUM_FITTED = OFFSETS["trust"]
# Two other sources at a time add to the context's, and all three ways of returning.
NUM_CELLS = 16
PRIORS_FILE = Path(__file__).parents[1] / "sssd_local" / "draft" / "priors.py"
DECIMALS = 100
# What is fitted, in this order: the tables of the context, or the part of another source.
TABLES = {"context": CONTEXT_TABLES, "return": ALIGNMENT_TABLES}
HELPERS = {
    kind.label: kind for kind in (TokenSource.EARLIER, TokenSource.DATASTORE, TokenSource.RECYCLE)
}
STAGES = (*TABLES, *HELPERS)
# A node that no draft has: the root's candidates are still to be learned from.
_ASIDE = -2
# So many tokens after a return are looked at.
MAX_RETURNED = 24


@dataclass(frozen=True, slots=True)
class Labels:
    """Labelled candidates: `cells` int32 [n, NUM_CELLS] (NUM_FITTED = no weight), `right` float64
    [n], `starts` int64 [positions] where each position's candidates begin, `weight` float64
    [positions]."""

    cells: NDArray[np.int32]
    right: Float64Array
    starts: NDArray[np.int64]
    weight: Float64Array


def collect(traces: Sequence[TokenTrace], knowledge: Knowledge = CONTEXT_ALONE) -> Labels:
    """All candidates at all positions of the answers, and for long copies how they went on."""
    rows: list[list[int]] = []
    right: list[bool] = []
    starts: list[int] = []

    def label(found: Expansion, token: int) -> None:
        starts.append(len(rows))
        rows.extend(_evidence(cells) for cells in found.cells)
        right.extend(candidate == token for candidate in found.tokens)

    drafter = knowledge.new_drafter(max_nodes=64)
    for trace in traces:
        if not knowledge.keep:
            drafter.reset()
        drafter.sync(np.array(trace.prompt, np.int32))
        for position, token in enumerate(trace.answer):
            found = drafter.expand(-1, drafter.context.recent(), 0)
            if found.tokens:
                label(found, token)
                best = max(range(len(found.tokens)), key=found.sizes.__getitem__)
                run = _run(drafter, found, best)
                if run is not None:
                    label(run, token)
                for run, following in _returned(drafter, found, trace.answer[position:]):
                    label(run, following)
            ups = (
                trace.runner_ups[position : position + 1] if trace.runner_ups is not None else None
            )
            drafter.observe(empty_tree(), [], [token], ups)
    return Labels(
        np.array(rows, np.int32).reshape(-1, NUM_CELLS),
        np.array(right, np.float64),
        np.array(starts, np.int64),
        np.ones(len(starts)),
    )


def _evidence(cells: Cells) -> list[int]:
    """The cells that are fitted, filled up to NUM_CELLS."""
    fitted = [cell for cell in cells if cell < NUM_FITTED]
    return fitted + [NUM_FITTED] * (NUM_CELLS - len(fitted))


def _run(drafter: Drafter, found: Expansion, index: int) -> Expansion | None:
    """The candidate as the next token of a long copy."""
    text, position = found.texts[index], found.positions[index]
    if text is None or not isinstance(text, memoryview):
        return None
    if text is drafter.context.tokens and position >= len(drafter.context):
        return None
    kind = found.sources[index] if text is not drafter.context.tokens else TokenSource.PROMPT
    return drafter.expand_run(_ASIDE, text, kind, position, found.sizes[index], 0)


def _returned(
    drafter: Drafter, found: Expansion, answer: Sequence[int]
) -> Iterator[tuple[Expansion, int]]:
    """What is copied on after a return that came true, up to the first wrong token."""
    for token, size, text, kind in zip(
        found.tokens, found.sizes, found.texts, found.sources, strict=True
    ):
        if size >= 0 or token != answer[0] or not isinstance(text, list):
            continue
        for index in range(1, min(len(text), len(answer), MAX_RETURNED)):
            run = drafter.expand_run(_ASIDE, text, kind, index, size - index, text[index - 1])
            yield run, answer[index]
            if text[index] != answer[index]:
                break


def join(parts: Sequence[Labels]) -> Labels:
    """One set of labels from several."""
    offsets = np.cumsum([0, *[len(part.right) for part in parts[:-1]]])
    return Labels(
        np.concatenate([part.cells for part in parts]),
        np.concatenate([part.right for part in parts]),
        np.concatenate([part.starts + at for part, at in zip(parts, offsets, strict=True)]),
        np.concatenate([part.weight for part in parts]),
    )


def balance(parts: Sequence[Labels], power: float = 0.5) -> list[Labels]:
    """The same labels with weights between equal positions (0) and equal files (1)."""
    sizes = np.array([len(part.starts) for part in parts], np.float64)
    scale = (sizes.mean() / sizes) ** power
    return [
        replace(part, weight=np.full(len(part.starts), factor))
        for part, factor in zip(parts, scale, strict=True)
    ]


def loss(labels: Labels, weights: Float64Array) -> tuple[float, Float64Array]:
    """Negative log-likelihood summed over positions, and its derivative by each weight."""
    scores = np.append(weights, 0.0)[labels.cells].sum(axis=1)
    sizes = np.diff(np.append(labels.starts, len(scores)))
    odds = np.exp(scores)
    scale = 1.0 / (1.0 + np.add.reduceat(odds, labels.starts))
    probs = odds * np.repeat(scale, sizes)
    hit = np.add.reduceat(labels.right * scores, labels.starts)
    total = -float((labels.weight * (hit + np.log(scale))).sum())
    error = (probs - labels.right) * np.repeat(labels.weight, sizes)
    slope = np.bincount(labels.cells.ravel(), np.repeat(error, NUM_CELLS), minlength=NUM_FITTED + 1)
    return total, slope[:NUM_FITTED].astype(np.float64)


def fit(
    labels: Labels,
    start: Float64Array,
    free: NDArray[np.bool_],
    *,
    steps: int = 300,
    ridge: float = 10.0,
) -> Float64Array:
    """The weights of least loss plus ridge/2 · |weights − start|², float64 [NUM_FITTED], by Adam.

    Weights that are not `free` stay at `start`.
    """
    weights = start.copy()
    mean, spread = np.zeros(NUM_FITTED), np.zeros(NUM_FITTED)
    for step in range(1, steps + 1):
        slope = (loss(labels, weights)[1] + ridge * (weights - start)) * free
        mean += 0.1 * (slope - mean)
        spread += 0.01 * (slope * slope - spread)
        rate = 0.1 * min(1.0, 3.0 * (1.0 - step / (steps + 1)))
        size = np.sqrt(spread / (1.0 - 0.99**step)) + 1e-9
        weights -= rate * mean / (1.0 - 0.9**step) / size
    return weights


def blank() -> Float64Array:
    """The weights before any fit: only what is assumed of sources nothing is known of."""
    weights = np.array(shipped_weights()[:NUM_FITTED])
    for name in KEPT_TABLES:
        weights[_part(name)] = ONLY_PRIOR if name in ALONE_TABLES else 0.0
    return weights


def table_weights(names: Sequence[str]) -> NDArray[np.bool_]:
    """Which weights are in these tables, bool [NUM_FITTED]."""
    free = np.zeros(NUM_FITTED, np.bool_)
    for name in names:
        free[_part(name)] = True
    return free


def helper_weights(kind: TokenSource) -> NDArray[np.bool_]:
    """Which weights judge another source, bool [NUM_FITTED]."""
    free = np.zeros(NUM_FITTED, np.bool_)
    for name in HELPER_TABLES:
        size = TABLE_SIZES[name] // NUM_HELPERS
        first = OFFSETS[name] + (kind - FIRST_HELPER) * size
        free[first : first + size] = True
    return free


def stage_weights(stage: str) -> NDArray[np.bool_]:
    """Which weights a stage fits, bool [NUM_FITTED]."""
    return helper_weights(HELPERS[stage]) if stage in HELPERS else table_weights(TABLES[stage])


def _part(name: str) -> slice:
    return slice(OFFSETS[name], OFFSETS[name] + TABLE_SIZES[name])


def collect_for(kind: TokenSource | None, traces: Sequence[TokenTrace]) -> list[Labels]:
    """Labels of a file's answers with what another source can know of them; [] if nothing.

    None: with nothing else known.
    """
    if kind is None:
        return [collect(traces, Knowledge(recycle=False))]
    if kind is TokenSource.RECYCLE:
        known = [trace for trace in traces if trace.runner_ups is not None]
        return [collect(known, Knowledge(keep=keep)) for keep in (False, True)] if known else []
    if kind is TokenSource.EARLIER:
        return [collect(traces, Knowledge(keep=True, recycle=False))]
    halves = traces[::2], traces[1::2]
    return [
        collect(half, Knowledge(recycle=False).with_datastore(other))
        for half, other in (halves, halves[::-1])
        if half and other
    ]


def fit_stage(
    stage: str, free: NDArray[np.bool_], found: dict[str, list[Labels]], start: Float64Array
) -> Float64Array:
    """The weights after fitting the `free` ones to the labels found in each file.

    Tells the loss of each file before, under weights fitted to all others, and to all.
    """
    names = [name for name, labels in found.items() if labels]
    if not names:
        return start
    parts = balance([join(found[name]) for name in names])
    everything = fit(join(parts), start, free)
    for index, name in enumerate(names):
        part = parts[index]
        rest = parts[:index] + parts[index + 1 :]
        others = fit(join(rest), start, free) if rest else start
        each = [
            loss(part, weights)[0] / part.weight.sum() for weights in (start, others, everything)
        ]
        click.echo(
            f"{stage}, {name}: {len(part.starts)} positions, nats each "
            f"{each[0]:.4f} before, {each[1]:.4f} fitted without it, {each[2]:.4f} with it"
        )
    return everything


def tables(weights: Float64Array) -> dict[str, list[int]]:
    """The fitted weights by table, in hundredths, as they are shipped."""
    return {
        name: np.rint(weights[_part(name)] * DECIMALS).astype(int).tolist() for name in KEPT_TABLES
    }


def write_priors(weights: Float64Array, path: Path) -> None:
    """Writes the table file."""
    lines = [
        '"""Shipped weights of evidence, hundredths of log-odds; generated by bench/fit.py."""',
        "",
        "# fmt: off",
        "WEIGHTS: dict[str, list[int]] = {",
    ]
    for name, values in tables(weights).items():
        lines.append(f'    "{name}": [')
        for start in range(0, len(values), 15):
            row = ", ".join(str(value) for value in values[start : start + 15])
            lines.append(f"        {row},")
        lines.append("    ],")
    path.write_text("\n".join([*lines, "}", ""]), encoding="utf-8")


def fit_stages(
    stages: Sequence[str],
    texts: dict[str, list[TokenTrace]],
    recorded: dict[str, list[TokenTrace]],
) -> Float64Array:
    """The shipped weights, with those of the stages fitted anew, in the order of STAGES.

    Those of all these stages are blank at first, so that what is shipped leaves no trace in them.
    """
    weights, at_first = np.array(shipped_weights()[:NUM_FITTED]), blank()
    chosen = {stage: stage_weights(stage) for stage in STAGES if stage in stages}
    for free in chosen.values():
        weights[free] = at_first[free]
    for stage, free in chosen.items():
        kind = HELPERS.get(stage)
        group = recorded if kind is TokenSource.RECYCLE else texts
        found = {name: collect_for(kind, traces) for name, traces in group.items()}
        weights = fit_stage(stage, free, found, weights)
        if kind is TokenSource.DATASTORE:
            # What users wrote and what they stored are told apart by what is learned, not at first.
            weights[helper_weights(TokenSource.MEMORY)] = weights[free]
    return weights


@click.command("fit")
@click.argument("files", nargs=-1, required=True)
@click.option("--output", type=click.Path(path_type=Path), default=PRIORS_FILE)
@click.option(
    "--stage",
    "stages",
    type=click.Choice(STAGES),
    multiple=True,
    help="Fit only this; what others fit stays as it is shipped. Repeatable.",
)
@click.option("--dry-run", is_flag=True, help="Report the losses, write nothing.")
def command(files: tuple[str, ...], output: Path, stages: tuple[str, ...], dry_run: bool) -> None:
    """Fit the shipped weights to FILES: TRACES.jsonl=VOCAB.gguf or, with runner-ups, ANSWERS.npz.

    Runner-ups are fitted to the answers that have them, all else to those that have none. Reports
    the loss of each file under weights fitted to all others, and to all files.
    """
    try:
        texts: dict[str, list[TokenTrace]] = {}
        recorded: dict[str, list[TokenTrace]] = {}
        for item in files:
            name, _, vocab = item.partition("=")
            group = recorded if name.endswith(".npz") else texts
            group[Path(name).stem] = load_traces([Path(name)], Path(vocab) if vocab else None)
        weights = fit_stages(stages or STAGES, texts, recorded)
        if not dry_run:
            write_priors(weights, output)
    except (SSSDError, OSError) as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    command()
