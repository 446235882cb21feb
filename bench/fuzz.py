"""Damaged GGUF files and hostile templates, tried in child processes: `python -m bench.fuzz`.

A case is a number: the same seed and number make the same damage. A child names each case before it
tries it, so a crash or a hang is the last one named; the parent then starts a child behind it.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import gguf

from bench.fuzz_templates import PIECES
from models import tiny
from sssd_local.errors import SSSDError

SECONDS = 5.0
WRITERS: dict[str, Callable[..., Path]] = {
    "llama": tiny.write_tiny_llama,
    "moe": tiny.write_tiny_moe,
    "gemma": tiny.write_tiny_gemma,
    "mamba": tiny.write_tiny_mamba,
    "lfm2": tiny.write_tiny_lfm2,
    "gpt2": tiny.write_tiny_gpt2,
}
EXTREMES = (
    0,
    1,
    2,
    3,
    5,
    7,
    255,
    2**15,
    2**16,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**60,
    2**63,
    2**64 - 1,
)


@dataclass(frozen=True, slots=True)
class Place:
    """A number in a header: where it is, how wide and what for; `value` if it is no structure."""

    offset: int
    width: int
    what: str
    value: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """A case that did something else than to answer or to refuse in one line."""

    case: int
    outcome: str
    detail: str


def header_places(path: Path) -> tuple[list[Place], int]:
    """The numbers of a file's header, and where its weights begin."""
    reader = gguf.GGUFReader(path)
    places = [Place(4, 4, "version")]
    for field in reader.fields.values():
        offset = field.offset
        if field.name.startswith("GGUF."):
            places.append(Place(field.offset, int(field.parts[0].nbytes), field.name))
            continue
        for part in field.parts[: 8 if len(field.parts) < 64 else 24]:
            if part.nbytes in (1, 2, 4, 8):
                is_value = part is field.parts[-1] or len(field.parts) > 8
                places.append(Place(offset, int(part.nbytes), field.name, is_value))
            offset += int(part.nbytes)
    for tensor in reader.tensors:
        offset = tensor.field.offset
        for part in tensor.field.parts:
            for item in range(part.size if part.dtype.itemsize > 1 else 0):
                place = offset + item * part.dtype.itemsize
                places.append(Place(place, part.dtype.itemsize, tensor.name))
            offset += int(part.nbytes)
    return places, int(reader.data_offset)


def damage(data: bytearray, places: list[Place], start: int, rng: random.Random) -> str:
    """Damages a file's bytes in place and says how."""
    kind = rng.choice((*["value"] * 8, "text", "number", "number", "flip", "flip", "cut", "copy"))
    if kind == "cut":
        end = rng.randrange(start if rng.random() < 0.7 else len(data))
        del data[end:]
        return f"cut at {end}"
    start = min(start, len(data))
    places = [place for place in places if place.offset + place.width <= start]
    if start < 200 or not places:
        return "nothing left to damage"
    if kind == "flip":
        spots = [rng.randrange(4, start) for _ in range(rng.choice((1, 1, 2, 8, 64)))]
        for spot in spots:
            data[spot] ^= 1 << rng.randrange(8)
        return f"bits flipped at {spots[:4]}"
    if kind == "copy":
        size = rng.randrange(1, 64)
        source, target = (rng.randrange(4, start - size) for _ in range(2))
        data[target : target + size] = data[source : source + size]
        return f"{size} bytes copied from {source} to {target}"
    values = [place for place in places if place.value]
    if kind == "text":
        place = rng.choice(places)
        text = rng.randbytes(rng.choice((1, 4, 12)))
        data[place.offset + place.width : place.offset + place.width + len(text)] = text
        return f"{text!r} after {place.what} at {place.offset}"
    place = rng.choice(values if values and kind == "value" else places)
    old = int.from_bytes(data[place.offset : place.offset + place.width], "little")
    near = (old + 1, old - 1, old * 2, old // 2, old + 256, -old, rng.randrange(64))
    new = rng.choice(EXTREMES if rng.random() < 0.4 else near) % 2 ** (8 * place.width)
    data[place.offset : place.offset + place.width] = new.to_bytes(place.width, "little")
    return f"{place.what} at {place.offset}: {old} -> {new}"


class ModelCases:
    """Damaged tiny models of every kind; a case loads one and lets it answer."""

    def __init__(self, seed: int, folder: Path, models: Sequence[Path] = ()) -> None:
        self._seed, self._file = seed, folder / f"case-{os.getpid()}.gguf"
        self._kinds: list[tuple[str, bytes, list[Place], int]] = []
        files = {path.name: path for path in models} or {
            kind: write(folder / f"{os.getpid()}-{kind}.gguf", num_tokens=300)
            for kind, write in WRITERS.items()
        }
        for kind, path in files.items():
            places, start = header_places(path)
            self._kinds.append((kind, path.read_bytes(), places, start))

    def run(self, case: int) -> str:
        """Tries a case; returns what was done to the file. Raises what the package raises."""
        from sssd_local.llm import LLM

        rng = random.Random(f"{self._seed}/{case}")
        kind, original, places, start = rng.choice(self._kinds)
        data = bytearray(original)
        done = [damage(data, places, start, rng) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
        self._file.write_bytes(data)
        report(f"{kind}: {'; '.join(done)}")
        from sssd_local.gguf_info import describe

        describe(self._file, (512,))
        options: dict[str, Any] = {"kv_type": rng.choice(("f16", "f16", "f32", "q8_0"))}
        with LLM(self._file, ctx=64, threads=1, speculation=4, **options) as llm:
            llm.chat([{"role": "user", "content": "the rain é"}], max_tokens=6, temperature=0)
        return kind


class TemplateCases:
    """Damaged and hostile chat templates, rendered as `run` would."""

    def __init__(self, seed: int, folder: Path, models: Sequence[Path] = ()) -> None:
        self._seed = seed

    def run(self, case: int) -> str:
        """Renders a template made from `case`."""
        from sssd_local.chat.template import ChatTemplate

        rng = random.Random(f"{self._seed}/t{case}")
        if rng.random() < 0.4:
            text = list(tiny.CHAT_TEMPLATE * rng.choice((1, 1, 2)))
            for _ in range(rng.choice((1, 2, 5, 20))):
                spot = rng.randrange(len(text))
                text[spot] = rng.choice((chr(rng.randrange(128)), chr(rng.randrange(0x3000)), ""))
            source = "".join(text)
        else:
            source = "".join(rng.choice(PIECES) for _ in range(rng.choice((1, 2, 3, 5, 9))))
        report(repr(source)[:300])
        messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}]
        ChatTemplate(source, bos="<s>", eos="</s>").render(messages)
        return "template"


CASES: dict[str, Callable[[int, Path, Sequence[Path]], Any]] = {
    "models": ModelCases,
    "templates": TemplateCases,
}


def report(text: str) -> None:
    """Tells the parent what the case is."""
    print(json.dumps(["what", text]), flush=True)


def child(kind: str, seed: int, first: int, last: int, models: Sequence[Path]) -> None:
    """Runs cases and prints a JSON line before and after each."""
    with tempfile.TemporaryDirectory() as name:
        cases = CASES[kind](seed, Path(name), models)
        for case in range(first, last):
            print(json.dumps(["start", case]), flush=True)
            try:
                cases.run(case)
                outcome, detail = "answered", ""
            except SSSDError as error:
                outcome, detail = "refused", str(error)
                if "\n" in detail:
                    outcome = "many lines"
            except (Exception, SystemExit) as error:  # noqa: BLE001 - that is what is looked for
                outcome, detail = "traceback", f"{type(error).__name__}: {error}"
            print(json.dumps(["end", outcome, detail[:300]]), flush=True)


def run_cases(
    kind: str, seed: int, first: int, last: int, models: Sequence[Path] = ()
) -> Iterator[Finding]:
    """The outcome of every case from `first` to before `last`, in order."""
    while first < last:
        for finding in _one_child(kind, seed, first, last, models):
            first = finding.case + 1
            yield finding


def _one_child(
    kind: str, seed: int, first: int, last: int, models: Sequence[Path]
) -> Iterator[Finding]:
    arguments = [kind, str(seed), str(first), str(last), *map(str, models)]
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.fuzz", "child", *arguments],
            stdout=subprocess.PIPE, stderr=complaints, text=True,
            # Else ggml calls a debugger before it aborts.
            env={**os.environ, "GGML_NO_BACKTRACE": "1"},
        )  # fmt: skip
        assert process.stdout is not None
        killed = threading.Event()

        def kill() -> None:
            killed.set()
            process.kill()

        case, what, printed = first, "", ""
        # The first case waits for Python's imports too.
        timer = _timer(6 * SECONDS, kill)
        for line in process.stdout:
            try:
                message = json.loads(line)
            except ValueError:
                printed = line
                continue
            if message[0] == "start":
                case, what = message[1], ""
                timer.cancel()
                timer = _timer(SECONDS if case > first else 6 * SECONDS, kill)
            elif message[0] == "what":
                what = message[1]
            else:
                yield Finding(case, message[1], f"{what} => {message[2]}")
                case += 1
        timer.cancel()
        code = process.wait()
        if case < last:
            complaints.seek(0)
            last_words = complaints.read().decode("utf-8", "replace").strip().splitlines()
            words = next((w for w in last_words if "ASSERT" in w or "what():" in w), "")
            outcome = "hang" if killed.is_set() else f"crash {code}"
            words = words or " ".join([printed.strip(), *last_words[-3:]])[-300:]
            yield Finding(case, outcome, f"{what} => {words}")


def _timer(seconds: float, call: Callable[[], None]) -> threading.Timer:
    timer = threading.Timer(seconds, call)
    timer.daemon = True
    timer.start()
    return timer


GOOD = frozenset({"answered", "refused"})


@click.group()
def main() -> None:
    """Looks for files and templates that crash, hang or print a traceback."""


@main.command()
@click.argument("kind", type=click.Choice(list(CASES)))
@click.option("--cases", default=2000, show_default=True, type=click.IntRange(1))
@click.option("--seed", default=0, show_default=True)
@click.option("--first", default=0, show_default=True)
@click.option("--model", "models", multiple=True, type=click.Path(exists=True, path_type=Path),
              help="Damage this file instead of tiny models; repeatable.")  # fmt: skip
def run(kind: str, cases: int, seed: int, first: int, models: tuple[Path, ...]) -> None:
    """Tries that many cases; exit 1 when one is bad."""
    counts: Counter[str] = Counter()
    for finding in run_cases(kind, seed, first, first + cases, models):
        counts[finding.outcome] += 1
        if finding.outcome not in GOOD:
            click.echo(f"{finding.case} {finding.outcome}: {finding.detail}")
    click.echo(json.dumps(counts))
    sys.exit(0 if set(counts) <= GOOD else 1)


@main.command("child", hidden=True)
@click.argument("kind")
@click.argument("seed", type=int)
@click.argument("first", type=int)
@click.argument("last", type=int)
@click.argument("models", nargs=-1, type=click.Path(path_type=Path))
def child_command(kind: str, seed: int, first: int, last: int, models: tuple[Path, ...]) -> None:
    """Runs cases for the parent."""
    child(kind, seed, first, last, models)


if __name__ == "__main__":
    main()
