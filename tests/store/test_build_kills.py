"""Builds from files that die at any moment, and go on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from sssd_local.store import order
from sssd_local.store.build import add_to_datastore, build_datastore
from sssd_local.store.datastores import datastore_folder, find_datastore, verify_datastore
from sssd_local.store.ingest import BuildOptions
from sssd_local.store.manifest import NAME
from tests.store.kills import killed_after, moments, run_traced
from tests.store.stores import stored

NUM_KILLS = 40
# Small segments, so that there is much to commit.
OPTIONS = BuildOptions(segment_tokens=60, threads=1)
# Lines run may vary a little, as tokenising is waited for.
SURE_PART = 0.95


def write(name: str, model: Path, first: Path, second: Path, committed: Callable[[], None]) -> None:
    build_datastore(name, model, [str(first)], OPTIONS)
    committed()
    add_to_datastore(name, [str(second)], options=OPTIONS)
    committed()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_killed_build_goes_on_and_holds_every_text_once(
    tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The library's threads do not live on in a forked process.
    monkeypatch.setattr(order, "library", lambda: None)
    model, paths = tiny_model(), [tmp_path / name for name in ("first.jsonl", "second.jsonl")]
    texts = [[f"{path.stem} {index}" for index in range(20)] for path in paths]
    for path, some in zip(paths, texts, strict=True):
        path.write_text("\n".join(json.dumps({"text": text}) for text in some))
    for name in ("unused", "whole"):
        num_lines = run_traced(partial(write, name, model, *paths), -1, lambda: None)
    assert stored("whole", model) == [*texts[0], *texts[1]]
    for line in moments(int(SURE_PART * num_lines), NUM_KILLS):
        name = f"killed-{line}"
        commits = killed_after(partial(write, name, model, *paths), line)
        begun = (datastore_folder(name) / NAME).exists()
        held = stored(name, model) if begun else []
        assert held == [*texts[0], *texts[1]][: len(held)]
        assert len(held) >= (0, 20)[commits]
        assert not begun or verify_datastore(name) == []
        if not begun or find_datastore(name).unfinished:
            build_datastore(name, model, [str(paths[0])], OPTIONS)
        add_to_datastore(name, [str(paths[1])], options=OPTIONS)
        assert stored(name, model) == [*texts[0], *texts[1]]
        assert verify_datastore(name) == []
