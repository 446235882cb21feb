"""The loop gives the model's own text whatever is drafted, and is consistent however it is left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sssd_local.draft.calibrate import Calibration
from sssd_local.draft.drafter import Drafter
from sssd_local.draft.tree import DraftTree, TokenSource, empty_tree, tree_from_lists
from sssd_local.errors import BackendError, Cancelled, ContextFullError
from tests.tiny import Bench, Scripted, chain_tree, random_tree

TinyModel = Callable[..., Path]
NUM_TOKENS = 40
SAMPLINGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "cool": {"temperature": 0.7, "seed": 1},
    "default": {"temperature": 0.8, "seed": 2},
    "hot": {"temperature": 1.5, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 3},
    "typical": {"temperature": 1.0, "typical_p": 0.7, "seed": 4},
    "penalised": {
        "temperature": 0.9,
        "repeat_penalty": 1.3,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.4,
        "seed": 5,
    },
    "greedy penalised": {"temperature": 0.0, "repeat_penalty": 1.5},
    "biased": {"temperature": 0.8, "logit_bias": {40: 5.0, 41: -100.0}, "seed": 6},
}


def honest(answer: list[int], prompt_length: int) -> Callable[[list[int], int], DraftTree]:
    """Drafts what plain decoding wrote, as far as it goes."""

    def draft(history: list[int], depth: int) -> DraftTree:
        return chain_tree(answer[len(history) - prompt_length :][:depth])

    return draft


def adversarial(answer: list[int], prompt_length: int) -> Callable[[list[int], int], DraftTree]:
    """Drafts right tokens that end in a wrong one, and wrong branches beside them."""

    def draft(history: list[int], depth: int) -> DraftTree:
        rest = answer[len(history) - prompt_length :][: min(3, depth - 1)]
        tokens, parents = [*rest, 7], list(range(-1, len(rest)))
        for parent in range(-1, len(rest) - 1):
            tokens.append((rest[parent + 1] + 1) % 300)
            parents.append(parent)
        size = len(tokens)
        return tree_from_lists(tokens, parents, [0.5] * size, [1] * size, [0] * size)

    return draft


def noise(size: int) -> Callable[[list[int], int], DraftTree]:
    def draft(history: list[int], depth: int) -> DraftTree:
        if depth < size:
            return empty_tree()
        return random_tree(np.random.default_rng(len(history)), size, 300)

    return draft


def drafters(answer: list[int], prompt_length: int) -> dict[str, Any]:
    return {
        "empty": Scripted(lambda history, depth: empty_tree()),
        "honest": Scripted(honest(answer, prompt_length)),
        "adversarial": Scripted(adversarial(answer, prompt_length)),
        "random": Scripted(noise(5)),
        "maximal": Scripted(noise(40)),
        "real": Drafter(Calibration()),
    }


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("kind", ["llama", "moe", "gemma", "gpt2"])
def test_speculation_writes_exactly_what_plain_decoding_writes(
    tiny_model: TinyModel, kind: str, sampling: str
) -> None:
    """F32 weights and F32 KV: equal to the token for every drafter and several widths."""
    path, options = tiny_model(kind), SAMPLINGS[sampling]
    with Bench(path) as plain:
        prompt = plain.tokens()
        answer = plain.run(prompt, max_tokens=NUM_TOKENS, **options)
    assert 0 < len(answer) <= NUM_TOKENS
    for name, drafter in drafters(answer, len(prompt)).items():
        for width in (2, 5, 64):
            with Bench(path, drafter=drafter, width=width) as bench:
                drafter.reset()
                assert bench.run(prompt, max_tokens=NUM_TOKENS, **options) == answer, (name, width)


def test_an_honest_draft_is_accepted_whole(tiny_model: TinyModel) -> None:
    with Bench(tiny_model()) as plain:
        prompt = plain.tokens()
        answer = plain.run(prompt)
    drafter = Scripted(honest(answer, len(prompt)))
    with Bench(tiny_model(), drafter=drafter, width=5) as bench:
        steps = list(bench.steps(prompt))
    assert [step.accepted for step in steps] == [0, 4, 4, 4, 4, 4, 4, 4, 3]
    assert [step.tested for step in steps] == [0, 4, 4, 4, 4, 4, 4, 4, 3]
    assert steps[1].sources == (*[TokenSource.OUTPUT] * 4, TokenSource.MODEL)
    assert steps[-1].finish_reason == "length"


# Largest difference of a logit between widths that a quantised tiny model may show; its logits
# have a standard deviation of 4. llama.cpp uses other kernels for other widths.
WIDTH_NOISE = {"Q8_0": 0.5, "Q4_0": 0.5}


@pytest.mark.parametrize("kv_type", ["f16", "q8_0"])
@pytest.mark.parametrize("quant", WIDTH_NOISE)
def test_quantised_models_differ_at_ties_only(
    tiny_model: TinyModel, quant: str, kv_type: str
) -> None:
    path, bound = tiny_model(quant=quant), WIDTH_NOISE[quant]
    with Bench(path, kv_type=kv_type) as plain:
        prompt = plain.tokens()
        answer = plain.run(prompt, max_tokens=100)
        for name, drafter in drafters(answer, len(prompt)).items():
            for width in (4, 9, 33):
                with Bench(path, kv_type=kv_type, drafter=drafter, width=width) as bench:
                    drafter.reset()
                    got = bench.run(prompt, max_tokens=100)
                differs = [
                    i for i, pair in enumerate(zip(answer, got, strict=True)) if len({*pair}) > 1
                ]
                if differs:
                    first = differs[0]
                    row = plain.fresh_logits([*prompt.tolist(), *answer[:first]])
                    gap = abs(row[answer[first]] - row[got[first]])
                    assert gap <= bound, (name, width, gap)


@pytest.mark.parametrize(("quant", "bound"), [("F32", 1e-3), ("Q8_0", 0.5), ("Q4_0", 0.5)])
def test_a_tree_equals_its_paths(tiny_model: TinyModel, quant: str, bound: float) -> None:
    from sssd_local.engine.kv import leaf_masks, sequence_sets

    random = np.random.default_rng(3)
    with Bench(tiny_model(quant=quant)) as bench:
        prompt = bench.tokens()
        bench.context.decode_prompt(prompt, 0, logits=False)
        bench.engine.ledger.commit_prompt(prompt)
        for size in (1, 3, 8, 17, 40):
            tree = random_tree(random, size, 300)
            masks = leaf_masks(tree.parents.tolist())
            tokens = np.concatenate((np.array([9], np.int32), tree.tokens))
            depths = np.concatenate((np.array([0], np.int32), tree.depths))
            sets = None if masks is None else sequence_sets(masks)
            bench.context.decode_rows(tokens, depths + np.int32(len(prompt)), sets)
            got = bench.context.logits.copy()
            bench.engine.ledger.restore()
            for node in range(-1, size):
                path, at = [], node
                while at >= 0:
                    path.insert(0, int(tree.tokens[at]))
                    at = int(tree.parents[at])
                expected = bench.fresh_logits([*prompt.tolist(), 9, *path])
                assert np.abs(got[node + 1] - expected).max() < bound


def test_a_second_turn_evaluates_only_new_text(tiny_model: TinyModel) -> None:
    evaluated: list[tuple[int, int]] = []
    with Bench(tiny_model(), drafter=Drafter(Calibration()), width=4) as bench:
        prompt = bench.tokens()
        answer = bench.run(prompt)
        second = np.array([*prompt.tolist(), *answer, 50, 51, 52], np.int32)
        reply = bench.run(second, progress=lambda done, total: evaluated.append((done, total)))
        # The last token of the answer was sampled but never evaluated.
        assert bench.engine.reused_tokens == len(prompt) + len(answer) - 1
        assert evaluated == [(4, 4)]
    with Bench(tiny_model()) as fresh:
        assert fresh.run(second) == reply


def test_the_same_prompt_again_evaluates_one_token(tiny_model: TinyModel) -> None:
    with Bench(tiny_model()) as bench:
        prompt = bench.tokens()
        answer = bench.run(prompt)
        assert bench.run(prompt) == answer
        assert bench.engine.reused_tokens == len(prompt) - 1


def agree(bench: Bench, prompt: np.ndarray, emitted: list[int]) -> None:
    """Cache, ledger and tables hold the prompt and what was emitted, and nothing else."""
    ledger = bench.engine.ledger
    history = [*prompt.tolist(), *emitted]
    assert ledger.check() == ""
    assert ledger.tokens.tolist() == history[: ledger.length]
    assert ledger.length >= len(history) - 1 or not emitted
    assert bench.engine.drafter.context.history().tolist() == history


def test_leaving_early_keeps_what_was_emitted(tiny_model: TinyModel) -> None:
    # What an earlier run wrote would be drafted whole.
    drafter = Drafter(Calibration(), keep_earlier=False, recycle=False)
    with Bench(tiny_model(), drafter=drafter, width=8) as bench:
        prompt = bench.tokens()
        expected = bench.run(prompt)
        for num_steps in range(1, 8):
            steps = bench.steps(prompt)
            emitted = [token for _ in range(num_steps) for token in next(steps).token_ids]
            steps.close()  # type: ignore[attr-defined]
            agree(bench, prompt, emitted)
        assert bench.run(prompt) == expected


@pytest.mark.parametrize("stage", ["verify", "keep", "observe", "decode", "draft"])
def test_an_exception_in_a_step_leaves_a_usable_engine(
    tiny_model: TinyModel, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Bench(tiny_model(), drafter=Drafter(Calibration()), width=8) as bench:
        prompt = bench.tokens()
        expected = bench.run(prompt)
        calls = 0

        def interrupt(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == 4:
                raise KeyboardInterrupt
            return original(*arguments, **options)

        if stage == "verify":
            original: Any = bench.engine.model.is_eog
            monkeypatch.setattr(bench.engine.model, "is_eog", interrupt)
        else:
            original = getattr(bench.engine, stage)
            monkeypatch.setattr(bench.engine, stage, interrupt)
        emitted: list[int] = []
        steps = bench.steps(prompt)
        with pytest.raises(KeyboardInterrupt):
            emitted.extend(token for step in steps for token in step.token_ids)
        agree(bench, prompt, emitted)
        assert bench.run(prompt) == expected


def test_stop_strings_end_the_answer_inside_a_step(tiny_model: TinyModel) -> None:
    with Bench(tiny_model()) as plain:
        prompt = plain.tokens()
        answer = plain.run(prompt)
        pieces = [plain.model.piece(token) for token in answer]
    texts = [piece.decode("utf-8", "replace") for piece in pieces]
    cut = next(i for i in range(5, 30) if texts[i].strip() and texts[i] not in "".join(texts[:i]))
    drafter = Scripted(honest(answer, len(prompt)))
    with Bench(tiny_model(), drafter=drafter, width=16) as bench:
        steps = list(bench.steps(prompt, stop=(texts[cut],)))
        assert "".join(piece for step in steps for piece in step.pieces) == "".join(texts[:cut])
        emitted = [token for step in steps for token in step.token_ids]
        assert emitted == answer[: cut + 1]
        assert steps[-1].finish_reason == "stop"
        assert bench.engine.ledger.check() == ""
        assert bench.engine.ledger.tokens.tolist() == [*prompt.tolist(), *emitted]
        assert drafter.history == [*prompt.tolist(), *emitted]


def test_an_end_token_is_never_descended_into(tiny_model: TinyModel) -> None:
    with Bench(tiny_model()) as plain:
        prompt = plain.tokens()
        end = {"logit_bias": {2: 1000.0}, "temperature": 0.0}
        assert plain.run(prompt, **end) == []
        first = plain.run(prompt, max_tokens=1)
    drafter = Scripted(lambda history, depth: chain_tree([2, 30, 31]))
    with Bench(tiny_model(), drafter=drafter, width=4) as bench:
        # The first token is free; then the end is certain, and drafted.
        prompt = np.array([*prompt.tolist(), *first], np.int32)
        steps = list(bench.steps(prompt, **end))
        assert [step.finish_reason for step in steps] == ["stop"]
        assert bench.engine.ledger.check() == ""


def test_the_answer_ends_with_the_context(tiny_model: TinyModel) -> None:
    for width in (1, 8):
        drafter = Drafter(Calibration())
        with Bench(tiny_model(), drafter=drafter, width=width, ctx=64) as bench:
            prompt = bench.tokens("ab")
            steps = list(bench.steps(prompt, max_tokens=None))
            answer = [token for step in steps for token in step.token_ids]
            # Every position is used, and one more token is sampled from the last.
            assert len(answer) == 64 - len(prompt) + 1
            assert steps[-1].finish_reason == "length"
            assert bench.engine.ledger.length == 64
            assert bench.engine.ledger.check() == ""


def test_shifting_is_exact(tiny_model: TinyModel) -> None:
    """After a shift the answer goes on as from a fresh evaluation of the kept history."""
    kept: list[int] = []

    def make_room(history: np.ndarray) -> np.ndarray:
        shorter = np.concatenate((history[:3], history[-20:]))
        kept[:] = shorter.tolist()
        return shorter

    drafter = Drafter(Calibration())
    with Bench(tiny_model(), drafter=drafter, width=6, ctx=64) as bench:
        prompt = bench.tokens("abc")
        steps = list(bench.steps(prompt, max_tokens=90, make_room=make_room))
        answer = [token for step in steps for token in step.token_ids]
        assert len(answer) == 90
        assert bench.engine.ledger.check() == ""
        history = [*prompt.tolist(), *answer]
        start = max(i for i in range(len(history)) if history[i : i + 20] == kept[3:]) + 20
    with Bench(tiny_model(), ctx=64) as fresh:
        rest = fresh.run(np.array(kept, np.int32), max_tokens=len(history) - start)
        assert rest == history[start:]


def test_a_stop_string_after_a_shift_keeps_the_right_tokens(tiny_model: TinyModel) -> None:
    options: dict[str, Any] = {"max_tokens": 90, "make_room": lambda history: history[-30:]}
    with Bench(tiny_model(), ctx=64) as plain:
        prompt = plain.tokens("abc")
        answer = plain.run(prompt, **options)
        texts = [plain.model.piece(token).decode("utf-8", "replace") for token in answer]
        kept_length = plain.engine.ledger.length
    seen = "".join(texts[:70])
    cut = next(i for i in range(70, 88) if texts[i].strip() and texts[i] not in seen)
    drafter = Scripted(honest(answer, len(prompt)))
    with Bench(tiny_model(), drafter=drafter, width=16, ctx=64) as bench:
        emitted = bench.run(prompt, stop=(texts[cut],), **options)
        assert emitted == answer[: cut + 1]
        history = [*prompt.tolist(), *emitted]
        held = bench.engine.ledger.tokens.tolist()
        assert held == history[len(history) - len(held) :]
        assert len(held) <= kept_length


def test_prompts_that_do_not_fit_are_refused(tiny_model: TinyModel) -> None:
    with Bench(tiny_model(), ctx=16) as bench:
        with pytest.raises(ContextFullError, match="16 tokens, the context holds 16"):
            bench.run(np.full(16, 30, np.int32))
        with pytest.raises(ContextFullError, match="empty"):
            bench.run(np.zeros(0, np.int32))
        assert len(bench.run(np.full(15, 30, np.int32), max_tokens=1)) == 1


def test_a_stopped_prompt_keeps_whole_pieces(tiny_model: TinyModel) -> None:
    calls = 0

    def should_stop() -> bool:
        nonlocal calls
        calls += 1
        return calls > 40

    done: list[tuple[int, int]] = []
    prompt = np.resize(np.arange(20, 300, dtype=np.int32), 700)
    with Bench(tiny_model(ctx_length=2048), ctx=1024) as bench:
        with pytest.raises(Cancelled):
            bench.run(
                prompt,
                should_stop=should_stop,
                progress=lambda part, total: done.append((part, total)),
            )
        assert bench.engine.ledger.length == (done[-1][0] if done else 0)
        assert bench.engine.ledger.check() == ""
        answer = bench.run(prompt)
        assert bench.engine.reused_tokens == (done[-1][0] if done else 0)
    with Bench(tiny_model(ctx_length=2048), ctx=1024) as fresh:
        assert fresh.run(prompt) == answer


def test_an_exception_inside_the_abort_callback_comes_out(tiny_model: TinyModel) -> None:
    calls = 0

    def interrupt() -> bool:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt
        return False

    with Bench(tiny_model()) as bench:
        prompt = bench.tokens()
        with pytest.raises(KeyboardInterrupt):
            bench.run(prompt, should_stop=interrupt)
        assert calls == 5
        assert bench.engine.ledger.check() == ""
        assert len(bench.run(prompt)) == NUM_TOKENS


def test_cancelling_between_steps_ends_the_answer(tiny_model: TinyModel) -> None:
    stop = False
    with Bench(tiny_model()) as bench:
        steps = bench.steps(should_stop=lambda: stop)
        next(steps)
        next(steps)
        stop = True
        last = next(steps)
        assert last.finish_reason == "cancelled"
        assert list(steps) == []


GRAMMAR = 'root ::= ("yes" | "no") (" and " ("yes" | "no")){0,4} "."'


@pytest.mark.parametrize("temperature", [0.0, 1.2])
def test_grammars_hold_and_do_not_change_with_speculation(
    tiny_model: TinyModel, temperature: float
) -> None:
    options = {"grammar": GRAMMAR, "temperature": temperature, "seed": 9}
    with Bench(tiny_model()) as plain:
        prompt = plain.tokens()
        answer = plain.run(prompt, **options)
        text = b"".join(map(plain.model.piece, answer)).decode()
    assert text.endswith(".")
    assert set(text[:-1].split(" and ")) <= {"yes", "no"}
    for drafter in drafters(answer, len(prompt)).values():
        with Bench(tiny_model(), drafter=drafter, width=6) as bench:
            drafter.reset()
            assert bench.run(prompt, **options) == answer


def test_a_grammar_the_vocabulary_cannot_write_is_an_error_not_a_crash(
    tiny_model: TinyModel,
) -> None:
    every_text_token = {token: -float("inf") for token in range(3, 320)}
    with Bench(tiny_model()) as bench, pytest.raises(BackendError, match="no token is allowed"):
        bench.run(grammar='root ::= "a"', logit_bias=every_text_token)


def test_sampled_distribution_is_that_of_plain_decoding(tiny_model: TinyModel) -> None:
    """χ² over the third token of answers with other seeds, drafts right and wrong."""
    path, num_runs = tiny_model(num_tokens=259), 1500
    options = {"temperature": 1.0, "top_k": 6, "top_p": 1.0, "min_p": 0.0, "max_tokens": 3}

    def third_tokens(bench: Bench, first_seed: int) -> np.ndarray:
        prompt = bench.tokens("ab")
        seeds = range(first_seed, first_seed + num_runs)
        answers = [bench.run(prompt, seed=seed, **options) for seed in seeds]
        # An answer that ended before counts as the end token.
        return np.array([[*answer, 2, 2, 2][2] for answer in answers])

    with Bench(path) as plain:
        expected = third_tokens(plain, 0)
        greedy = plain.run(plain.tokens("ab"), max_tokens=3)
    likely = np.unique(expected).tolist()
    tree = tree_from_lists(
        [greedy[1], *likely[:6], *likely[:4]],
        [-1, *[0] * 6, 1, 2, 3, 4],
        [0.5] * 11,
        [1] * 11,
        [0] * 11,
    )
    drafter = Scripted(lambda history, depth: tree if depth >= 2 else empty_tree())
    with Bench(path, drafter=drafter, width=12) as bench:
        observed = third_tokens(bench, 10_000)
    tokens, counts = np.unique(np.concatenate((expected, observed)), return_counts=True)
    common = tokens[counts >= 20]
    cells = [[(sample == token).sum() for token in common] for sample in (expected, observed)]
    table = np.array(cells, float)
    table = np.column_stack((table, num_runs - table.sum(axis=1)))
    table = table[:, table.sum(axis=0) > 0]
    mean = table.sum(axis=0) / 2
    statistic = ((table - mean) ** 2 / mean).sum()
    freedom = table.shape[1] - 1
    assert freedom >= 5
    # Wilson-Hilferty: the 99.99 % quantile of χ².
    spread = 2 / (9 * freedom)
    assert statistic < freedom * (1 - spread + 3.719 * spread**0.5) ** 3
