"""The ways to write an answer that can be compared, by name."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence

from bench.method import Method, Run, Setup
from bench.peers_python import LlamaCppPython
from bench.peers_server import SPECULATION_TYPES, LlamaServer
from bench.peers_sssd import PublishedDrafter
from sssd_local.config import MAX_WIDTH, parse_speculation, unknown_name
from sssd_local.draft.calibrate import Calibration
from sssd_local.draft.drafter import Drafter
from sssd_local.errors import ConfigError
from sssd_local.llm import LLM
from sssd_local.store.datastores import datastore_folder

LLAMA_SERVER = "llama-server"


class SSSD:
    """This package; `speculation` is auto, off (plain decoding) or a fixed number of tokens.

    The n-gram tables are emptied before each answer; the odds and costs it learns are kept, as
    they are for a user, and start afresh with each benchmark. `drafter` replaces its own;
    `datastores` are names of such that it drafts from too.
    """

    def __init__(
        self,
        name: str,
        setup: Setup,
        speculation: str | int,
        drafter: Drafter | None = None,
        *,
        datastores: Sequence[str] = (),
    ) -> None:
        self.name = name
        self._llm = LLM(
            setup.model,
            ctx=setup.ctx,
            threads=setup.threads,
            threads_batch=setup.threads,
            kv_type=setup.kv_type,
            speculation=speculation,
            datastores=datastores,
        )
        with self._llm.engine() as engine:
            if drafter is not None:
                engine.drafter = drafter
            # Odds that were kept may have been learned from these very answers.
            engine.drafter.calibration = Calibration()

    def run(self, prompt: Sequence[int], max_tokens: int) -> Run:
        """Writes one answer; see Method."""
        self._llm.reset()
        tokens: list[int] = []
        started = ended = 0.0
        for chunk in self._llm.stream(prompt, temperature=0, max_tokens=max_tokens):
            ended = time.perf_counter()
            started = started or ended
            tokens += chunk.token_ids
        stats = chunk.stats
        assert stats is not None
        return Run(tuple(tokens), ended - started, stats.steps, stats.tested, stats.accepted)

    def close(self) -> None:
        """Frees the model."""
        self._llm.close()


METHODS: dict[str, Callable[[str, Setup], Method]] = {
    "plain": lambda name, setup: SSSD(name, setup, "off"),
    "sssd": lambda name, setup: SSSD(name, setup, "auto"),
    "llama-cpp-python": LlamaCppPython,
    "llama-cpp-python-lookup": lambda name, setup: LlamaCppPython(name, setup, 10),
    "llama-cpp-python-lookup-2": lambda name, setup: LlamaCppPython(name, setup, 2),
    LLAMA_SERVER: LlamaServer,
}
METHODS |= {
    f"{LLAMA_SERVER}-{kind}": functools.partial(LlamaServer, kind=kind)
    for kind in SPECULATION_TYPES
}
# Those with a width in their name.
FAMILIES: dict[str, Callable[[str, Setup, int], Method]] = {
    "sssd": lambda name, setup, width: SSSD(name, setup, width, PublishedDrafter(width)),
    "fixed": lambda name, setup, width: SSSD(name, setup, width),
}


def method_factory(name: str) -> Callable[[Setup], Method]:
    """How a method is loaded: a name in METHODS, `sssd-WIDTH`, `fixed-WIDTH` or `sssd+DATASTORE`.

    Raises ConfigError for any other name.
    """
    make = METHODS.get(name)
    if make is not None:
        return lambda setup: make(name, setup)
    kind, _, store = name.partition("+")
    if kind == "sssd" and store:
        datastore_folder(store)
        return lambda setup: SSSD(name, setup, "auto", datastores=(store,))
    kind, _, width = name.partition("-")
    if kind in FAMILIES and width.isdigit():
        speculation = parse_speculation(width)
        if speculation == 1:
            raise ConfigError(f"{name} drafts nothing; widths are 2 to {MAX_WIDTH}")
        return lambda setup: FAMILIES[kind](name, setup, int(speculation))
    raise ConfigError(
        f"{unknown_name('method', name, METHODS)}; known are {', '.join(METHODS)}, sssd-WIDTH, "
        "fixed-WIDTH and sssd+DATASTORE"
    )
