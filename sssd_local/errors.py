"""What goes wrong in a way a user can do something about."""

from __future__ import annotations


class SSSDError(Exception):
    """A failure to show to the user: what happened, why, and what to do."""


class ConfigError(SSSDError, ValueError):
    """An option has an impossible value or an unknown name."""


class ModelError(SSSDError):
    """A model file cannot be loaded or does not do what was asked of it."""


class BackendError(SSSDError):
    """llama.cpp refused or failed an operation."""


class ContextFullError(SSSDError):
    """The text does not fit into the model's context."""


class BusyError(SSSDError):
    """The model is answering another call."""


class Cancelled(SSSDError):  # noqa: N818 - an outcome, not a mistake
    """The work was stopped before it was done."""
