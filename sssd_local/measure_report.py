"""What `sssd-local bench` tells: a markdown table, sentences, CSV, JSON and a plot."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from sssd_local.errors import SSSDError
from sssd_local.measure import AUTO, OFF, Measurement, Run
from sssd_local.plot import new_figure


def table(found: Measurement) -> str:
    """A markdown table: a row per kind of prompt and one for all; "" when nothing was compared."""
    if not found.compared:
        return ""
    rows = [
        ["prompts", "tokens", "off, tok/s", "auto, tok/s", "speed-up", "accepted"],
        ["---", *["---:"] * 5],
        *(_row(found, kind, found.of_kind(kind)) for kind in found.kinds()),
    ]
    if len(found.kinds()) > 1:
        rows.append(_row(found, "**all**", found.compared))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _row(found: Measurement, label: str, prompts: Sequence[int]) -> list[str]:
    tested, accepted = found.acceptance(prompts)
    return [
        label.replace("|", "\\|"),
        str(sum(map(found.num_tokens, prompts))),
        f"{found.tokens_per_second(prompts, OFF):.1f}",
        f"{found.tokens_per_second(prompts, AUTO):.1f}",
        f"{found.speedup(prompts):.2f}",
        f"{100 * accepted / tested:.0f} %" if tested else "–",
    ]


def sentences(found: Measurement) -> list[str]:
    """The verdict, the machine's limit, whether outputs are equal, and what was left out."""
    told = [found.verdict()]
    if found.limit is not None and not found.note:
        told.append(
            f"Drafts that always came true would bring {found.limit:.2f} times on this machine."
        )
    told += _equality(found)
    for number, reason in found.skipped.items():
        told.append(f"Prompt {number + 1} ({found.prompts[number].kind}) was left out: {reason}.")
    return told


def _equality(found: Measurement) -> list[str]:
    num_answers = len({run.prompt for run in found.runs})
    if not num_answers:
        return []
    equal = num_answers - len(found.differences)
    told = [f"Answers with and without speculation are the same for {equal} of {num_answers}."]
    for difference in found.differences:
        where = f"Prompt {difference.prompt + 1} differs after {difference.position} tokens"
        tie = difference.tie
        if tie is None:
            told.append(f"{where}: one answer ends there. Please report this.")
            continue
        how = (
            f"the two tokens' logits differ by {tie.gap:.2g}, and logits of this text move by up "
            f"to {tie.noise:.2g} with how llama.cpp evaluates it"
        )
        end = "a tie" if difference.is_explained else "no tie was seen. Please report this"
        told.append(f"{where}: {how}: {end}.")
    return told


def as_dict(found: Measurement) -> dict[str, Any]:
    """All figures, ready for JSON; no text of prompts or answers."""
    return {
        "speedup": found.speedup(found.compared) if found.compared else None,
        "per_kind": {kind: found.speedup(found.of_kind(kind)) for kind in found.kinds()},
        "limit": found.limit,
        "note": found.note,
        "verdict": found.verdict(),
        "runs": [asdict(run) for run in found.runs],
        "differences": [
            asdict(item) | {"explained": item.is_explained} for item in found.differences
        ],
        "skipped": {str(number): reason for number, reason in found.skipped.items()},
    }


def write_csv(path: Path, found: Measurement) -> None:
    """A row per answer, the fields of Run as columns."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [item.name for item in fields(Run)])
        writer.writeheader()
        writer.writerows(asdict(run) for run in found.runs)


def write_plot(path: Path, found: Measurement) -> None:
    """Tokens per second by kind of prompt, off beside auto, with the speed-up on top.

    Raises SSSDError when nothing was compared.
    """
    if not found.compared:
        raise SSSDError("there is nothing to plot: no prompt was answered both ways")
    groups = [(kind, found.of_kind(kind)) for kind in found.kinds()]
    if len(groups) > 1:
        groups.append(("all", found.compared))
    figure, axes = new_figure(1.6 + 1.3 * len(groups), 4.0)
    for place, (speculation, colour) in enumerate(((OFF, "0.6"), (AUTO, "#0072b2"))):
        heights = [found.tokens_per_second(prompts, speculation) for _, prompts in groups]
        places = [number + 0.4 * place - 0.2 for number in range(len(groups))]
        bars = axes.bar(places, heights, width=0.38, color=colour, label=speculation)
    axes.bar_label(bars, [f"{found.speedup(prompts):.2f}×" for _, prompts in groups], padding=2)
    axes.set_xticks(range(len(groups)), [kind for kind, _ in groups])
    axes.set_ylabel("tokens per second, decoding")
    axes.margins(y=0.12)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.legend(title="speculation", loc="outside right upper", frameon=False)
    figure.savefig(path, dpi=150)
