"""What goes wrong with a datastore."""

from __future__ import annotations

from sssd_local.errors import SSSDError


class StoreError(SSSDError):
    """A datastore cannot be read, written or used with a model."""


class BusyStoreError(StoreError):
    """Another process is writing to the store; it can be tried again."""


class DamagedStoreError(StoreError):
    """A file of a datastore is missing, cannot be read or is not what was written."""
