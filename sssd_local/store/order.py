"""Sorting the positions of a token array by what precedes them: a suffix array read backwards."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sssd_local.draft.datastore import OrderArray, TokenArray
from sssd_local.errors import SSSDError

# Byte strings of 2^31 bytes and more would need 8 bytes a place.
MAX_TOKENS = (2**31 - 1) // 3
# Elements treated at a time where a temporary array of all would cost too much memory.
CHUNK = 1 << 20


def context_order(tokens: TokenArray, num_vocab: int) -> OrderArray:
    """Positions sorted by the tokens read backwards from there, uint32 [m].

    Only tokens that a token follows are kept; `num_vocab` is the separator. Takes at most 24 bytes
    a token with `tokens`. Uses libdivsufsort where pydivsufsort is installed, else numpy; the
    result is the same.
    """
    if len(tokens) > MAX_TOKENS:
        raise SSSDError(
            f"a segment cannot have {len(tokens)} tokens; --segment-tokens is at most {MAX_TOKENS}"
        )
    if len(tokens) < 2:
        return np.empty(0, np.uint32)
    suffixes = sort_by_library(tokens) if library() else sort_by_numpy(tokens)
    return _with_follower(suffixes, tokens, num_vocab)


def library() -> Any:
    """pydivsufsort; None where it is not installed or does not load."""
    try:
        return import_module("pydivsufsort")
    except (ImportError, OSError):
        return None


def sort_by_library(tokens: TokenArray) -> OrderArray:
    """All positions by the tokens read backwards, uint32 [n], by libdivsufsort.

    Each token becomes 2 or 3 bytes, big end first; suffixes that start inside one are dropped.
    """
    # Most segments use few enough different tokens for 2 bytes each.
    used = np.zeros(int(tokens.max()) + 1, np.bool_)
    used[tokens] = True
    num_used = int(np.count_nonzero(used))
    codes = np.cumsum(used, dtype=np.uint32) - np.uint32(1)
    num_bytes = 2 if num_used <= 1 << 16 else 3
    suffixes = library().divsufsort(_spelled(tokens, codes, num_bytes))
    kept = 0
    for start in range(0, len(suffixes), CHUNK):
        part = suffixes[start : start + CHUNK]
        part = part[part % num_bytes == 0] // num_bytes
        suffixes[kept : kept + len(part)] = part
        kept += len(part)
    return _mirrored(suffixes[:kept])


def _spelled(tokens: TokenArray, codes: NDArray[np.uint32], num_bytes: int) -> NDArray[np.uint8]:
    """The tokens from last to first, each as its code's bytes."""
    spelled = np.empty((len(tokens), num_bytes), np.uint8)
    for start in range(0, len(tokens), CHUNK):
        part = codes[tokens[::-1][start : start + CHUNK]].astype(">u4").view(np.uint8)
        spelled[start : start + CHUNK] = part.reshape(-1, 4)[:, 4 - num_bytes :]
    return spelled.reshape(-1)


def _mirrored(suffixes: Any) -> OrderArray:
    """Suffixes of the reversed array as positions of the array itself."""
    order = np.empty(len(suffixes), np.uint32)
    np.subtract(len(suffixes) - 1, suffixes, out=order, casting="unsafe")
    return order


def _with_follower(suffixes: OrderArray, tokens: TokenArray, num_vocab: int) -> OrderArray:
    """Leaves out separators and tokens before one, in place."""
    kept = 0
    for start in range(0, len(suffixes), CHUNK):
        part = suffixes[start : start + CHUNK]
        part = part[part < len(tokens) - 1]
        part = part[(tokens[part] != num_vocab) & (tokens[part + np.uint32(1)] != num_vocab)]
        suffixes[kept : kept + len(part)] = part
        kept += len(part)
    return suffixes[:kept]


def sort_by_numpy(tokens: TokenArray) -> OrderArray:
    """All positions by the tokens read backwards, uint32 [n], by prefix doubling.

    Manber and Myers 1990; only groups that are still tied are sorted again, and ranks refined in
    the same round may be used at once (Larsson and Sadakane 2007).
    """
    values = tokens[::-1]
    order, ranks = _sorted_by_one(values)
    tied = _places(_is_tied(ranks[order]))
    depth = 1
    while len(tied):
        groups = _whole_groups(_starts(order, ranks, tied), tied)
        tied = np.concatenate([_refine(order, ranks, places, depth) for places in groups])
        depth *= 2
    return _mirrored(order)


def _starts(order: OrderArray, ranks: OrderArray, places: OrderArray) -> OrderArray:
    """Where the group of each place starts."""
    starts = np.empty_like(places)
    for start in range(0, len(places), CHUNK):
        starts[start : start + CHUNK] = ranks[order[places[start : start + CHUNK]]]
    return starts


def _whole_groups(starts: OrderArray, tied: OrderArray) -> list[OrderArray]:
    """The tied places in parts of about CHUNK, none of which divides a group."""
    borders = _places(starts[1:] != starts[:-1]) + np.uint32(1)
    wanted = np.arange(CHUNK, len(tied), CHUNK)
    if not len(borders) or not len(wanted):
        return [tied]
    return np.split(tied, np.unique(borders[np.searchsorted(borders, wanted) - 1]))


def _sorted_by_one(values: TokenArray) -> tuple[OrderArray, OrderArray]:
    """Positions sorted by their token; a position's rank is where its equals start."""
    keys = values.astype(np.uint64)
    keys <<= np.uint64(32)
    keys |= np.arange(len(values), dtype=np.uint32)
    keys.sort()
    order = keys.astype(np.uint32)
    del keys
    ranks = np.empty(len(values), np.uint32)
    ranks[order] = _group_starts(values[order], np.arange(len(values), dtype=np.uint32))
    return order, ranks


def _group_starts(keys: Any, starts: OrderArray) -> OrderArray:
    """Turns the places of some sorted keys into the places where their equals start."""
    starts[1:][keys[1:] == keys[:-1]] = 0
    np.maximum.accumulate(starts, out=starts)
    return starts


def _is_tied(starts: OrderArray) -> NDArray[np.bool_]:
    """Whether a neighbour is of the same group."""
    tied = np.zeros(len(starts), np.bool_)
    np.equal(starts[1:], starts[:-1], out=tied[1:])
    tied[:-1] |= tied[1:]
    return tied


def _places(mask: NDArray[np.bool_]) -> OrderArray:
    """Where a mask is true, as uint32."""
    parts = [
        np.flatnonzero(mask[start : start + CHUNK]).astype(np.uint32) + np.uint32(start)
        for start in range(0, len(mask), CHUNK)
    ]
    return np.concatenate(parts) if parts else np.empty(0, np.uint32)


def _refine(order: OrderArray, ranks: OrderArray, places: OrderArray, depth: int) -> OrderArray:
    """Sorts whole groups at `places` by their next `depth` tokens; returns what is still tied."""
    positions = order[places]
    keys = ranks[positions].astype(np.uint64) << np.uint64(32)
    after = positions.astype(np.int64) + depth
    inside = after < len(order)
    # A suffix that ends sorts before all that go on.
    keys[inside] |= ranks[after[inside]] + np.uint64(1)
    rearranged = np.argsort(keys)
    keys, positions = keys[rearranged], positions[rearranged]
    order[places] = positions
    starts = _group_starts(keys, places.copy())
    ranks[positions] = starts
    return places[_is_tied(starts)]
