"""Rows of token ids and which of them are learned."""

from __future__ import annotations

import numpy as np
import pytest

from models import batches, corpus, tokenizer
from models.batches import Row, chat_row, held_out_row, stack

pytest.importorskip("tokenizers", reason="needs the [train] extra")


def test_answers_and_their_ends_are_learned() -> None:
    row = Row()
    row.add(tokenizer.USER, "What is 1 + 2?", every=4)
    row.add(tokenizer.ASSISTANT, "1 + 2 = 3.")
    asked, told = tokenizer.encode_batch(["What is 1 + 2?", "1 + 2 = 3."])
    user, assistant, end = (tokenizer.special_ids()[name] for name in tokenizer.SPECIAL[1:])
    assert row.ids == [user, *asked, end, assistant, *told, end]
    size = len(asked)
    assert [i for i in range(size + 2) if row.weights[i]] == list(range(4, size + 1, 4))
    assert row.weights[size + 2 :] == [0.0, *[1.0] * (len(told) + 1)]


def test_a_chat_begins_with_its_first_turn_and_is_long_enough() -> None:
    for index in range(20):
        row = chat_row(0, index, 256, prompt_every=10)
        assert len(row.ids) == len(row.weights) > 256
        system = corpus.system_text(0, index)
        opening = tokenizer.USER if system is None else tokenizer.SYSTEM
        assert row.ids[0] == tokenizer.special_ids()[opening]
    longer = chat_row(0, 19, 600, prompt_every=10)
    assert longer.ids[: len(row.ids)] == row.ids


def test_a_turn_of_random_tokens_is_learned_whole() -> None:
    row = Row()
    row.add_tokens([7, 4000, 7])
    user, assistant, end = (tokenizer.special_ids()[name] for name in tokenizer.SPECIAL[1:])
    asked = tokenizer.encode("Repeat: ")
    assert row.ids == [user, *asked, 7, 4000, 7, end, assistant, 7, 4000, 7, end]
    assert row.weights == [0.0] * (len(asked) + 6) + [1.0] * 4


def test_turns_of_random_tokens_are_mixed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def seen(share: float) -> set[int]:
        monkeypatch.setattr(batches, "TOKENS_SHARE", share)
        rows = [chat_row(0, index, 512, prompt_every=10) for index in range(20)]
        return {token for row in rows for token in row.ids}

    without, always = seen(0.0), seen(1.0)
    assert len(always) > len(without) + 200
    assert max(always) < tokenizer.NUM_TOKENS


def test_of_a_held_out_example_only_answers_count() -> None:
    row = held_out_row("json", 0)
    (question, answer) = corpus.example("json", "validation:0", held_out=True).turns[0]
    assert sum(row.weights) == len(tokenizer.encode(answer)) + 1
    assert row.ids[1 : 1 + len(tokenizer.encode(question))] == tokenizer.encode(question)


def test_rows_are_cut_off_or_filled() -> None:
    ids, weights = stack([Row([1, 2, 3], [1.0, 0.0, 1.0]), Row([4], [1.0])], 2)
    assert ids.tolist() == [[1, 2], [4, 0]]
    assert weights.tolist() == [[1.0, 0.0], [1.0, 0.0]]
    assert (ids.dtype, weights.dtype) == (np.int64, np.float32)
