"""The alignment: what an answer follows, where it comes back to it, and what it replaces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sssd_local.draft.alignment import (
    AFTER,
    BEFORE,
    IN_PLACE,
    LEAST_MATCH,
    MAX_BLIND,
    MAX_DEPARTURE,
    Alignment,
)
from sssd_local.draft.context import ContextIndex
from sssd_local.draft.rewrites import MAX_ALIKE, MAX_REWRITES, MAX_REWRITTEN, MAX_SEGMENT
from sssd_local.draft.tree import TokenSource

PASSAGE = list(range(100, 140))


class Answer:
    """An answer written after a passage that it begins to copy."""

    def __init__(self, passage: list[int], num_copied: int) -> None:
        self.context = ContextIndex()
        self.context.extend(passage, TokenSource.PROMPT)
        self.alignment = Alignment(self.context)
        for position, token in enumerate(passage[:num_copied]):
            self.write([token], (position, position))

    def write(self, tokens: list[int], place: tuple[int, int] = (-1, 0)) -> None:
        for token in tokens:
            self.alignment.take(token, *place)
            self.context.append(token, TokenSource.OUTPUT)

    def returns(self) -> list[tuple[int, int, int]]:
        return [(found.kind, found.position, found.tokens[0]) for found in self.alignment.returns()]


def test_nothing_is_expected_of_a_text_that_follows_nothing() -> None:
    answer = Answer(PASSAGE, 0)
    assert answer.alignment.is_idle
    answer.write([7, 8, 9], (3, LEAST_MATCH - 1))
    assert answer.alignment.is_idle
    assert answer.returns() == []
    assert not answer.alignment.rewrites


def test_a_departure_is_expected_to_return_in_place_or_before_it() -> None:
    answer = Answer(PASSAGE, 10)
    assert not answer.alignment.is_idle
    assert answer.returns() == []
    answer.write([7])
    assert answer.returns() == [(IN_PLACE, 11, 111), (BEFORE, 10, 110)]
    (first, _) = answer.alignment.returns()
    assert first.tokens == [*PASSAGE[11:], *PASSAGE[:10], 7]
    assert (first.num_written, first.is_seen, first.run) == (1, False, 10)


def test_one_token_that_agrees_again_is_seen() -> None:
    answer = Answer(PASSAGE, 10)
    answer.write([7, 8, 111])
    assert answer.returns()[0] == (AFTER, 12, 112)
    assert next(answer.alignment.returns()).is_seen


@pytest.mark.parametrize(
    ("new", "kept_from"), [([7], 11), ([7, 8, 9], 11), ([7], 13), ([7, 8], 12)]
)
def test_what_was_replaced_is_replaced_again(new: list[int], kept_from: int) -> None:
    """Tokens 110… of the passage come twice more in it; the answer replaces them each time."""
    old = PASSAGE[10:kept_from]
    second = [120, *old, 130, 131, 132]
    passage = [*PASSAGE[:20], *second, 121, *old, 133, 134, 135]
    answer = Answer(passage, 10)
    answer.write([*new, *PASSAGE[kept_from : kept_from + 2]])
    assert not answer.alignment.expects_return
    assert answer.alignment.rewrites
    found = answer.alignment.rewrites.replaced(21)
    assert found is not None
    rewrite, going_on = found
    assert (rewrite.old, rewrite.new, rewrite.hits, rewrite.misses) == (old, new, 1, 0)
    assert going_on[: len(new) + 3] == [*new, 130, 131, 132]
    # Once is too little for what is copied at length.
    assert answer.alignment.rewrites.rewritten(20)[: len(second)] == second
    answer.write([*PASSAGE[kept_from + 2 : 20], 120, *new, 130])
    assert (rewrite.hits, rewrite.misses) == (2, 0)
    third = 20 + len(second)
    assert answer.alignment.rewrites.rewritten(third)[: len(new) + 3] == [121, *new, 133, 134]
    answer.write([131, 132, 121, *new, 133, 134])
    assert (rewrite.hits, rewrite.misses) == (3, 0)
    assert not answer.alignment.expects_return


def test_after_a_rewrite_the_passage_goes_on() -> None:
    passage = [*PASSAGE[:20], 120, 110, 130, 131, 132]
    answer = Answer(passage, 10)
    answer.write([7, 8, 111, 112, *PASSAGE[13:20], 120])
    assert not answer.alignment.expects_return
    answer.write([7])
    assert answer.alignment.expects_return
    (found,) = answer.alignment.returns()
    assert (found.kind, found.tokens[:3], found.num_written) == (AFTER, [8, 130, 131], 1)
    answer.write([8])
    assert answer.returns() == [(AFTER, 22, 130)]
    answer.write([130, 131])
    assert not answer.alignment.expects_return
    assert answer.returns() == []


def test_what_was_added_is_added_after_the_same_two_tokens_only() -> None:
    passage = [*PASSAGE[:20], 108, 109, 130, 131, 109, 132, 108, 109, 133]
    answer = Answer(passage, 10)
    answer.write([7, 8, 110, 111])
    found = answer.alignment.rewrites.replaced(22)
    assert found is not None
    assert found[1][:4] == [7, 8, 130, 131]
    assert answer.alignment.rewrites.replaced(25) is None
    answer.write([*PASSAGE[12:20], 108, 109, 7, 8, 130, 131])
    assert (found[0].old, found[0].new) == ([], [7, 8])
    assert (found[0].hits, found[0].misses) == (2, 0)
    assert answer.alignment.rewrites.rewritten(24)[:7] == [109, 132, 108, 109, 7, 8, 133]


def test_what_was_left_out_is_left_out_after_the_same_two_tokens_only() -> None:
    passage = [*PASSAGE[:20], 108, 109, 110, 131, 110, 132, 108, 109, 110, 133]
    answer = Answer(passage, 10)
    answer.write([111, 112])
    found = answer.alignment.rewrites.replaced(22)
    assert found is not None
    assert found[1][:3] == [131, 110, 132]
    answer.write([*PASSAGE[13:20], 108, 109, 131])
    assert (found[0].old, found[0].new) == ([110], [])
    assert (found[0].hits, found[0].misses) == (2, 0)
    assert answer.alignment.rewrites.rewritten(24)[:5] == [110, 132, 108, 109, 133]


def test_a_rewrite_that_does_not_hold_is_given_up() -> None:
    passage = [*PASSAGE[:14], 110, 120, 121, 110, 122, 123, 110, 124]
    answer = Answer(passage, 10)
    answer.write([7, 111, 112])
    assert answer.alignment.rewrites.replaced(14) is not None
    answer.write([113, 110])
    assert answer.alignment.rewrites.replaced(17) is None
    assert not answer.alignment.expects_return


def test_what_the_answer_kept_before_is_not_replaced_after() -> None:
    passage = [110, *PASSAGE[:30], 110, 120]
    answer = Answer(passage, 11)
    answer.write([7, 111, 112])
    assert answer.alignment.rewrites
    assert answer.alignment.rewrites.replaced(31) is None


def test_the_longest_replaced_stretch_wins() -> None:
    passage = [*PASSAGE[:30], 110, 111, 140, 110, 112, 141]
    answer = Answer(passage, 10)
    answer.write([7, 8, 112, 113, *PASSAGE[14:20]])
    found = answer.alignment.rewrites.replaced(30)
    assert found is not None
    assert found[1][:3] == [7, 8, 140]
    assert answer.alignment.rewrites.replaced(33) is None


def test_a_return_that_nothing_announces_is_not_expected_for_long() -> None:
    answer = Answer(PASSAGE, 10)
    answer.write([7] * MAX_BLIND)
    assert [kind for kind, _, _ in answer.returns()] == [IN_PLACE, BEFORE]
    answer.write([7])
    assert answer.returns() == []
    answer.write([112])
    assert answer.returns() == [(AFTER, 13, 113)]


def test_a_long_departure_ends_the_copy() -> None:
    answer = Answer(PASSAGE, 10)
    answer.write([7] * (MAX_DEPARTURE + 1))
    assert not answer.alignment.is_idle
    answer.write([7])
    assert answer.alignment.is_idle


def test_long_stretches_are_no_rewrites() -> None:
    answer = Answer(PASSAGE, 10)
    answer.write([*([7] * (MAX_SEGMENT + 1)), 111, 112])
    assert answer.returns() == []
    assert not answer.alignment.is_idle
    assert not answer.alignment.rewrites


def test_another_passage_is_followed_where_one_matches() -> None:
    answer = Answer(PASSAGE, 10)
    answer.write([125], (25, 8))
    answer.write([126, 9])
    assert answer.returns() == [(IN_PLACE, 28, 128), (BEFORE, 27, 127)]


def test_rewrites_are_bounded_and_forgotten_with_the_answer() -> None:
    line = list(range(9000, 9009))
    names = [5, 5, 5, *range(10, 10 + MAX_REWRITES), 5]
    passage = [token for name in names for token in (name, *line)]
    answer = Answer(passage, 1)
    # Nothing is replaced before the copy is seen to be one.
    answer.write([*line[:-1], 9008], (1, 8))
    for name in names[1:-1]:
        answer.write([20_000 + name, *line])
        assert len(answer.alignment.rewrites) <= MAX_REWRITES
    # Those that came true once made room for others; this one came true twice.
    found = answer.alignment.rewrites.replaced(len(passage) - 10)
    assert found is not None
    assert (found[0].old, found[0].new) == ([5], [20_005])
    answer.alignment.reset()
    assert answer.alignment.is_idle
    assert not answer.alignment.rewrites


def test_of_what_begins_alike_the_newest_are_kept() -> None:
    line = list(range(9000, 9009))
    passage = [token for _ in range(MAX_ALIKE + 4) for token in (5, *line)]
    answer = Answer(passage, 10)
    for number in range(MAX_ALIKE + 3):
        answer.write([20_000 + number, *line])
    (known,) = answer.alignment.rewrites._replaced.values()
    assert [rewrite.new for rewrite in known] == [
        [20_000 + number] for number in range(3, MAX_ALIKE + 3)
    ]
    # Each was expected once more and did not come.
    assert {rewrite.misses for rewrite in known[:-1]} == {1}


def test_a_rewrite_that_goes_on_otherwise_is_learned_as_it_is() -> None:
    passage = [*PASSAGE[:20], 110, 130, 131, 110, 132, 133, 110, 134]
    answer = Answer(passage, 10)
    answer.write([7, 8, 111, 112, *PASSAGE[13:20]])
    answer.write([7, 9, 130, 131])
    found = {tuple(rewrite.new) for rewrite in answer.alignment.rewrites._replaced[110]}
    assert found == {(7, 8), (7, 9)}
    assert answer.alignment.rewrites._changed == {}
    newest = answer.alignment.rewrites.replaced(23)
    assert newest is not None
    assert newest[1][:3] == [7, 9, 132]
    # And one that is shorter than it was.
    answer.write([7, 132, 133])
    assert answer.alignment.rewrites._replaced[110][-1].new == [7]
    assert answer.alignment.rewrites._changed == {}


def test_an_addition_that_came_true_is_offered_once() -> None:
    passage = [*PASSAGE[:20], 108, 109, 130, 131, 132, 108, 109, 133, 134]
    answer = Answer(passage, 10)
    answer.write([7, 8, *PASSAGE[10:20], 108, 109, 7, 8, 130, 131])
    found = answer.alignment.rewrites.replaced(27)
    assert found is not None
    assert found[0].hits == 2
    assert found[1][:4] == [7, 8, 133, 134]


def test_additions_where_the_answer_begins_have_no_misses() -> None:
    context = ContextIndex()
    context.extend([*PASSAGE, *PASSAGE[:10]], TokenSource.PROMPT)
    alignment = Alignment(context)
    for token, place in ((110, (10, 10)), (7, (-1, 0)), (111, (-1, 0)), (112, (-1, 0))):
        alignment.take(token, *place)
        context.append(token, TokenSource.OUTPUT)
    ((rewrite,),) = alignment.rewrites._changed.values()
    assert (rewrite.before, rewrite.old, rewrite.new) == ([109, 110], [], [7])
    assert rewrite.misses == 0


@given(
    passage=st.lists(st.integers(0, 5), min_size=8, max_size=60),
    answer=st.lists(st.integers(0, 5), max_size=60),
    places=st.lists(st.integers(0, 40), min_size=60, max_size=60),
)
def test_any_text_can_be_taken_in(passage: list[int], answer: list[int], places: list[int]) -> None:
    written = Answer(passage, 6)
    for token, place in zip(answer, places, strict=False):
        length = written.context.length
        standing = place < length and written.context.tokens[place] == token
        written.write([token], (place, place % 9) if standing else (-1, 0))
        history = set(passage) | set(answer)
        for found in written.alignment.returns():
            assert 0 < len(found.tokens) <= MAX_REWRITTEN * (1 + MAX_SEGMENT)
            assert 0 <= found.position < written.context.length
            assert set(found.tokens) <= history
        rewrites = written.alignment.rewrites
        for table, proven in (
            (rewrites._replaced, rewrites._proven_replaced),
            (rewrites._changed, rewrites._proven_changed),
        ):
            counted = {
                key
                for key, known in table.items()
                if any(2 <= rewrite.hits > rewrite.misses for rewrite in known)
            }
            assert proven == counted
        for position in range(0, written.context.length, 7):
            assert set(written.alignment.rewrites.rewritten(position)) <= history
            replaced = written.alignment.rewrites.replaced(position)
            if replaced is not None:
                assert replaced[1][0] != written.context.tokens[position]


def test_rewriting_ends_though_something_is_added_everywhere() -> None:
    passage = [1] * 200
    answer = Answer(passage, 10)
    for _ in range(6):
        answer.write([4, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1])
    assert len(answer.alignment.rewrites.rewritten(20)) <= MAX_REWRITTEN * (1 + MAX_SEGMENT)
