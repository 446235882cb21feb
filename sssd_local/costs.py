"""What this machine is known to need for this model: the kept profile, or a quick probe."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from sssd_local.config import MAX_WIDTH, ModelConfig
from sssd_local.draft.calibrate import Calibration
from sssd_local.engine.backend import build_name
from sssd_local.engine.context import Context
from sssd_local.engine.model import Model
from sssd_local.engine.rig import ContextRig
from sssd_local.files import app_folder
from sssd_local.hardware.cost import CostModel
from sssd_local.hardware.probe import is_reliable, run_probe
from sssd_local.hardware.profile import Profile, ProfileKey, ProfileStore, profile_key
from sssd_local.hardware.sizer import Sizer
from sssd_local.hardware.survey import Plan, Survey
from sssd_local.hardware.threads import thread_counts

logger = logging.getLogger("sssd_local")

# The longest context of the full probe leaves room for the widest batch.
SPARE_TOKENS = MAX_WIDTH
# Context lengths of the full probe, as shares of the context.
DEPTHS = (0.25, 1.0)


def profile_store() -> ProfileStore:
    """Where profiles are kept."""
    return ProfileStore(app_folder() / "profiles")


def key_of(model: Model, config: ModelConfig) -> ProfileKey:
    """The profile's key of a loaded model. Raises ModelError if its file cannot be read."""
    return profile_key(
        model.path,
        backend=build_name(),
        threads=config.threads or 0,
        threads_batch=config.threads_batch or config.threads or 0,
        gpu_layers=model.gpu_layers,
        kv_type=config.kv_type,
    )


@dataclass(slots=True)
class Measured:
    """The costs of one model on this machine, and the profile they are kept in."""

    cost: CostModel
    profile: Profile | None
    key: ProfileKey
    model_name: str
    # False once writing failed: nobody wants to hear of it twice.
    is_writable: bool = True

    @property
    def threads(self) -> tuple[int, int]:
        """Threads of one-token steps and of wider ones that the profile was made with."""
        if self.profile is None:
            raise ValueError("nothing was measured")
        return self.profile.threads, self.profile.threads_batch

    def sizer(self) -> Sizer:
        """A sizer by these costs."""
        return Sizer(self.cost, self.profile.branch_seconds if self.profile else 0.0)

    def keep(self, calibration: Calibration) -> None:
        """Writes what was learned in use to the profile; where nothing is kept, does nothing."""
        if self.profile is None or not self.cost.is_measured or not self.is_writable:
            return
        learned = {name: table.tolist() for name, table in calibration.state().items()}
        points = tuple(self.cost.points())
        profile_store().save(
            self.key, replace(self.profile, points=points, calibration=learned), self.model_name
        )

    def teach(self, calibration: Calibration) -> None:
        """Hands the kept odds to a new calibration; odds that do not fit are left out, noted."""
        if self.profile is None or self.profile.calibration is None:
            return
        try:
            calibration.load(self.profile.calibration)
        except (ValueError, TypeError) as error:
            logger.warning("ignoring the kept odds of %s: %s", self.model_name, error)


def measured_costs(
    model: Model, context: Context, config: ModelConfig, threads: int, threads_batch: int
) -> Measured:
    """The costs at an empty context, from the kept profile or measured now and kept.

    Sets the context's threads to the profile's unless the user chose them.
    """
    store, key = profile_store(), key_of(model, config)
    profile = store.load(key)
    if profile is not None:
        context.set_threads(profile.threads, profile.threads_batch)
        return Measured(CostModel.from_points(profile.points), profile, key, model.path.name)
    max_width = min(MAX_WIDTH, context.ctx)
    points = run_probe(ContextRig(context).decode, max_width=max_width)
    context.clear()
    is_writable = True
    if points and is_reliable(points, max_width):
        profile = Profile(tuple(points), threads, threads_batch)
        is_writable = store.save(key, profile, model.path.name)
    else:
        logger.info("the machine was busy while it was measured; it will be measured again")
    return Measured(CostModel(points), profile, key, model.path.name, is_writable)


def kept_threads(model: Model, config: ModelConfig) -> tuple[int, int] | None:
    """The thread counts that were measured to be best, None if nothing is kept."""
    profile = profile_store().load(key_of(model, config))
    return (profile.threads, profile.threads_batch) if profile is not None else None


def full_probe(
    model: Model,
    context: Context,
    config: ModelConfig,
    threads: int,
    threads_batch: int,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Callable[[float, str], None] = lambda fraction, doing: None,
) -> Profile | None:
    """Measures widths, context lengths and thread counts, and keeps what was found.

    None when it was stopped before a curve was known. The odds of an older profile are kept.
    """
    store, key = profile_store(), key_of(model, config)
    room = max(0, context.ctx - SPARE_TOKENS)
    lengths = sorted({0, *(int(room * depth) for depth in DEPTHS)})
    is_given = config.threads is not None
    is_batch_given = is_given or config.threads_batch is not None
    plan = Plan(
        min(MAX_WIDTH, context.ctx),
        tuple(lengths),
        (threads,) if is_given else thread_counts(threads),
        (threads_batch,) if is_batch_given else thread_counts(threads_batch),
        trees=context.num_sequences > 1,
    )
    survey = Survey(ContextRig(context), plan, should_stop=should_stop, progress=progress)
    try:
        found = survey.run()
    finally:
        context.clear()
    if not found.points:
        return None
    older = store.load(key)
    profile = Profile(
        found.points,
        found.threads,
        found.threads_batch,
        found.branch_seconds,
        found.is_complete,
        older.calibration if older else None,
    )
    store.save(key, profile, model.path.name)
    return profile
