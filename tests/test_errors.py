"""Every failure a user can mend can be caught by one name."""

from __future__ import annotations

import inspect

import pytest

from sssd_local import errors
from sssd_local.errors import SSSDError

CLASSES = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if kind.__module__ == errors.__name__
]


def test_the_family_is_known() -> None:
    assert {kind.__name__ for kind in CLASSES} == {
        "SSSDError",
        "ConfigError",
        "ModelError",
        "BackendError",
        "ContextFullError",
        "BusyError",
        "Cancelled",
    }


@pytest.mark.parametrize("kind", CLASSES)
def test_one_name_catches_them_all(kind: type[SSSDError]) -> None:
    with pytest.raises(SSSDError) as caught:
        raise kind("what, why, what to do")
    assert str(caught.value) == "what, why, what to do"
    assert kind.__doc__


def test_a_wrong_option_is_a_value_error_as_in_the_standard_library() -> None:
    assert issubclass(errors.ConfigError, ValueError)
    others = [kind for kind in CLASSES if issubclass(kind, ValueError)]
    assert others == [errors.ConfigError]


def test_an_interrupt_is_none_of_them() -> None:
    assert not issubclass(KeyboardInterrupt, SSSDError)
    assert not issubclass(SSSDError, KeyboardInterrupt)
