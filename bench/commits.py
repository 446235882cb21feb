"""A project's history as edits to write: a file before and after a commit, and the request.

Or names replaced in a file: what a commit seldom does, and users often ask for.
"""

from __future__ import annotations

import json
import keyword
import re
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sssd_local.errors import ConfigError

# The request shows the file as it was, or names it only.
REQUESTS = ("shown", "named")
SUFFIXES = (".py", ".md", ".toml")
# Names that are replaced, and by what: the first that the file does not have.
NUM_RENAMED = 2
LEAST_USES = 4
LEAST_CHARS = 1500
NAME = re.compile(r"\b[a-z_]{4,}\b")
NEW_NAMES = ("amount", "payload", "anchor", "ledger", "bundle", "outline", "marker", "digest_of")


@dataclass(frozen=True, slots=True)
class Edit:
    """A file before and after one commit, and what that commit says of itself.

    `base`: the revision before it, the commit's parent if empty.
    """

    commit: str
    path: str
    subject: str
    old: str
    new: str
    base: str = ""

    @property
    def before(self) -> str:
        """The revision that has the old file."""
        return self.base or f"{self.commit}^"

    def request(self, kind: str) -> str:
        """What a user would ask for."""
        task = f"Change {self.path}: {self.subject}. Answer with the whole new file."
        return f"{task}\n\n{self.old}" if kind == "shown" else task

    def messages(self, kind: str) -> list[dict[str, str]]:
        """The request as a chat."""
        return [{"role": "user", "content": self.request(kind)}]


def git(repo: Path, *words: str) -> str:
    """What a git command prints. Raises ConfigError where it fails."""
    try:
        done = subprocess.run(
            ["git", "-C", str(repo), *words], capture_output=True, check=True, encoding="utf-8"
        )
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"git cannot be run in {repo}: {error}") from error
    except subprocess.CalledProcessError as error:
        raise ConfigError(f"git {words[0]} failed in {repo}: {error.stderr.strip()}") from error
    return done.stdout


def edits(repo: Path, revision: str, count: int, max_chars: int) -> Iterator[Edit]:
    """The newest commits up to `revision` and of each the Python file it changed most.

    Passed over: files of more than `max_chars`, and where less than half of the lines stayed.
    """
    found = 0
    for line in git(repo, "log", "--no-merges", "--format=%H %s", revision).splitlines():
        commit, _, subject = line.partition(" ")
        if found == count or not git(repo, "rev-list", "--parents", "-1", commit).split()[1:]:
            return
        path = _most_changed(repo, commit)
        if path is None:
            continue
        old, new = (git(repo, "show", f"{at}:{path}") for at in (f"{commit}^", commit))
        kept = len(set(old.splitlines()) & set(new.splitlines()))
        if len(new) <= max_chars and 2 * kept >= len(set(new.splitlines())):
            found += 1
            yield Edit(commit, path, subject, old, new)


def _most_changed(repo: Path, commit: str) -> str | None:
    stat = git(repo, "show", "--numstat", "--diff-filter=M", "--format=", commit, "--", "*.py")
    changes = [line.split("\t") for line in stat.splitlines()]
    sizes = {path: int(added) + int(gone) for added, gone, path in changes if added != "-"}
    return max(sizes, key=sizes.__getitem__, default=None)


def renames(repo: Path, revision: str, folder: str, count: int, max_chars: int) -> Iterator[Edit]:
    """Python files of a folder, by path, with two of their most used names replaced."""
    commit = git(repo, "rev-parse", revision).strip()
    found = 0
    for path in git(repo, "ls-tree", "-rz", "--name-only", commit, "--", folder).split("\0"):
        if found == count or not path.endswith(".py"):
            continue
        old = git(repo, "show", f"{commit}:{path}")
        pairs = _new_names(old) if LEAST_CHARS <= len(old) <= max_chars else {}
        if len(pairs) < NUM_RENAMED:
            continue
        found += 1
        pattern = re.compile(rf"\b({'|'.join(pairs)})\b")
        new = pattern.sub(partial(_replaced, pairs), old)
        subject = "rename " + " and ".join(f"{name} to {to}" for name, to in pairs.items())
        yield Edit(commit, path, subject, old, new, base=commit)


def _replaced(pairs: dict[str, str], name: re.Match[str]) -> str:
    return pairs[name[0]]


def _new_names(text: str) -> dict[str, str]:
    """What replaces the names a file uses most; the first of all is often everywhere."""
    uses = Counter(name for name in NAME.findall(text) if not keyword.iskeyword(name))
    names = [name for name, number in uses.most_common() if number >= LEAST_USES]
    free = [name for name in NEW_NAMES if name not in uses]
    return dict(zip(names[1 : 1 + NUM_RENAMED], free, strict=False))


def tree(repo: Path, commit: str) -> Iterator[tuple[str, str]]:
    """Paths and texts of a commit's source."""
    for path in git(repo, "ls-tree", "-r", "--name-only", "-z", commit).split("\0"):
        if path.endswith(SUFFIXES):
            yield path, git(repo, "show", f"{commit}:{path}")


def write_traces(found: Sequence[Edit], path: Path) -> None:
    """Writes edits as recorded answers for `bench replay`, each with both kinds of request."""
    lines = []
    for kind in REQUESTS:
        for edit in found:
            line = {
                "id": f"{edit.commit[:10]}:{edit.path}:{kind}",
                "task": kind,
                "messages": edit.messages(kind),
                "output": edit.new,
            }
            lines.append(json.dumps(line, ensure_ascii=False))
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_tree(repo: Path, commit: str, folder: Path) -> None:
    """Writes a commit's source into a new folder. Raises ConfigError where there is one."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError as error:
        raise ConfigError(f"{folder} exists; name a new folder") from error
    for name, text in tree(repo, commit):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
