"""Sorting by what precedes: the library, numpy and Python's sort agree."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sssd_local.draft.datastore import TokenArray
from sssd_local.errors import SSSDError
from sssd_local.store import order as module
from sssd_local.store.order import context_order, library, sort_by_library, sort_by_numpy

needs_library = pytest.mark.skipif(library() is None, reason="pydivsufsort is not installed")


def plainly_sorted(tokens: TokenArray) -> list[int]:
    values = tokens.tolist()
    return sorted(range(len(values)), key=lambda position: values[position::-1])


def random_tokens(seed: int, size: int, num_vocab: int) -> TokenArray:
    random = np.random.default_rng(seed)
    dtype = np.uint16 if num_vocab < 2**16 else np.uint32
    tokens = random.integers(0, num_vocab + 1, size).astype(dtype)
    for _ in range(size // 50):
        source, target = random.integers(0, max(1, size - 20), 2)
        tokens[target : target + 20] = tokens[source : source + 20]
    return tokens


CASES = [(0, 1, 5), (1, 2, 1), (2, 300, 2), (3, 700, 40), (4, 2000, 300), (5, 2000, 128_256)]


@pytest.mark.parametrize(("seed", "size", "num_vocab"), CASES)
@pytest.mark.parametrize("chunk", [16, module.CHUNK])
def test_numpy_sorts_as_python_does(
    seed: int, size: int, num_vocab: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", chunk)
    tokens = random_tokens(seed, size, num_vocab)
    assert sort_by_numpy(tokens).tolist() == plainly_sorted(tokens)


@needs_library
@pytest.mark.parametrize(("seed", "size", "num_vocab"), CASES)
@pytest.mark.parametrize("chunk", [16, module.CHUNK])
def test_the_library_sorts_as_python_does(
    seed: int, size: int, num_vocab: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", chunk)
    tokens = random_tokens(seed, size, num_vocab)
    assert sort_by_library(tokens).tolist() == plainly_sorted(tokens)


@needs_library
@pytest.mark.parametrize(("size", "num_vocab"), [(50_000, 2000), (200_000, 150_000)])
def test_the_library_sorts_as_numpy_does(size: int, num_vocab: int) -> None:
    tokens = random_tokens(7, size, num_vocab)
    # More different tokens than two bytes tell.
    assert (len(np.unique(tokens)) > 2**16) == (num_vocab > 2**16)
    assert np.array_equal(sort_by_library(tokens), sort_by_numpy(tokens))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60))
def test_repetitive_texts_are_sorted_right(values: list[int]) -> None:
    tokens = np.array(values, np.uint16)
    expected = plainly_sorted(tokens)
    assert sort_by_numpy(tokens).tolist() == expected
    if library() is not None:
        assert sort_by_library(tokens).tolist() == expected


@pytest.mark.parametrize("present", [True, False])
def test_only_tokens_that_a_token_follows_are_kept(
    present: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not present:
        monkeypatch.setattr(module, "library", lambda: None)
    tokens = np.array([9, 3, 1, 9, 9, 2, 1, 3, 9], np.uint16)
    order = context_order(tokens, 9)
    assert order.dtype == np.uint32
    # 1 after 2, then 2, then 3, which begins a text.
    assert order.tolist() == [6, 5, 1]


def test_nothing_to_sort() -> None:
    for values in ([], [4], [4, 1, 4], [4, 4]):
        assert context_order(np.array(values, np.uint16), 4).tolist() == []


def test_too_many_tokens_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TOKENS", 5)
    with pytest.raises(SSSDError, match="cannot have 6 tokens; --segment-tokens is at most 5"):
        context_order(np.zeros(6, np.uint16), 4)


def test_a_library_that_does_not_load_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise OSError("no such symbol")

    monkeypatch.setattr(module, "import_module", fail)
    assert library() is None
