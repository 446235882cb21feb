"""What a replay benchmark found: speed-ups, a table, the machine, and the files that keep them."""

from __future__ import annotations

import csv
import datetime
import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.limit import Limit
from bench.plots import can_plot, plot_against_limit, plot_by_task
from bench.replay import Result
from sssd_local import __version__

BASELINE = "plain"


def baseline_of(methods: Sequence[str]) -> str:
    """What methods are compared with: plain decoding, or the first method where it is not run."""
    return BASELINE if BASELINE in methods else methods[0]


def summary(results: Sequence[Result]) -> dict[str, dict[str, Any]]:
    """Speed-ups of each method over the baseline on the same texts.

    Per task and in total Σ baseline seconds ÷ Σ method seconds; the geometric mean is over
    traces, so there a short answer counts as much as a long one.
    """
    methods = list(dict.fromkeys(result.method for result in results))
    if not methods:
        return {}
    by_method = {name: [r for r in results if r.method == name] for name in methods}
    base = by_method[baseline_of(methods)]
    return {name: _speedups(base, mine) for name, mine in by_method.items()}


def _speedups(base: Sequence[Result], mine: Sequence[Result]) -> dict[str, Any]:
    pairs = list(zip(base, mine, strict=True))
    tasks = dict.fromkeys(result.task for result in mine)
    per_task = {task: _ratio([pair for pair in pairs if pair[1].task == task]) for task in tasks}
    logs = [math.log(plain.seconds / other.seconds) for plain, other in pairs]
    return {
        "total_speedup": _ratio(pairs),
        "geomean_speedup": math.exp(math.fsum(logs) / len(logs)),
        "worst_task_speedup": min(per_task.values()),
        "per_task": per_task,
        "identical": all(result.identical for result in mine),
    }


def _ratio(pairs: Sequence[tuple[Result, Result]]) -> float:
    plain = math.fsum(base.seconds for base, _ in pairs)
    return plain / math.fsum(mine.seconds for _, mine in pairs)


def table(results: Sequence[Result]) -> str:
    """A markdown table: a row per task, the speed-up of each method, and the totals."""
    sums = summary(results)
    if not sums:
        return "No trace was run.\n"
    base = baseline_of(list(sums))
    mine = [result for result in results if result.method == base]
    rows = [
        ["task", "traces", "tokens", f"{base} tok/s", *sums],
        ["---", *["---:"] * (3 + len(sums))],
    ]
    for task in dict.fromkeys(result.task for result in mine):
        here = [result for result in mine if result.task == task]
        rows.append([*_sizes(task, here), *(_times(s["per_task"][task]) for s in sums.values())])
    rows.append([*_sizes("**total**", mine), *(_times(s["total_speedup"]) for s in sums.values())])
    for label, key in (("geometric mean", "geomean_speedup"), ("worst task", "worst_task_speedup")):
        rows.append([label, "", "", "", *(_times(s[key]) for s in sums.values())])
    exact = ("yes" if s["identical"] else "**NO**" for s in sums.values())
    rows.append(["identical output", "", "", "", *exact])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _sizes(label: str, results: Sequence[Result]) -> list[str]:
    tokens = sum(result.tokens for result in results)
    seconds = math.fsum(result.seconds for result in results)
    return [label, str(len(results)), str(tokens), f"{(tokens - len(results)) / seconds:.1f}"]


def _times(speedup: float) -> str:
    return f"{speedup:.2f}"


def machine() -> dict[str, Any]:
    """The processor, the system and the versions that a time depends on."""
    import llama_cpp

    features = llama_cpp.llama_print_system_info()
    return {
        "processor": processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "sssd_local": __version__,
        "llama_cpp_python": version("llama-cpp-python"),
        "llama_cpp": features.decode() if features else "",
    }


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name as its maker gives it, where the system tells."""
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def write_report(
    folder: Path, results: Sequence[Result], settings: Mapping[str, Any], limit: Limit
) -> list[Path]:
    """Writes results.json, .md and .csv into a folder, and the plots where matplotlib is there.

    `settings` join the machine's facts and the date. Returns the files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"date": datetime.date.today().isoformat(), **machine(), **settings}
    sums = summary(results)
    data = {
        "runs": [asdict(result) for result in results],
        "summary": sums,
        "limit": limit.as_dict(),
        "machine": facts,
    }
    as_json, as_text = folder / "results.json", folder / "results.md"
    as_json.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    lines = "".join(f"- {key}: {value}\n" for key, value in facts.items())
    text = f"{table(results)}\nThe machine's limit: {limit.line()}.\n\n{lines}"
    as_text.write_text(text, encoding="utf-8")
    written = [as_json, as_text, write_csv(folder / "results.csv", results)]
    if can_plot() and results:
        written += plot_by_task(sums, limit.speedup, folder / "by-task")
        written += plot_against_limit(speed_points(results), limit, folder / "limit")
    return written


def write_csv(path: Path, results: Sequence[Result]) -> Path:
    """A row per run, the fields of Result as columns."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [item.name for item in fields(Result)])
        writer.writeheader()
        writer.writerows(asdict(result) for result in results)
    return path


def speed_points(results: Sequence[Result]) -> dict[str, list[tuple[float, float]]]:
    """For each method and, in it, each task: tokens per step and speed-up."""
    sums = summary(results)
    points: dict[str, list[tuple[float, float]]] = {}
    for method, found in sums.items():
        for task, speedup in found["per_task"].items():
            here = [r for r in results if (r.method, r.task) == (method, task)]
            steps = sum(result.steps for result in here)
            tokens = sum(result.tokens - 1 for result in here)
            points.setdefault(method, []).append((tokens / max(1, steps), speedup))
    return points
