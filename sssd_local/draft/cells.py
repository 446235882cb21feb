"""Which weights a candidate's evidence selects: the tables and the cells in them."""

from __future__ import annotations

from collections.abc import Sequence

from sssd_local.draft.alignment import Return
from sssd_local.draft.context import MAX_GAP, MAX_MATCH, ORDERS, Follower, Followers
from sssd_local.draft.source import Named
from sssd_local.draft.tree import TokenSource

Cells = tuple[int, ...]


def _bins(edges: Sequence[int], size: int) -> list[int]:
    """Bin of each number 0…size-1: how many edges it has reached."""
    return [sum(number >= edge for edge in edges) for number in range(size)]


MAX_COUNT = 64
MATCH_BIN = _bins((2, 3, 4, 5, 7, 10, 16, 32), MAX_MATCH + 1)
# The same with a bin for no match at all.
ANY_MATCH_BIN = [0, *(1 + number for number in MATCH_BIN[1:])]
COUNT_BIN = _bins((2, 3, 5, 9), MAX_COUNT + 1)
OTHERS_BIN = _bins((1, 2, 3, 5), MAX_COUNT + 1)
LOOSE_COUNT_BIN = _bins((2, 3, 5, 9), MAX_COUNT + 1)
LOOSE_OTHERS_BIN = _bins((1, 2, 3, 5, 9, 17), MAX_COUNT + 1)
NUM_TOKENS_BIN = _bins((2, 3, 4, 6, 9), MAX_COUNT + 1)
RANK_BIN = _bins((1, 2, 3, 5, 8), MAX_COUNT + 1)
WRITTEN_BIN = _bins((2, 3, 5), MAX_COUNT + 1)
RUN_BIN = _bins((8, 16), MAX_MATCH + 1)
TIMES_BIN = _bins((1, 2, 4), MAX_COUNT + 1)
MAX_AGE = 2048
AGE_BIN = _bins((8, 16, 32, 64, 128, 256, 512, 1024, MAX_AGE), MAX_AGE + 1)
HASHED = 4096
# Sources beside the running context; each has its own part of the tables below.
FIRST_HELPER = TokenSource.DATASTORE
NUM_HELPERS = len(TokenSource) - FIRST_HELPER

# The tables, one after another in one flat list of weights.
TABLE_SIZES = {
    "agreement": 9 * 5 * 5,
    "gap": 9 * (MAX_GAP + 1),
    "rank": 6 * 6,
    "loose": 5 * 7,
    "rival": 9 * 10,
    "age": 10,
    "run": 9,
    "return": 3 * 4 * 2 * 3,
    "return_also": 3 * 4 * 2 * 3,
    "return_run": 9,
    "rewrite": 4 * 4,
    "rewrite_match": 10,
    "replaced": 4 * 4,
    "only": NUM_HELPERS * 9 * 5 * 7,
    "only_rank": NUM_HELPERS * 6 * 10,
    "only_rival": NUM_HELPERS * 9 * 10,
    "also": NUM_HELPERS * 9 * 5 * 7,
    "also_match": NUM_HELPERS * 9 * 10,
    "against": NUM_HELPERS * 9 * 10,
    "copy": NUM_HELPERS * 9,
    "trust": NUM_HELPERS,
    "last": HASHED,
    "token": HASHED,
    "pair": HASHED,
    "answer": len(ORDERS) + 2,
}
# Tables a context candidate selects from before those of tokens.
NUM_EVIDENCE = 6
CONTEXT_TABLES = ("agreement", "gap", "rank", "loose", "rival", "age", "run")
ALIGNMENT_TABLES = ("return", "return_also", "return_run", "rewrite", "rewrite_match", "replaced")
HELPER_TABLES = ("only", "only_rank", "only_rival", "also", "also_match", "against", "copy")
KEPT_TABLES = (*CONTEXT_TABLES, *ALIGNMENT_TABLES, *HELPER_TABLES)
OFFSETS: dict[str, int] = {}
NUM_WEIGHTS = 0
for _name, _size in TABLE_SIZES.items():
    OFFSETS[_name] = NUM_WEIGHTS
    NUM_WEIGHTS += _size

_AGREEMENT, _GAP, _RANK, _LOOSE, _RIVAL, _AGE, _RUN = (OFFSETS[name] for name in CONTEXT_TABLES)
_RETURN, _RETURN_ALSO, _RETURN_RUN, _REWRITE, _REWRITE_MATCH, _REPLACED = (
    OFFSETS[name] for name in ALIGNMENT_TABLES
)
_ONLY, _ONLY_RANK, _ONLY_RIVAL, _ALSO, _ALSO_MATCH, _AGAINST, _COPY = (
    OFFSETS[name] for name in HELPER_TABLES
)
_TRUST, _LAST, _TOKEN, _PAIR, _ANSWER = (
    OFFSETS[name] for name in ("trust", "last", "token", "pair", "answer")
)
_ANSWER_RETURN, _ANSWER_REWRITE = _ANSWER + len(ORDERS), _ANSWER + len(ORDERS) + 1


def _two_longest(items: Sequence[Follower]) -> tuple[int, int]:
    """The longest match length and the longest of another item; 0 if there is none."""
    longest = second = 0
    for item in items:
        if item.size > longest:
            longest, second = item.size, longest
        elif item.size > second:
            second = item.size
    return longest, second


def context_cells(followers: Followers, last_token: int) -> list[Cells]:
    """The cells of each follower's evidence, in the followers' order."""
    totals, items = followers.totals, followers.items
    reached, sums = 0, [0] * len(totals)
    for level in range(len(totals) - 1, -1, -1):
        reached += totals[level]
        sums[level] = reached
    longest, second = _two_longest(items)
    alternatives = _RANK + 6 * NUM_TOKENS_BIN[min(len(items), MAX_COUNT)]
    cells: list[Cells] = []
    for rank, item in enumerate(items):
        size, level, token = item.size, item.level, item.token
        match = MATCH_BIN[size]
        rival = second if size == longest else longest
        agreement = 25 * match + 5 * COUNT_BIN[item.level_count]
        loose = 7 * LOOSE_COUNT_BIN[item.count] + LOOSE_OTHERS_BIN[reached - item.count]
        age = followers.end - item.position
        cells.append(
            (
                _AGREEMENT + agreement + OTHERS_BIN[sums[level] - item.level_count],
                _GAP + (MAX_GAP + 1) * match + item.gap,
                alternatives + RANK_BIN[min(rank, MAX_COUNT)],
                _LOOSE + loose,
                _RIVAL + 10 * match + (MATCH_BIN[rival] + 1 if rival else 0),
                _AGE + AGE_BIN[age if age < MAX_AGE else MAX_AGE],
                _LAST + (4 * last_token + level) % HASHED,
                _TOKEN + (4 * token + level) % HASHED,
                _PAIR + (31 * last_token + token) % HASHED,
                _ANSWER + level,
            )
        )
    return cells


def run_cells(kind: int, size: int, last_token: int, token: int) -> Cells:
    """The cells of the next token of a long copy, `size` tokens of which agree so far.

    Below zero: so many after a return to a passage that is itself a guess.
    """
    level = len(ORDERS) - 1
    helper = kind - FIRST_HELPER
    first = _RETURN_RUN if size < 0 else _RUN if helper < 0 else _COPY + 9 * helper
    return (
        first + MATCH_BIN[abs(size)],
        _LAST + (4 * last_token + level) % HASHED,
        _TOKEN + (4 * token + level) % HASHED,
        _PAIR + (31 * last_token + token) % HASHED,
        _ANSWER_RETURN if size < 0 else _ANSWER + level,
    )


def return_cells(found: Return, last_token: int, token: int) -> Cells:
    """The cells of a candidate that only the return to a passage names."""
    return (_RETURN + _return_bin(found), *_token_cells(last_token, token), _ANSWER_RETURN)


def return_also_cells(found: Return) -> Cells:
    """The cell added to a candidate that the return to a passage names too."""
    return (_RETURN_ALSO + _return_bin(found),)


def _return_bin(found: Return) -> int:
    written = WRITTEN_BIN[min(found.num_written, MAX_COUNT)]
    seen = 2 * (4 * found.kind + written) + found.is_seen
    return 3 * seen + RUN_BIN[min(found.run, MAX_MATCH)]


def rewrite_cells(hits: int, misses: int, size: int, last_token: int, token: int) -> Cells:
    """The cells of what stands for the next token of a passage that matches over `size` tokens."""
    return (
        _REWRITE + _times(hits, misses),
        _REWRITE_MATCH + ANY_MATCH_BIN[size],
        *_token_cells(last_token, token),
        _ANSWER_REWRITE,
    )


def replaced_cells(hits: int, misses: int) -> Cells:
    """The cell added to a candidate that a rewrite replaces."""
    return (_REPLACED + _times(hits, misses),)


def _times(hits: int, misses: int) -> int:
    return 4 * TIMES_BIN[min(hits, MAX_COUNT)] + TIMES_BIN[min(misses, MAX_COUNT)]


def _token_cells(last_token: int, token: int) -> Cells:
    return (
        _LAST + 4 * last_token % HASHED,
        _TOKEN + 4 * token % HASHED,
        _PAIR + (31 * last_token + token) % HASHED,
    )


def only_cells(kind: int, named: Named, rank: int, longest: int, last_token: int) -> Cells:
    """The cells of a candidate that the context does not name; `longest` is its longest match."""
    token, size, count, others, _ = named
    helper, match = kind - FIRST_HELPER, MATCH_BIN[size]
    rival = ANY_MATCH_BIN[longest]
    return (
        _ONLY + ((helper * 9 + match) * 5 + COUNT_BIN[count]) * 7 + LOOSE_OTHERS_BIN[others],
        _ONLY_RANK + (helper * 6 + RANK_BIN[rank]) * 10 + rival,
        _ONLY_RIVAL + (helper * 9 + match) * 10 + rival,
        _TRUST + helper,
        *_token_cells(last_token, token),
    )


def also_cells(kind: int, named: Named, size: int) -> Cells:
    """The cells added to a candidate, of match length `size`, that a helper names too."""
    helper, match = kind - FIRST_HELPER, MATCH_BIN[named.size]
    counts = COUNT_BIN[named.times] * 7 + LOOSE_OTHERS_BIN[named.others]
    return (
        _ALSO + (helper * 9 + match) * 35 + counts,
        _ALSO_MATCH + (helper * 9 + match) * 10 + ANY_MATCH_BIN[size],
    )


def against_cells(kind: int, longest: int, size: int) -> Cells:
    """The cell added to a candidate, of match length `size`, that a helper does not name.

    `longest` is the helper's longest match.
    """
    return (_AGAINST + ((kind - FIRST_HELPER) * 9 + MATCH_BIN[longest]) * 10 + ANY_MATCH_BIN[size],)
