"""Downloads from an imitation of the hub."""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sssd_local import hub as module
from sssd_local.errors import ModelError
from sssd_local.hub import cache_folder, cached, fetch, gigabytes, repo_folder, snapshots
from sssd_local.hub_files import HubName, parse_hub_name
from sssd_local.llm import LLM
from sssd_local.transfer import MAX_FAILURES, partial_path
from tests.hub_server import COMMIT, NEXT_COMMIT, TOKEN, Hub, hub, hub_cache

__all__ = ["hub", "hub_cache"]
REPO = "someone/Model-GGUF"
DATA = bytes(range(256)) * 200


def get(text: str = f"hf:{REPO}", said: list[str] | None = None) -> Path:
    return fetch(parse_hub_name(text), (said if said is not None else []).append)


def blob(repo: str = REPO) -> Path:
    (only,) = (repo_folder(repo) / "blobs").iterdir()
    return only


def test_a_model_is_downloaded_into_the_shared_cache_and_found_there(hub: Hub) -> None:
    hub.add(REPO, **{"m-Q4_K_M": DATA, "m-Q8_0": b"eight", "mmproj-m-f16": b"image"})
    said: list[str] = []
    path = get(said=said)
    assert path == repo_folder(REPO) / "snapshots" / COMMIT / "m-Q4_K_M.gguf"
    assert path.read_bytes() == DATA
    assert (repo_folder(REPO) / "refs" / "main").read_text() == COMMIT
    assert said[0] == f"looking for hf:{REPO}"
    assert re.fullmatch(r"downloading m-Q4_K_M\.gguf: 51 kB of 51 kB, [\d.]+ MB/s", said[-1]), said
    num_requests = len(hub.requests)
    assert cached(HubName(REPO)) == cached(HubName(REPO, "q4_k_m")) == path
    assert cached(HubName(REPO, "Q8_0")) is None
    assert len(hub.requests) == num_requests


def test_huggingface_hub_finds_it_too(hub: Hub) -> None:
    import huggingface_hub

    hub.add(REPO, m=DATA)
    path = get()
    found = huggingface_hub.try_to_load_from_cache(REPO, "m.gguf", cache_dir=cache_folder())
    assert found == str(path)
    (repo,) = huggingface_hub.scan_cache_dir(cache_folder()).repos
    assert (repo.repo_id, repo.size_on_disk) == (REPO, len(DATA))


def test_a_branch_that_moves_meanwhile_does_not_change_what_is_downloaded(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = hub.add(REPO, m=DATA)
    transfer = module.transfer

    def move_then_transfer(*arguments: Any) -> None:
        if repository.earlier is None:
            repository.move(m=b"newer")
        transfer(*arguments)

    monkeypatch.setattr(module, "transfer", move_then_transfer)
    path = get()
    assert path == repo_folder(REPO) / "snapshots" / COMMIT / "m.gguf"
    assert path.read_bytes() == DATA
    assert (repo_folder(REPO) / "refs" / "main").read_text() == COMMIT
    assert len(hub.transfers()) == 1
    assert get().read_bytes() == b"newer"
    assert (repo_folder(REPO) / "refs" / "main").read_text() == NEXT_COMMIT
    assert cached(HubName(REPO)) == repo_folder(REPO) / "snapshots" / NEXT_COMMIT / "m.gguf"


def test_an_answer_that_is_not_the_hubs_is_told(hub: Hub) -> None:
    # A login page of the network, as it were.
    hub.answers["/api/models/"] = (200, "")
    with pytest.raises(ModelError, match="gave no answer that can be used") as error:
        get()
    assert "HF_ENDPOINT" in str(error.value)


def test_a_name_that_the_hub_cannot_have_is_told(hub: Hub) -> None:
    with pytest.raises(ModelError, match="a is no name of a repository"):
        fetch(HubName("someone/" + 100 * "a"), lambda text: None)


def test_the_token_goes_to_the_hub_and_not_to_where_it_leads(hub: Hub) -> None:
    hub.add(REPO, m=DATA)
    get()
    assert {item.authorization for item in hub.transfers()} == {""}
    others = [item for item in hub.requests if item not in hub.transfers()]
    assert {item.authorization for item in others} == {f"Bearer {TOKEN}"}
    assert {item.path for item in others} == {
        f"/api/models/{REPO}",
        f"/{REPO}/resolve/{COMMIT}/m.gguf",
    }


def test_a_file_outside_of_lfs_is_checked_by_its_git_hash(hub: Hub) -> None:
    hub.add(REPO, plain=("m.gguf",), m=DATA)
    assert get().read_bytes() == DATA
    assert len(blob().name) == 40


def test_all_parts_of_a_split_model_are_downloaded(hub: Hub) -> None:
    parts = {f"Q8_0/m-Q8_0-0000{part}-of-00003": DATA[:part] for part in (1, 2, 3)}
    hub.add(REPO, **parts)
    said: list[str] = []
    path = get(f"hf:{REPO}:q8_0", said)
    assert [item.name for item in sorted(path.parent.iterdir())] == [
        f"m-Q8_0-0000{part}-of-00003.gguf" for part in (1, 2, 3)
    ]
    assert path.name == "m-Q8_0-00001-of-00003.gguf"
    assert "00002-of-00003.gguf (file 2 of 3): 0 kB of 0 kB" in "\n".join(said)
    (path.parent / "m-Q8_0-00002-of-00003.gguf").unlink()
    assert cached(HubName(REPO)) is None


def test_a_downloaded_model_answers(hub: Hub, tiny_model: Callable[..., Path]) -> None:
    hub.add(REPO, m=tiny_model().read_bytes())
    with LLM(get(), ctx=128, speculation="off") as llm:
        assert llm.generate("the rain", max_tokens=2, temperature=0.0).text


def test_a_broken_transfer_goes_on_where_it_broke_off(hub: Hub) -> None:
    hub.add(REPO, m=DATA)
    hub.cuts = [20_000, 0, 10_000]
    assert get().read_bytes() == DATA
    ranges = [item.range for item in hub.transfers()]
    assert ranges == ["", "bytes=20000-", "bytes=20000-", "bytes=30000-"]


def test_what_came_is_kept_for_the_next_run(hub: Hub) -> None:
    hub.add(REPO, m=DATA)
    hub.cuts = [20_000, *[0] * MAX_FAILURES]
    with pytest.raises(ModelError, match=r"the connection was lost at 20,000 of 51,200 bytes of m"):
        get()
    assert blob().name.endswith(".incomplete")
    assert cached(HubName(REPO)) is None
    hub.requests.clear()
    said: list[str] = []
    assert get(said=said).read_bytes() == DATA
    assert [item.range for item in hub.transfers()] == ["bytes=20000-"]
    assert "checking what came earlier of m.gguf: 20 kB of 51 kB" in said
    assert blob().name.isalnum()


def test_ctrl_c_keeps_what_came(hub: Hub) -> None:
    hub.add(REPO, m=DATA)

    def interrupt(text: str) -> None:
        if text.startswith("downloading"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(HubName(REPO), interrupt)
    assert blob().stat().st_size > 0
    assert get().read_bytes() == DATA


def test_a_server_without_ranges_sends_all_again(hub: Hub) -> None:
    hub.add(REPO, m=DATA)
    hub.cuts, hub.ranges = [20_000, 30_000], False
    assert get().read_bytes() == DATA
    assert len(hub.transfers()) == 3


def test_a_wrong_checksum_is_an_error_and_leaves_nothing(hub: Hub) -> None:
    hub.add(REPO, m=DATA)
    hub.corrupt = True
    with pytest.raises(ModelError, match=r"the checksum of m\.gguf is wrong"):
        get()
    assert list((repo_folder(REPO) / "blobs").iterdir()) == []
    hub.corrupt = False
    assert get().read_bytes() == DATA


@pytest.mark.parametrize("left", [b"not what the hub has", b"x" * (len(DATA) + 1)])
def test_a_damaged_rest_of_an_earlier_run_never_becomes_a_model(hub: Hub, left: bytes) -> None:
    repository = hub.add(REPO, m=DATA)
    target = repo_folder(REPO) / "blobs" / repository.etag("m.gguf")
    target.parent.mkdir(parents=True)
    partial_path(target).write_bytes(left)
    if len(left) < len(DATA):
        with pytest.raises(ModelError, match="checksum"):
            get()
    assert get().read_bytes() == DATA


def test_too_little_space_is_told_before_anything_is_fetched(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(REPO, m=DATA)
    free = module.SPARE_BYTES + len(DATA) - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    with pytest.raises(ModelError, match=r"needs 51 kB more on the disk of .*, where 67 MB are"):
        get()
    assert hub.transfers() == []
    free += 1
    assert get().read_bytes() == DATA
    free = 0
    assert get().read_bytes() == DATA


def test_a_disk_that_fills_up_is_told_in_a_line(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(REPO, m=DATA)

    def fill(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", fill)
    with pytest.raises(ModelError, match=r"cannot be written to .*: No space left on device; what"):
        get()


def test_offline_and_not_in_the_cache_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=f"^{REPO} is not in the cache, and HF_HUB_OFFLINE is set"):
        get()


def test_no_connection_is_a_line(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(REPO, m=DATA)
    path = get()
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{unheard.getsockname()[1]}")
        with pytest.raises(
            ModelError, match=r"^x/y is not in the cache, and .* cannot be reached \("
        ):
            get("hf:x/y")
    assert cached(HubName(REPO)) == path


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (404, "RepoNotFound", "there is no repository someone/Model-GGUF at http://127.0.0.1"),
        (401, "", r"refuses someone/Model-GGUF \(401\); check the name, and `hf auth"),
        (403, "GatedRepo", "is open only to those who accept its terms: do so at http://127"),
        (403, "", r"refuses someone/Model-GGUF \(403\); check the name, and `hf auth"),
        (500, "", "answers 500 when asked for someone/Model-GGUF; try again later"),
    ],
)
def test_what_the_hub_refuses_is_a_line(hub: Hub, status: int, code: str, message: str) -> None:
    hub.add(REPO, m=DATA)
    hub.answers["/api/"] = (status, code)
    with pytest.raises(ModelError, match=message):
        get()


def test_a_gated_file_is_told_as_such(hub: Hub) -> None:
    hub.add(REPO, m=DATA)
    hub.answers[f"/{REPO}/resolve/"] = (403, "GatedRepo")
    with pytest.raises(ModelError, match="accept its terms"):
        get()


def test_a_busy_server_is_asked_again(hub: Hub) -> None:
    hub.add(REPO, m=DATA)
    hub.answers["/cdn/"] = (503, "")
    with pytest.raises(ModelError, match=r"lost at 0 of 51,200 bytes .*\(the answer was 503\)"):
        get()
    assert len(hub.transfers()) == MAX_FAILURES


def test_an_unknown_quantisation_is_told_with_those_there(hub: Hub) -> None:
    hub.add(REPO, **{"m-Q4_0": b"a", "m-Q8_0": b"b"})
    with pytest.raises(
        ModelError, match=r"^someone/Model-GGUF has no Q5_K_M; there are Q4_0, Q8_0$"
    ):
        get(f"hf:{REPO}:Q5_K_M")


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(ModelError, match=r"pip install 'sssd-local\[hub\]'"):
        get()


def test_the_cache_is_where_huggingface_hub_has_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", "$HOME/hf")
    assert cache_folder() == home / "hf" / "hub"
    monkeypatch.setenv("HUGGINGFACE_HUB_CACHE", "~/old")
    assert cache_folder() == home / "old"
    monkeypatch.setenv("HF_HUB_CACHE", "/new")
    assert cache_folder() == Path("/new")
    for name in ("HF_HOME", "HUGGINGFACE_HUB_CACHE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name)
    assert cache_folder() == home / ".cache" / "huggingface" / "hub"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder() == Path("/xdg/huggingface/hub")


def test_the_endpoint_is_hugging_faces_unless_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    assert module.endpoint() == "https://huggingface.co"
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/")
    assert module.endpoint() == "https://mirror.example"


def test_the_current_revision_comes_first_then_the_newest(tmp_path: Path) -> None:
    for age, name in enumerate(("new", "middle", "old")):
        folder = tmp_path / "snapshots" / name
        folder.mkdir(parents=True)
        os.utime(folder, (1000 - age, 1000 - age))
    assert [path.name for path in snapshots(tmp_path)] == ["new", "middle", "old"]
    (tmp_path / "refs").mkdir()
    (tmp_path / "refs" / "main").write_text("old")
    assert [path.name for path in snapshots(tmp_path)] == ["old", "new", "middle"]
    assert snapshots(tmp_path / "none") == []


def test_where_links_are_impossible_the_copy_alone_is_kept(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(REPO, m=DATA)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_SYMLINKS", True)
    path = get()
    assert path.read_bytes() == DATA
    assert not path.is_symlink()
    assert list((repo_folder(REPO) / "blobs").iterdir()) == []
    assert cached(HubName(REPO)) == path


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 kB"), (999_499, "999 kB"), (999_500, "1 MB"), (10**9, "1.00 GB")],
)
def test_sizes_for_people(num_bytes: int, text: str) -> None:
    assert gigabytes(num_bytes) == text


def test_of_two_downloads_at_once_one_waits_for_the_other(hub: Hub) -> None:
    hub.add(REPO, m=DATA)
    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(get, [f"hf:{REPO}", f"hf:{REPO}:m.gguf"]))
    assert paths[0] == paths[1]
    assert paths[0].read_bytes() == DATA
    assert len(hub.transfers()) == 1
