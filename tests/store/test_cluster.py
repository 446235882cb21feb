"""Building on a local Dask cluster of processes, one of which is killed on the way."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sssd_local.config import ModelConfig
from sssd_local.engine.model import Model
from sssd_local.store import cluster as module
from sssd_local.store.build import add_to_datastore, build_datastore, rebuild_datastore
from sssd_local.store.cluster import Cluster, grouped, make_part
from sssd_local.store.datastores import (
    datastore_names,
    find_datastore,
    verify_datastore,
)
from sssd_local.store.errors import StoreError
from sssd_local.store.fingerprint import tokenizer_fingerprint
from sssd_local.store.ingest import BuildOptions, Report
from sssd_local.store.order import context_order
from sssd_local.store.segment import join
from sssd_local.store.sources import Place, examine
from tests.store.stores import new_manifest, stored

TinyModel = Callable[..., Path]
distributed = pytest.importorskip("distributed")
dask = pytest.importorskip("dask")


@pytest.fixture(scope="module")
def running() -> Iterator[Any]:
    """Three workers, each a process of its own."""
    with distributed.LocalCluster(
        n_workers=3, threads_per_worker=1, dashboard_address=":0", silence_logs=50
    ) as found:
        yield found


@pytest.fixture
def model(tiny_model: TinyModel) -> Path:
    return tiny_model()


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for index in range(30):
        (folder / f"{index:02d}.txt").write_text(f"the rain {index} on the hill and the plain")
    return folder


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MIN_PART_BYTES", 100)
    monkeypatch.setattr(module, "MAX_PART_TOKENS", 60)
    monkeypatch.setattr(module, "FILES_A_LOOK", 7)


@pytest.mark.usefixtures("small_parts")
def test_a_cluster_builds_the_same(running: Any, model: Path, texts: Path) -> None:
    (texts / "30.bin").write_bytes(b"\0")
    (texts / "31.txt").write_text((texts / "00.txt").read_text())
    (texts / "32.jsonl").write_text('{"text": "wind"}\n{"no": 1}\n')
    build_datastore("alone", model, [str(texts)])
    options = BuildOptions(cluster=running.scheduler_address, stdin=lambda: b"piped")
    report = build_datastore("together", model, [str(texts), "-"], options)
    assert sorted(stored("together", model)) == sorted([*stored("alone", model), "piped"])
    assert verify_datastore("together") == []
    manifest = find_datastore("together")
    assert len(manifest.segments) > 8
    assert (manifest.unfinished, manifest.num_texts) == ((), 32)
    assert (report.num_files, report.num_found, report.num_texts) == (32, 34, 32)
    reasons = sorted(item.reason for item in report.skipped)
    assert reasons == ["1 lines have no text", "binary, or not UTF-8", "stored already"]
    assert report.num_tokens == manifest.num_tokens


@pytest.mark.usefixtures("small_parts")
@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
def test_a_worker_killed_on_the_way_costs_nothing_but_time(
    running: Any, model: Path, texts: Path
) -> None:
    killed: list[int] = []

    def kill(report: Report) -> None:
        if report.num_files and not killed:
            killed.append(next(iter(running.workers.values())).pid)
            os.kill(killed[0], signal.SIGKILL)

    options = BuildOptions(cluster=running.scheduler_address, progress=kill)
    build_datastore("notes", model, [str(texts)], options)
    assert killed
    assert sorted(stored("notes", model)) == sorted(path.read_text() for path in texts.iterdir())
    assert verify_datastore("notes") == []


class Interrupt(BaseException):
    pass


@pytest.mark.usefixtures("small_parts")
def test_it_goes_on_where_it_was_cut_off(running: Any, model: Path, texts: Path) -> None:
    def stop(report: Report) -> None:
        if report.num_files > 5:
            raise Interrupt

    address = running.scheduler_address
    with pytest.raises(Interrupt):
        build_datastore("notes", model, [str(texts)], BuildOptions(cluster=address, progress=stop))
    num_kept = find_datastore("notes").num_texts
    assert 5 < num_kept < 30
    report = add_to_datastore("notes", [str(texts)], options=BuildOptions(cluster=address))
    assert report.num_files == 30 - num_kept
    assert sorted(stored("notes", model)) == sorted(path.read_text() for path in texts.iterdir())
    assert find_datastore("notes").unfinished == ()
    rebuild_datastore("notes", options=BuildOptions(cluster=address))
    assert find_datastore("notes").num_texts == 30


@pytest.mark.usefixtures("small_parts")
def test_what_is_too_large_for_a_worker_is_read_here(
    running: Any, model: Path, texts: Path
) -> None:
    large = "the rain on the hill\n" * 40
    (texts / "large.txt").write_text(large)
    options = BuildOptions(cluster=running.scheduler_address)
    report = build_datastore("notes", model, [str(texts)], options)
    assert report.num_files == 31
    assert large in stored("notes", model)


def test_a_part_is_a_segment(model: Path, texts: Path) -> None:
    places = [examine(path) for path in sorted(texts.iterdir())[:2]]
    assert all(isinstance(place, Place) and place.num_bytes > 30 for place in places)
    part = make_part(str(model), tokenizer_fingerprint(model), 320, places)  # type: ignore[arg-type]
    vocabulary = Model(model, ModelConfig(), vocab_only=True)
    expected = join(
        [
            vocabulary.tokenize(Path(p.name).read_text(), add_special=False, parse_special=False)
            for p in places
        ],
        320,
    )
    vocabulary.close()
    assert np.array_equal(part.tokens, expected)
    assert np.array_equal(part.order, context_order(expected, 320))
    assert [source.num_texts for source in part.sources] == [1, 1]
    with pytest.raises(StoreError, match="a worker has another model at"):
        make_part(str(model), "other", 320, [])


def test_places_are_grouped_by_size() -> None:
    places = [Place(str(size), "", 0.0, num_bytes=size) for size in (3, 4, 5, 20, 1)]
    groups = [[place.num_bytes for place in group] for group in grouped(places, 8)]
    assert groups == [[3, 4], [5], [20], [1]]
    assert list(grouped([], 8)) == []


def test_without_dask_or_workers_it_says_so(
    model: Path, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(address: str) -> None:
        build_datastore("notes", model, [str(texts)], BuildOptions(cluster=address))

    with monkeypatch.context() as patch:
        patch.setattr(module, "import_module", _not_installed)
        with pytest.raises(StoreError, match=r"needs Dask: pip install 'sssd-local\[cluster\]'"):
            build("tcp://127.0.0.1:1")
    monkeypatch.setattr(module, "CONNECT_SECONDS", 0.1)
    with pytest.raises(StoreError, match="there is no Dask scheduler at tcp"):
        build("tcp://127.0.0.1:1")
    monkeypatch.setattr(module, "WORKER_SECONDS", 0.1)
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address=":0", silence_logs=50) as empty,
        pytest.raises(StoreError, match="has no workers; start some with `dask worker tcp://"),
    ):
        build(empty.scheduler_address)
    assert datastore_names() == []


def _not_installed(name: str) -> None:
    raise ImportError(name)


def test_a_cluster_that_gives_up_keeps_what_was_stored(model: Path, texts: Path) -> None:
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        distributed.LocalCluster(n_workers=1, dashboard_address=":0", silence_logs=50) as found,
    ):
        address = found.scheduler_address
        with Cluster(address, new_manifest(), 1000) as cluster:
            cluster._task = lambda _: os._exit(1)
            places = list(cluster.examine(sorted(texts.iterdir())))
            with pytest.raises(StoreError, match=r"failed: .*; what was stored is kept, run the"):
                list(cluster.parts([place for place in places if isinstance(place, Place)]))
