"""What every test needs: a home of its own and no settings from outside."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path

import hypothesis
import pytest

pytest_plugins = ["tests.tiny"]

hypothesis.settings.register_profile("steady", deadline=None, derandomize=True)
hypothesis.settings.load_profile("steady")


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh home and app folder, so that no test touches the user's data or reads settings."""
    folder = tmp_path_factory.mktemp("home")
    for name in list(os.environ):
        if name.startswith("SSSD_LOCAL_"):
            monkeypatch.delenv(name)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("USERPROFILE", str(folder))
    monkeypatch.setenv("SSSD_LOCAL_HOME", str(folder / "app"))
    return folder


def pytest_report_header() -> str:
    """The versions that results depend on."""
    packages = ("llama-cpp-python", "numpy", "gguf", "hypothesis")
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
