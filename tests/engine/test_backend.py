"""What C code does with exceptions and standard error, seen from Python."""

from __future__ import annotations

import ctypes
import os
import sys

import pytest

from sssd_local.engine.backend import captured_stderr, caught_in_callbacks


def raising(error: BaseException) -> ctypes._FuncPointer:
    """A C function that raises in Python, where ctypes has nowhere to raise."""

    def callback() -> None:
        raise error

    return ctypes.CFUNCTYPE(None)(callback)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143)])
def test_an_interrupt_in_a_callback_is_kept(
    error: BaseException, capfd: pytest.CaptureFixture[str]
) -> None:
    caught: list[BaseException] = []
    with caught_in_callbacks(caught):
        raising(error)()
    assert caught == [error]
    assert capfd.readouterr().err == ""


def test_other_exceptions_go_where_they_went_before(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []

    def before(information: sys.UnraisableHookArgs) -> None:
        seen.append(information.exc_value)

    monkeypatch.setattr(sys, "unraisablehook", before)
    caught: list[BaseException] = []
    error = ValueError("a bug")
    with caught_in_callbacks(caught):
        raising(error)()
    assert (caught, seen) == ([], [error])
    assert sys.unraisablehook is before


def test_standard_error_of_c_code_is_captured(capfd: pytest.CaptureFixture[str]) -> None:
    with captured_stderr() as lines:
        os.write(2, b"first\nsecond\n")
    os.write(2, b"third\n")
    assert lines == ["first", "second"]
    assert capfd.readouterr().err == "third\n"
