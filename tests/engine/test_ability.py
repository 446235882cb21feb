"""One rule says what drafts an architecture can check."""

from __future__ import annotations

import pytest

from sssd_local.engine.ability import (
    RECURRENT,
    SNAPSHOTS,
    UNTESTED,
    RollBackKind,
    Speculation,
    find_ability,
)


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "phi3", "gemma3", "gpt2", "new-one"])
def test_caches_that_drop_cells_take_trees(name: str) -> None:
    found = find_ability(name, recurrent=False)
    assert (found.speculation, found.roll_back) == (Speculation.TREE, RollBackKind.REMOVE)
    assert found.reason == ""


def test_a_small_window_takes_chains() -> None:
    found = find_ability("gemma3", recurrent=False, swa_full=False)
    assert (found.speculation, found.roll_back) == (Speculation.CHAIN, RollBackKind.REMOVE)
    assert found.reason == "its sliding window is not kept whole"


@pytest.mark.parametrize("name", sorted(RECURRENT - UNTESTED))
def test_recurrent_layers_take_chains(name: str) -> None:
    found = find_ability(name, recurrent=True)
    kind = RollBackKind.SNAPSHOT if name in SNAPSHOTS else RollBackKind.RESTORE
    assert (found.speculation, found.roll_back) == (Speculation.CHAIN, kind)
    assert "no branches" in found.reason
    without = find_ability(name, recurrent=True, snapshots=False)
    assert without.roll_back is RollBackKind.RESTORE


@pytest.mark.parametrize(
    ("name", "recurrent", "kind"),
    [
        *((name, name in RECURRENT, None) for name in sorted(UNTESTED)),
        ("a-new-mamba", True, RollBackKind.NONE),
    ],
)
def test_what_was_never_tested_is_decoded_plainly(
    name: str, recurrent: bool, kind: RollBackKind | None
) -> None:
    found = find_ability(name, recurrent=recurrent)
    assert found.speculation is Speculation.NONE
    assert found.roll_back is (RollBackKind.NONE if recurrent else RollBackKind.REMOVE)
    assert kind in (None, found.roll_back)
    assert found.reason == "its kind of cache was not tested"


def test_names_are_texts() -> None:
    assert [kind.value for kind in Speculation] == ["tree", "chain", "none"]
    assert f"{Speculation.CHAIN}" == "chain"
