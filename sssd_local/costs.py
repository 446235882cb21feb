"""What this machine is known to need for this model: the kept profile, or a quick probe."""

from __future__ import annotations

import logging

import numpy as np

from sssd_local.config import MAX_WIDTH, ModelConfig
from sssd_local.engine.backend import build_name
from sssd_local.engine.context import Context
from sssd_local.engine.model import Model
from sssd_local.files import app_folder
from sssd_local.hardware.cost import CostModel
from sssd_local.hardware.probe import is_reliable, run_probe
from sssd_local.hardware.profile import Profile, ProfileStore, profile_key

logger = logging.getLogger("sssd_local")


def measured_costs(
    model: Model, context: Context, config: ModelConfig, threads: int, threads_batch: int
) -> CostModel:
    """The cost model of an empty context, from the kept profile or measured now and kept."""
    store = ProfileStore(app_folder() / "profiles")
    key = profile_key(
        model.path,
        backend=build_name(),
        threads=threads,
        threads_batch=threads_batch,
        gpu_layers=model.gpu_layers,
        kv_type=config.kv_type,
    )
    profile = store.load(key)
    if profile is not None:
        return CostModel.from_points(profile.points)
    max_width = min(MAX_WIDTH, context.ctx)
    points = run_probe(lambda width: _decode(context, width), max_width=max_width)
    context.clear()
    if points and is_reliable(points, max_width):
        store.save(key, Profile(tuple(points)))
    else:
        logger.info("the machine was busy while it was measured; it will be measured again")
    return CostModel(points)


def _decode(context: Context, width: int) -> None:
    tokens = np.zeros(width, np.int32)
    context.decode_rows(tokens, np.arange(width, dtype=np.int32), None)
    context.remove(-1, 0)
