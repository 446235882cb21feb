"""Finding the model that comes with the package."""

from __future__ import annotations

from pathlib import Path

import pytest

from sssd_local import builtin
from sssd_local.builtin import builtin_path
from sssd_local.errors import ModelError


def test_other_names_are_not_built_in() -> None:
    assert builtin_path("tiny.gguf") is None
    assert builtin_path("") is None


def test_a_missing_file_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(builtin, "files", lambda _: tmp_path)
    with pytest.raises(ModelError, match="install sssd-local again"):
        builtin_path("tiny")


def test_the_file_lies_in_the_packages_data(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "tiny.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(builtin, "files", lambda _: tmp_path)
    path = tmp_path / "data" / "tiny.gguf"
    assert builtin_path("tiny") == builtin.tiny_path() == path
    assert builtin.is_builtin(path)
    assert not builtin.is_builtin(tmp_path / "tiny.gguf")


def test_the_note_says_how_to_name_a_real_model() -> None:
    assert "sssd-local run MODEL.gguf" in builtin.TINY_NOTE
    assert "demonstration" in builtin.TINY_NOTE
