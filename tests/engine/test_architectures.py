"""Every row of docs/architectures.md on a tiny model: drafts change nothing but the time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sssd_local.config import ModelConfig
from sssd_local.draft.calibrate import Calibration
from sssd_local.draft.drafter import Drafter
from sssd_local.engine import context as context_module
from sssd_local.engine import decode as decode_module
from sssd_local.engine.ability import Ability, RollBackKind, Speculation
from sssd_local.engine.memory import ContextPlan
from sssd_local.engine.model import Model
from sssd_local.gguf_info import describe
from sssd_local.llm import LLM
from tests.engine.test_decode import SAMPLINGS, adversarial, drafters, honest
from tests.tiny import Bench, Scripted, chain_tree

TinyModel = Callable[..., Path]

# Kind of tiny model, options, and what is expected of it.
ROWS: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "llama": ("llama", {}, "tree", "remove"),
    "qwen2": ("qwen2", {}, "tree", "remove"),
    "qwen3": ("qwen3", {}, "tree", "remove"),
    "phi3": ("phi3", {}, "tree", "remove"),
    "gpt2": ("gpt2", {}, "tree", "remove"),
    "moe": ("moe", {}, "tree", "remove"),
    "gemma": ("gemma", {}, "tree", "remove"),
    "gemma, small window": ("gemma", {"swa_full": False}, "chain", "remove"),
    "lfm2": ("lfm2", {}, "chain", "snapshot"),
    "qwen35": ("qwen35", {}, "chain", "snapshot"),
    "nemotron_h": ("nemotron_h", {}, "chain", "snapshot"),
    "mamba": ("mamba", {}, "chain", "restore"),
    "qwen3next": ("qwen3next", {}, "chain", "restore"),
}
CHAINS = [name for name, row in ROWS.items() if row[2] == "chain"]
RECURRENT = [name for name in CHAINS if ROWS[name][3] != "remove"]
NUM_TOKENS = 40


def bench(tiny_model: TinyModel, row: str, **options: Any) -> Bench:
    kind, settings, _, _ = ROWS[row]
    return Bench(tiny_model(kind), options=settings, **options)


def plain_answer(tiny_model: TinyModel, row: str, **options: Any) -> tuple[np.ndarray, list[int]]:
    with bench(tiny_model, row) as plain:
        prompt = plain.tokens()
        return prompt, plain.run(prompt, **{"max_tokens": NUM_TOKENS} | options)


@pytest.mark.parametrize("row", ROWS)
def test_what_a_model_can_check(tiny_model: TinyModel, row: str) -> None:
    kind, settings, speculation, roll_back = ROWS[row]
    with bench(tiny_model, row) as made:
        plan = made.context.plan
        assert (plan.ability.speculation, plan.ability.roll_back) == (speculation, roll_back)
        assert made.context.num_sequences == (8 if speculation == "tree" else 1)
        assert plan.max_nodes == (15 if roll_back == "snapshot" else 63)
        assert made.engine.can_draft
    if not settings:
        assert describe(tiny_model(kind)).speculation == speculation


@pytest.mark.parametrize("sampling", ["greedy", "default", "penalised"])
@pytest.mark.parametrize("row", [name for name in ROWS if name not in ("llama", "moe", "gpt2")])
def test_drafts_do_not_change_the_answer(tiny_model: TinyModel, row: str, sampling: str) -> None:
    """F32 weights and cache: equal to the token, for drafts that are right, wrong and wide."""
    options = SAMPLINGS[sampling]
    prompt, answer = plain_answer(tiny_model, row, **options)
    for name, drafter in drafters(answer, len(prompt)).items():
        for width in (2, 5, 64):
            with bench(tiny_model, row, drafter=drafter, width=width) as made:
                drafter.reset()
                assert made.run(prompt, max_tokens=NUM_TOKENS, **options) == answer, (name, width)


@pytest.mark.parametrize("row", CHAINS)
def test_chains_are_tested_and_accepted(tiny_model: TinyModel, row: str) -> None:
    prompt, answer = plain_answer(tiny_model, row)
    drafter = Scripted(honest(answer, len(prompt)))
    with bench(tiny_model, row, drafter=drafter, width=64) as made:
        steps = list(made.steps(prompt, max_tokens=NUM_TOKENS))
        most = made.context.plan.max_nodes
    assert [step.accepted for step in steps[1:]] == [step.tested for step in steps[1:]]
    assert max(step.tested for step in steps) == min(most, NUM_TOKENS - 2)
    drafter = Scripted(adversarial(answer, len(prompt)))
    with bench(tiny_model, row, drafter=drafter, width=64) as made:
        steps = list(made.steps(prompt, max_tokens=NUM_TOKENS))
    # Of a tree only its first chain is tested: right tokens and a wrong one.
    assert {(step.tested, step.accepted) for step in steps[1:-2]} == {(4, 3)}


def test_a_window_is_passed_several_times(tiny_model: TinyModel) -> None:
    """The small cache of the sliding layer is written over while drafts are rejected."""
    path = tiny_model("gemma", ctx_length=2048)
    prompt = np.resize(np.arange(20, 300, dtype=np.int32), 850)
    answers = []
    for options in ({"swa_full": False}, {"swa_full": True}):
        with Bench(path, ctx=2048, options=options) as plain:
            answers.append(plain.run(prompt, max_tokens=200))
            first = plain.context.first_position(0)
            assert (first > 0) is (options["swa_full"] is False)
    answer = answers[0]
    assert answers[1] == answer
    for draft in (honest(answer, 850), adversarial(answer, 850)):
        made = Bench(path, Scripted(draft), 8, 2048, options={"swa_full": False})
        with made:
            assert made.run(prompt, max_tokens=200) == answer
            # An early part of the window is gone, so going back there evaluates all again.
            assert made.run(prompt[:400], max_tokens=1) == made.run(prompt[:400], max_tokens=1)
            assert made.run(prompt, max_tokens=200) == answer


@pytest.mark.parametrize("row", CHAINS)
def test_stop_strings_inside_a_step(tiny_model: TinyModel, row: str) -> None:
    prompt, answer = plain_answer(tiny_model, row)
    with bench(tiny_model, row) as plain:
        texts = [plain.model.piece(token).decode("utf-8", "replace") for token in answer]
    seen = ["".join(texts[:i]) for i in range(len(texts))]
    cuts = [i for i in range(2, len(texts) - 2) if texts[i].isalpha() and texts[i] not in seen[i]]
    assert cuts
    drafter = Scripted(honest(answer, len(prompt)))
    with bench(tiny_model, row, drafter=drafter, width=16) as made:
        for cut in cuts[:3]:
            emitted = made.run(prompt, stop=(texts[cut],))
            assert emitted == answer[: cut + 1]
            held = made.engine.ledger.tokens.tolist()
            assert held == [*prompt.tolist(), *emitted][: len(held)]
            second = np.array([*prompt.tolist(), *emitted, 50, 51], np.int32)
            reply = made.run(second, max_tokens=10)
            with bench(tiny_model, row) as fresh:
                assert fresh.run(second, max_tokens=10) == reply


@pytest.mark.parametrize("stage", ["verify", "keep", "observe", "decode", "draft"])
@pytest.mark.parametrize("row", CHAINS)
def test_an_exception_in_a_step_leaves_a_usable_engine(
    tiny_model: TinyModel, row: str, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt, answer = plain_answer(tiny_model, row)
    drafter = Scripted(adversarial(answer, len(prompt)))
    with bench(tiny_model, row, drafter=drafter, width=8) as made:
        owner: Any = decode_module if stage == "verify" else made.engine
        original = getattr(owner, stage)
        calls = 0

        def interrupt(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            result = original(*arguments, **options)
            if calls == 4:
                raise KeyboardInterrupt
            return result

        monkeypatch.setattr(owner, stage, interrupt)
        emitted: list[int] = []
        with pytest.raises(KeyboardInterrupt):
            emitted.extend(token for step in made.steps(prompt) for token in step.token_ids)
        held = made.engine.ledger.tokens.tolist()
        assert made.engine.ledger.check() == ""
        assert held == [*prompt.tolist(), *emitted][: len(held)]
        assert drafter.history == [*prompt.tolist(), *emitted]
        monkeypatch.undo()
        assert made.run(prompt) == answer


@pytest.mark.parametrize("row", CHAINS)
def test_leaving_early_and_coming_back(tiny_model: TinyModel, row: str) -> None:
    prompt, answer = plain_answer(tiny_model, row)
    drafter = Scripted(adversarial(answer, len(prompt)))
    with bench(tiny_model, row, drafter=drafter, width=8) as made:
        for num_steps in range(1, 6):
            steps = made.steps(prompt)
            emitted = [token for _ in range(num_steps) for token in next(steps).token_ids]
            steps.close()  # type: ignore[attr-defined]
            assert made.engine.ledger.check() == ""
            assert emitted == answer[: len(emitted)]
        assert made.run(prompt) == answer


@pytest.mark.parametrize("row", RECURRENT)
def test_a_second_turn_goes_on_from_the_last(tiny_model: TinyModel, row: str) -> None:
    prompt, answer = plain_answer(tiny_model, row)
    drafter = Scripted(honest(answer, len(prompt)))
    with bench(tiny_model, row, drafter=drafter, width=8) as made:
        made.run(prompt)
        second = np.array([*prompt.tolist(), *answer, 50, 51, 52], np.int32)
        reply = made.run(second, max_tokens=10)
        # The last token of an answer that was cut short was sampled but never evaluated.
        assert made.engine.reused_tokens in (len(second) - 4, len(second) - 3)
        # A turn whose answer is rendered in another way goes on from its prompt.
        other = np.array([*second.tolist(), 7, 8, 9], np.int32)
        made.run(other, max_tokens=3)
        assert made.engine.reused_tokens == len(second) - 1
        assert made.run(other, max_tokens=5) == made.run(other, max_tokens=5)
        assert made.engine.reused_tokens == len(other) - 1
    with bench(tiny_model, row) as fresh:
        assert fresh.run(second, max_tokens=10) == reply


def test_a_replay_is_told_apart_from_the_step_that_causes_it(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt, answer = plain_answer(tiny_model, "mamba")
    drafter = Scripted(adversarial(answer, len(prompt)))
    with bench(tiny_model, "mamba", drafter=drafter, width=8) as made:
        context, ledger = made.context, made.engine.ledger
        observed: list[tuple[float, float]] = []
        seen: list[tuple[float, float]] = []

        def observe(*arguments: Any) -> None:
            observed.append((arguments[3], arguments[5]))
            seen.append((context.decode_seconds, ledger.extra_seconds))

        monkeypatch.setattr(made.engine.sizer, "observe", observe)
        steps = list(made.steps(prompt, max_tokens=12))
    assert [extra > 0 for _, extra in observed] == [True, True, True, False]
    assert observed == [pytest.approx(pair) for pair in seen]
    # To the user it is part of the step's time.
    assert [step.decode_seconds for step in steps[1:]] == pytest.approx(list(map(sum, seen)))


def test_logits_of_a_step_outlive_its_replay(tiny_model: TinyModel) -> None:
    with bench(tiny_model, "mamba") as made:
        context, ledger = made.context, made.engine.ledger
        prompt = made.tokens()
        ledger.begin(len(prompt))
        context.decode_prompt(prompt, 0, logits=False)
        ledger.commit_prompt(prompt)
        made.engine.decode(30, chain_tree([31, 32, 33]))
        before = context.logits.copy()
        ledger.commit_step(30, chain_tree([31, 32, 33]), None, [0])
        assert np.array_equal(context.logits, before)
        made.engine.decode(34, chain_tree([]))
        expected = made.fresh_logits([*prompt.tolist(), 30, 31, 34])
        assert np.abs(context.logits[0] - expected).max() < 1e-3


def test_models_that_can_check_nothing_decode_plainly(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt, answer = plain_answer(tiny_model, "mamba")
    none = Ability(Speculation.NONE, RollBackKind.NONE, "its kind of cache was not tested")
    monkeypatch.setattr(context_module, "plan_context", lambda *_: ContextPlan(256, none))
    drafter = Scripted(honest(answer, len(prompt)))
    with bench(tiny_model, "mamba", drafter=drafter, width=8) as made:
        steps = list(made.steps(prompt))
        assert sum(step.tested for step in steps) == 0
        assert [token for step in steps for token in step.token_ids] == answer
        assert made.run(prompt) == answer
        assert made.engine.reused_tokens == 0
    with LLM(tiny_model("mamba"), ctx=256, speculation=8) as llm:
        assert llm.speculation == "none"
        assert llm.speculation_note == "no speculation: its kind of cache was not tested"
        llm.set_speculation("auto")
        assert llm.generate("the rain", max_tokens=5).stats.tested == 0


def test_the_python_api_drafts_chains(tiny_model: TinyModel) -> None:
    path, options = tiny_model("lfm2"), {"ctx": 256, "kv_type": "f32", "threads": 1}
    asked: dict[str, Any] = {"max_tokens": 60, "temperature": 0}
    with LLM(path, speculation="off", **options) as llm:
        expected = llm.generate("the rain on the plain and the rain on the", **asked)
    with LLM(path, speculation=6, **options) as llm:
        assert (llm.speculation, llm.speculation_note) == ("chain", "")
        found = llm.generate("the rain on the plain and the rain on the", **asked)
    assert found.text == expected.text
    assert found.stats.tested > 0


def test_a_state_has_the_size_that_was_planned(tiny_model: TinyModel) -> None:
    for row in RECURRENT:
        with bench(tiny_model, row) as made:
            made.context.decode_one(5, 0)
            size = len(made.context.save_state(on_device=False))
            # Besides the numbers some bytes for each layer.
            assert 0 <= size - made.model.facts.cache.state_bytes < 300, row


def test_a_drafter_of_one_leaf_makes_chains(tiny_model: TinyModel) -> None:
    drafter = Drafter(Calibration(), max_leaves=1)
    drafter.sync(np.array([5, 6, 7, 5, 8, 7, 5, 6, 9, 5], np.int32))
    tree = drafter.draft(np.ones(64), 20, 20)
    assert len(tree) > 1
    assert tree.num_chain == len(tree)


def test_split_files_load(tiny_model: TinyModel, tmp_path: Path) -> None:
    from tests.engine.splitting import split_model

    whole = tiny_model()
    first = split_model(whole, tmp_path / "parts", 2)
    with Bench(whole) as expected, Bench(first) as made:
        assert made.run() == expected.run()
    assert describe(first).parts == 2
    model = Model(first, ModelConfig())
    assert model.facts.size_bytes > 100_000
    model.close()


@pytest.mark.parametrize("row", CHAINS)
def test_a_full_context_is_shortened(tiny_model: TinyModel, row: str) -> None:
    options: dict[str, Any] = {"max_tokens": 90, "logit_bias": {2: -float("inf")}}
    options["make_room"] = lambda history: history[-30:]
    with bench(tiny_model, row, ctx=64) as plain:
        prompt = plain.tokens()
        answer = plain.run(prompt, **options)
    assert len(answer) == 90
    for draft in (honest(answer, len(prompt)), adversarial(answer, len(prompt))):
        with bench(tiny_model, row, drafter=Scripted(draft), width=8, ctx=64) as made:
            assert made.run(prompt, **options) == answer
