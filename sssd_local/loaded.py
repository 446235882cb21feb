"""A model in memory: its context, its engine, and what is measured of it on this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from sssd_local.config import ModelConfig
from sssd_local.costs import Measured, as_measured, kept_threads, measured_costs
from sssd_local.draft.calibrate import Calibration
from sssd_local.draft.drafter import Drafter
from sssd_local.draft.source import Source
from sssd_local.engine.ability import Speculation
from sssd_local.engine.context import Context
from sssd_local.engine.decode import Engine
from sssd_local.engine.model import Model
from sssd_local.gguf_file import Header
from sssd_local.hardware.cost import CostModel
from sssd_local.hardware.governor import ThreadGovernor
from sssd_local.hardware.sizer import Sizer
from sssd_local.hardware.threads import default_threads


class Loaded:
    """What `LLM` answers with; `close` keeps what was learned and frees it."""

    def __init__(
        self,
        path: Path,
        config: ModelConfig,
        header: Header,
        sources: Sequence[Source] = (),
        progress: Callable[[float], None] | None = None,
    ) -> None:
        """Loads the file of a checked `header` and, where drafts are sized by cost, measures.

        Raises ModelError for what cannot be loaded or has no room.
        """
        self.config = config
        self.threads = config.threads or default_threads()
        self.threads_batch = config.threads_batch or config.threads or default_threads()
        self.measured: Measured | None = None
        self.model = Model(path, config, progress, header=header)
        self._context: Context | None = None
        try:
            chosen = as_measured(self.model, config)
            self._context = Context(self.model, chosen, self.threads, self.threads_batch)
            self.engine = self._new_engine(self._context, sources)
        except BaseException:
            self._free()
            raise

    def _new_engine(self, context: Context, sources: Sequence[Source]) -> Engine:
        ability = context.plan.ability
        self.speculation: str = ability.speculation.value
        can_draft = ability.speculation is not Speculation.NONE
        self.speculation_note = "" if can_draft else f"no speculation: {ability.reason}"
        width = self._width(self.config)
        drafter = Drafter(Calibration(), sources=sources, max_leaves=context.num_sequences)
        engine = Engine(self.model, context, drafter, Sizer(CostModel()), width)
        if width is None:
            self._measure(engine)
        elif (kept := kept_threads(self.model, self.config, context.plan)) is not None:
            self.threads, self.threads_batch = kept
            context.set_threads(*kept)
        return engine

    def _width(self, config: ModelConfig) -> int | None:
        """The engine's width: None sizes drafts by cost, 1 never drafts."""
        if self.speculation == Speculation.NONE or config.speculation == "off":
            return 1
        return None if config.speculation == "auto" else int(config.speculation)

    def set_speculation(self, config: ModelConfig) -> None:
        """Drafts as a configuration says from now on; what was not measured yet may be now."""
        width = self._width(config)
        if width is None and self.measured is None:
            self._measure(self.engine)
        self.engine.width = width
        self.config = config

    def _measure(self, engine: Engine) -> None:
        """Sizes drafts by what this machine needs from now on: kept costs and odds, or a probe."""
        engine.ledger.clear()
        try:
            measured = measured_costs(
                self.model, engine.context, self.config, self.threads, self.threads_batch
            )
        finally:
            # Ctrl-C may have ended the measuring half-way.
            engine.ledger.clear()
        if measured.profile is not None:
            self.threads, self.threads_batch = measured.threads
        measured.teach(engine.drafter.calibration)
        engine.use(measured.sizer(), ThreadGovernor(self.threads, self.threads_batch))
        self.measured = measured

    def close(self) -> None:
        """Keeps what was learned and frees the model; doing it twice is harmless."""
        measured, self.measured = self.measured, None
        if measured is not None:
            measured.keep(self.engine.drafter.calibration)
        self._free()

    def _free(self) -> None:
        if self._context is not None:
            self._context.close()
        self.model.close()
