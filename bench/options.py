"""What several commands take, and what they do with it."""

from __future__ import annotations

from pathlib import Path

import click

CACHE = Path("~/.cache/sssd-local-bench")

existing_file = click.Path(exists=True, dir_okay=False, path_type=Path)
