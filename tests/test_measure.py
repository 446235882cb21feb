"""Speculation off against auto: what is measured, what it comes to, and how it is told."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from sssd_local import measure as measuring
from sssd_local.call import Completion
from sssd_local.draft.calibrate import Calibration
from sssd_local.engine.ties import Tie
from sssd_local.errors import ConfigError, SSSDError
from sssd_local.llm import LLM
from sssd_local.measure import (
    AUTO,
    OFF,
    Difference,
    Measurement,
    Prompt,
    Run,
    measure,
    read_prompts,
)
from sssd_local.measure_report import (
    as_dict,
    sentences,
    table,
    write_csv,
    write_plot,
)

PROMPTS = [Prompt("chat", "Hello"), Prompt("JSON", "A list"), Prompt("JSON", "Another")]


def run(prompt: int, speculation: str, ms: float, tokens: int = 11, number: int = 0) -> Run:
    tested, accepted = (8, 4) if speculation == AUTO else (0, 0)
    kind = PROMPTS[prompt].kind
    return Run(prompt, kind, speculation, number, tokens, ms, 10, tested, accepted)


def made_up() -> Measurement:
    """Chat 100 to 80 ms, JSON 200 to 100 ms (an outlier in the first of three rounds)."""
    found = Measurement(PROMPTS)
    for number, odd in enumerate((900.0, 200.0, 190.0)):
        found.runs += [run(0, OFF, 100.0, number=number), run(0, AUTO, 80.0, number=number)]
        found.runs += [run(1, OFF, odd, number=number), run(1, AUTO, 100.0, number=number)]
    return found


def test_the_built_in_prompts_are_of_four_kinds() -> None:
    prompts = read_prompts(None)
    assert list(dict.fromkeys(prompt.kind for prompt in prompts)) == [
        "chat",
        "code edit",
        "summarise",
        "JSON",
    ]
    assert len(prompts) == len({prompt.text for prompt in prompts}) == 8


def test_the_embedded_model_has_prompts_of_its_own(tmp_path: Path) -> None:
    model = Path(measuring.__file__).parent / "data" / "tiny.gguf"
    own = read_prompts(None, model)
    assert {"code edit", "JSON", "quote", "sums", "talk"} <= {prompt.kind for prompt in own}
    assert read_prompts(None, tmp_path / "tiny.gguf") == read_prompts(None)
    path = tmp_path / "prompts.json"
    path.write_text('["one"]', "utf-8")
    assert read_prompts(path, model) == [Prompt("prompts", "one")]


def test_prompts_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text('{"mails": ["Dear", "Sir"], "poems": ["Roses"]}', encoding="utf-8")
    assert read_prompts(path) == [
        Prompt("mails", "Dear"),
        Prompt("mails", "Sir"),
        Prompt("poems", "Roses"),
    ]
    path.write_text('["one"]', encoding="utf-8")
    assert read_prompts(path) == [Prompt("prompts", "one")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("{}", "must be a list of texts, or lists by kind"),
        ("[]", "must be a list of texts"),
        ('[" "]', "must be a list of texts"),
        ('{"chat": "Hello"}', "must be a list of texts"),
        ("3", "must be a list of texts"),
        ("\ud800".encode("utf-8", "surrogatepass").decode("latin-1"), "is not JSON"),
    ],
)
def test_what_are_no_prompts(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "p.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        read_prompts(path)


def test_a_missing_prompts_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_prompts(tmp_path / "none.json")


def test_speedups_are_of_medians_and_of_equal_numbers_of_tokens() -> None:
    found = made_up()
    assert found.compared == [0, 1]
    assert found.kinds() == ["chat", "JSON"]
    assert found.speedup([0]) == pytest.approx(100 / 80)
    assert found.speedup([1]) == pytest.approx(200 / 100)
    assert found.speedup(found.compared) == pytest.approx(300 / 180)
    assert found.tokens_per_second([0], OFF) == pytest.approx(100.0)
    assert found.acceptance([0]) == (24, 12)
    # An answer that ended earlier is compared by its time a token.
    found.runs.append(run(2, OFF, 100.0, tokens=11))
    found.runs.append(run(2, AUTO, 40.0, tokens=6))
    assert found.speedup([2]) == pytest.approx(10 / 8)


def test_what_has_no_partner_or_no_time_is_not_compared() -> None:
    found = Measurement(PROMPTS)
    found.runs += [run(0, OFF, 1.0), run(1, OFF, 1.0, tokens=1), run(1, AUTO, 1.0, tokens=1)]
    assert found.compared == []
    assert table(found) == ""
    assert found.verdict() == "Nothing was compared."


def test_table() -> None:
    assert table(made_up()).splitlines() == [
        "| prompts | tokens | off, tok/s | auto, tok/s | speed-up | accepted |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| chat | 10 | 100.0 | 125.0 | 1.25 | 50 % |",
        "| JSON | 10 | 50.0 | 100.0 | 2.00 | 50 % |",
        "| **all** | 20 | 66.7 | 111.1 | 1.67 | 50 % |",
    ]


@pytest.mark.parametrize(
    ("ms", "verdict"),
    [
        (500.0, "Speculation makes this model 2.00 times as fast on these prompts."),
        (980.0, "Speculation does not help on these prompts (1.02 times plain decoding"),
        (1250.0, "Speculation made this model slower here (0.80 times plain decoding): use"),
    ],
)
def test_verdicts(ms: float, verdict: str) -> None:
    found = Measurement(PROMPTS, [run(0, OFF, 1000.0), run(0, AUTO, ms)])
    assert found.verdict().startswith(verdict)


def test_some_milliseconds_give_no_verdict() -> None:
    found = Measurement(PROMPTS, [run(0, OFF, 199.0), run(0, AUTO, 400.0)])
    assert found.verdict().startswith("Too little was decoded to tell (199 ms in all): give more")
    found.runs += [run(0, OFF, 1.0, number=1), run(0, AUTO, 1.0, number=1)]
    assert found.verdict().startswith("Speculation made this model slower")


def test_everything_is_told() -> None:
    found = made_up()
    found.limit = 3.456
    found.skipped[2] = "too long"
    found.differences = [
        Difference(0, 7, Tie(0.01, 0.02)),
        Difference(1, 9, Tie(0.5, 0.02)),
    ]
    assert sentences(found) == [
        "Speculation makes this model 1.67 times as fast on these prompts.",
        "Drafts that always came true would bring 3.46 times on this machine.",
        "Answers with and without speculation are the same for 0 of 2.",
        "Prompt 1 differs after 7 tokens: the two tokens' logits differ by 0.01, and logits of "
        "this text move by up to 0.02 with how llama.cpp evaluates it: a tie.",
        "Prompt 2 differs after 9 tokens: the two tokens' logits differ by 0.5, and logits of this "
        "text move by up to 0.02 with how llama.cpp evaluates it: no tie was seen. Please report "
        "this.",
        "Prompt 3 (JSON) was left out: too long.",
    ]
    found.differences = [Difference(0, 7, None)]
    assert sentences(found)[3].endswith("one answer ends there. Please report this.")


def test_a_model_that_cannot_speculate_is_told() -> None:
    found = Measurement(PROMPTS, note="no speculation: this model cannot roll back", limit=2.0)
    assert sentences(found) == [
        "Both ways are plain decoding here: no speculation: this model cannot roll back."
    ]


def test_files(tmp_path: Path) -> None:
    found = made_up()
    found.differences = [Difference(0, 7, Tie(0.01, 0.02)), Difference(1, 3, None)]
    data = json.loads(json.dumps(as_dict(found)))
    assert data["per_kind"] == {"chat": pytest.approx(1.25), "JSON": pytest.approx(2.0)}
    assert data["runs"] == [asdict(item) for item in found.runs]
    assert [item["explained"] for item in data["differences"]] == [True, False]
    assert as_dict(Measurement(PROMPTS))["speedup"] is None

    write_csv(tmp_path / "x.csv", found)
    with (tmp_path / "x.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(found.runs)
    assert (rows[1]["speculation"], rows[1]["ms"]) == ("auto", "80.0")


def test_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name in ("x.png", "x.svg"):
        write_plot(tmp_path / name, made_up())
    for word in ("chat", "JSON", "all", "off", "auto", "2.00×"):
        assert f"<!-- {word} -->" in (tmp_path / "x.svg").read_text("utf-8")
    with pytest.raises(SSSDError, match="nothing to plot"):
        write_plot(tmp_path / "y.png", Measurement(PROMPTS))


def test_a_model_is_measured_in_turn(tiny_model: Callable[..., Path]) -> None:
    said: list[str] = []
    with LLM(tiny_model(), ctx=128, threads=1, kv_type="f32") as llm:
        found = Measurement([Prompt("a", "the king and the king and the"), Prompt("b", "x" * 900)])
        measure(llm, found, num_tokens=20, repeats=2, say=said.append)
        assert llm.config.speculation in (OFF, AUTO)
    assert [(run.prompt, run.speculation, run.round) for run in found.runs] == [
        (0, OFF, 0),
        (0, AUTO, 0),
        (0, AUTO, 1),
        (0, OFF, 1),
    ]
    assert all(run.tokens == 20 and run.ms > 0 for run in found.runs)
    assert [run.tested for run in found.runs if run.speculation == OFF] == [0, 0]
    assert list(found.skipped) == [1]
    assert found.differences == []
    assert found.limit is not None
    assert found.limit >= 1
    assert said[0] == "round 1 of 2, prompt 1 of 2 (a)"
    assert len(said) == 3


def test_a_model_that_cannot_draft(tiny_model: Callable[..., Path]) -> None:
    with LLM(tiny_model(), ctx=128, threads=1, speculation="off") as llm:
        llm.speculation_note = "no speculation: this model cannot roll back"
        found = Measurement([Prompt("a", "the king")])
        measure(llm, found, num_tokens=4, repeats=1)
    assert len(found.runs) == 2
    assert found.verdict().startswith("Both ways are plain decoding here: no speculation")


def test_nothing_of_an_earlier_answer_is_drafted_from(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a repeat would be copied from the round before it. (Odds may be learned.)"""
    monkeypatch.setattr(Calibration, "learn", lambda *arguments: None)
    with LLM(tiny_model(), ctx=256, threads=1, kv_type="f32", speculation=8) as llm:
        message = [{"role": "user", "content": "the strange old king"}]
        counts = []
        for _ in range(2):
            llm.reset()
            stats = llm.chat(message, temperature=0, max_tokens=40).stats
            counts.append((stats.steps, stats.accepted, set(stats.by_source) - {"model"}))
        assert counts[0] == counts[1]


def test_differing_answers_are_explained(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer with speculation is made to leave the plain one at its third token."""
    chat = LLM.chat

    def altered(self: LLM, messages: object, **options: object) -> Completion:
        answer = chat(self, messages, **options)  # type: ignore[arg-type]
        if self.config.speculation == OFF:
            return answer
        ids = answer.token_ids
        return Completion(
            answer.text, (*ids[:2], ids[2] + 1), answer.sources, "length", answer.stats
        )

    monkeypatch.setattr(LLM, "chat", altered)
    with LLM(tiny_model(), ctx=128, threads=1, kv_type="f32") as llm:
        found = Measurement([Prompt("a", "the king and the king")])
        measure(llm, found, num_tokens=8, repeats=1)
    (difference,) = found.differences
    assert (difference.prompt, difference.position) == (0, 2)
    assert difference.tie is not None
    assert difference.tie.gap > 2 * difference.tie.noise
    assert not difference.is_explained


def test_an_answer_that_only_ends_earlier() -> None:
    stats = None
    plain, short = (
        Completion("", ids, (), "stop", stats)  # type: ignore[arg-type]
        for ids in ((1, 2, 3), (1, 2))
    )
    found = measuring._differences(None, 4, {OFF: plain, AUTO: short})  # type: ignore[arg-type]
    assert found == [Difference(4, 2, None)]
