"""What this machine is known to need for this model: the kept profile, or a quick probe."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from sssd_local.config import MAX_WIDTH, FlashAttention, ModelConfig
from sssd_local.draft.calibrate import Calibration
from sssd_local.engine.backend import build_name, gpu_names
from sssd_local.engine.context import Context, flash_attention_of
from sssd_local.engine.memory import ContextPlan, available_bytes, plan_context
from sssd_local.engine.model import Model
from sssd_local.engine.rig import ContextRig
from sssd_local.files import app_folder
from sssd_local.hardware.cost import CostModel
from sssd_local.hardware.probe import is_reliable, run_probe
from sssd_local.hardware.profile import (
    Profile,
    ProfileKey,
    ProfileStore,
    Setup,
    lora_identity,
    profile_key,
)
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


def key_of(model: Model, config: ModelConfig, plan: ContextPlan | None = None) -> ProfileKey:
    """The profile's key of a loaded model; `plan` is that of its context, if there is one.

    Raises ModelError if its file or an adapter's cannot be read, or no context is possible.
    """
    plan = plan or plan_context(model.facts, config, available_bytes())
    setup = Setup(
        threads=config.threads or 0,
        threads_batch=config.threads_batch or config.threads or 0,
        gpu_layers=model.gpu_layers,
        gpus=f"{config.main_gpu} {config.tensor_split}" if model.uses_gpu else "",
        kv_type=config.kv_type,
        kv_type_v=config.value_type,
        flash_attention=flash_attention_of(config),
        lora=lora_identity(config.lora),
        kept_window=plan.kept_window,
        num_snapshots=plan.num_snapshots,
    )
    device = " + ".join(gpu_names()) if model.uses_gpu else ""
    return profile_key(model.path, setup, backend=build_name(), device=device)


def as_measured(model: Model, config: ModelConfig) -> ModelConfig:
    """The configuration with flash attention as it was measured to be best, where that is auto."""
    if flash_attention_of(config) != "auto" or model.uses_gpu:
        return config
    profile = profile_store().load(key_of(model, config), quiet=True)
    if profile is None or not profile.flash_attention:
        return config
    return replace(config, flash_attention="on")


@dataclass(slots=True)
class Measured:
    """The costs of one model on this machine, and the profile they are kept in."""

    cost: CostModel
    profile: Profile | None
    key: ProfileKey
    model_name: str
    # False once writing failed: nobody wants to hear of it twice.
    is_writable: bool = True
    # What going back takes where the rest was measured on a busy machine and is not kept.
    save_seconds: float = 0.0
    load_seconds: float = 0.0

    @property
    def threads(self) -> tuple[int, int]:
        """Threads of one-token steps and of wider ones that the profile was made with."""
        if self.profile is None:
            raise ValueError("nothing was measured")
        return self.profile.threads, self.profile.threads_batch

    def sizer(self) -> Sizer:
        """A sizer by these costs."""
        if self.profile is None:
            return Sizer(self.cost, 0.0, self.save_seconds, self.load_seconds)
        return Sizer(
            self.cost,
            self.profile.branch_seconds,
            self.profile.save_seconds,
            self.profile.load_seconds,
        )

    def keep(self, calibration: Calibration) -> None:
        """Writes what was learned in use to the profile; where nothing is kept, does nothing.

        A full probe that was made meanwhile stays, and only the odds are added to it.
        """
        if self.profile is None or not self.cost.is_measured or not self.is_writable:
            return
        learned = {name: table.tolist() for name, table in calibration.state().items()}
        store = profile_store()
        profile = replace(self.profile, points=tuple(self.cost.points()))
        if not self.profile.is_full:
            newer = store.load(self.key, quiet=True)
            profile = newer if newer is not None and newer.is_full else profile
        store.save(self.key, replace(profile, calibration=learned), self.model_name)

    def teach(self, calibration: Calibration) -> None:
        """Hands the kept odds to a new calibration; odds that do not fit are left out, noted."""
        if self.profile is None or self.profile.calibration is None:
            return
        try:
            calibration.load(self.profile.calibration)
        except (ValueError, TypeError, OverflowError) as error:
            logger.warning("ignoring the kept odds of %s: %s", self.model_name, error)


def measured_costs(
    model: Model, context: Context, config: ModelConfig, threads: int, threads_batch: int
) -> Measured:
    """The costs at an empty context, from the kept profile or measured now and kept.

    Sets the context's threads to the profile's unless the user chose them.
    """
    store, key = profile_store(), key_of(model, config, context.plan)
    profile = store.load(key)
    is_writable = True
    if profile is not None and profile.flash_attention != context.has_flash_attention:
        # A full probe chose otherwise since this context was made; the next load follows it.
        profile, is_writable = None, False
    if profile is not None:
        context.set_threads(profile.threads, profile.threads_batch)
        return Measured(CostModel.from_points(profile.points), profile, key, model.path.name)
    rig, max_width = ContextRig(context), min(MAX_WIDTH, context.ctx)
    points = run_probe(rig.decode, max_width=max_width)
    save_seconds, load_seconds = rig.restore_seconds()
    context.clear()
    if not points or not is_reliable(points, max_width):
        logger.info("the machine was busy while it was measured; it will be measured again")
        return Measured(
            CostModel(points),
            None,
            key,
            model.path.name,
            save_seconds=save_seconds,
            load_seconds=load_seconds,
        )
    profile = Profile(
        tuple(points),
        threads,
        threads_batch,
        save_seconds=save_seconds,
        load_seconds=load_seconds,
        flash_attention=context.has_flash_attention,
    )
    is_writable = is_writable and store.save(key, profile, model.path.name)
    return Measured(CostModel(points), profile, key, model.path.name, is_writable)


def kept_threads(model: Model, config: ModelConfig, plan: ContextPlan) -> tuple[int, int] | None:
    """The thread counts that were measured to be best, None if nothing is kept."""
    profile = profile_store().load(key_of(model, config, plan))
    return (profile.threads, profile.threads_batch) if profile is not None else None


def full_probe(
    model: Model,
    config: ModelConfig,
    threads: int,
    threads_batch: int,
    *,
    key: ProfileKey | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Callable[[float, str], None] = lambda fraction, doing: None,
) -> Profile | None:
    """Measures widths, context lengths, thread counts and flash attention in contexts of its own.

    Keeps what was found under `key`, the model's own if None is given, with the odds of an older
    profile. None when it was stopped before a curve was known. Raises ModelError where no context
    fits.
    """

    def make_context(flash_attention: bool) -> Context:
        mode: FlashAttention = "on" if flash_attention else "off"
        return Context(model, replace(config, flash_attention=mode), threads, threads_batch)

    store, key = profile_store(), key or key_of(model, config)
    rig = ContextRig(Context(model, config, threads, threads_batch), make_context)
    try:
        plan = _plan(model, rig.context, config, threads, threads_batch)
        found = Survey(rig, plan, should_stop=should_stop, progress=progress).run()
        save_seconds, load_seconds = rig.restore_seconds()
        has_flash_attention = rig.context.has_flash_attention
    finally:
        rig.context.close()
    if not found.points:
        return None
    older = store.load(key)
    profile = Profile(
        found.points,
        found.threads,
        found.threads_batch,
        found.branch_seconds,
        save_seconds,
        load_seconds,
        has_flash_attention,
        found.is_complete,
        older.calibration if older else None,
    )
    store.save(key, profile, model.path.name)
    return profile


def _plan(
    model: Model, context: Context, config: ModelConfig, threads: int, threads_batch: int
) -> Plan:
    room = max(0, context.ctx - SPARE_TOKENS)
    is_given = config.threads is not None
    is_batch_given = is_given or config.threads_batch is not None
    return Plan(
        min(MAX_WIDTH, context.ctx),
        tuple(sorted({0, *(int(room * depth) for depth in DEPTHS)})),
        (threads,) if is_given else thread_counts(threads),
        (threads_batch,) if is_batch_given else thread_counts(threads_batch),
        trees=context.num_sequences > 1,
        flash_attention=flash_attention_of(config) == "auto" and not model.uses_gpu,
    )
