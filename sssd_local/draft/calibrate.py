"""How probable it is that a candidate is the model's next token, learned from every step.

Each candidate's evidence selects one weight from each of a few tables; the sum of the weights is
its log-odds against "none of the candidates", and a softmax over all candidates of a node (with
that escape) gives probabilities whose sum stays below 1. This is the logistic mixing of
context-mixing compressors with table inputs. Every verified step tells the true next token of the
root and of each accepted node, so all candidates there are labelled, drafted or not: each selected
weight moves by rate × (hit − probability), which also forgets slowly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sssd_local.draft import priors
from sssd_local.draft.cells import KEPT_TABLES, NUM_WEIGHTS, OFFSETS, TABLE_SIZES, Cells

Float64Array = NDArray[np.float64]

_TRUST, _LAST, _ANSWER = OFFSETS["trust"], OFFSETS["last"], OFFSETS["answer"]

MAX_SCORE = 20.0
# Log-odds of what the context does not name, before any is learned.
ONLY_PRIOR = -2.0
ALONE_TABLES = ("return", "rewrite", "only")
# Odds are learned apart for temperature 0 and for those up to each of these and above the last.
BAND_ENDS = (0.0, 0.5, 1.0)
NUM_BANDS = len(BAND_ENDS) + 1
STATE_VERSION = 3


def band_of(temperature: float) -> int:
    """Which odds an answer sampled at this temperature is drafted by."""
    return sum(temperature > end for end in BAND_ENDS)


class Calibration:
    """Weights of evidence, shipped with conservative priors and learned on."""

    def __init__(self, *, rate: float = 0.01, token_rate: float = 0.1) -> None:
        """`rate` moves the evidence weights, `token_rate` those of tokens and of the answer."""
        self.weights: list[float] = shipped_weights()
        self._rate = rate
        self._token_rate = token_rate
        self._band = 0
        # The evidence weights of the other bands that were used.
        self._bands: dict[int, list[float]] = {}

    def begin_answer(self, temperature: float | None = None) -> None:
        """Forgets what is true of one answer only, and goes by the odds of a temperature."""
        self.weights[_ANSWER:] = [0.0] * TABLE_SIZES["answer"]
        band = self._band if temperature is None else band_of(temperature)
        if band != self._band:
            evidence = self.weights[:_LAST]
            self._bands[self._band] = evidence
            # What was learned at another temperature is a better start than what was shipped.
            self.weights[:_LAST] = self._bands.pop(band, evidence)
            self._band = band

    def probabilities(self, cells: list[Cells]) -> list[float]:
        """Each candidate's probability of being next; the sum stays below 1."""
        weight = self.weights.__getitem__
        odds = [math.exp(min(sum(map(weight, row)), MAX_SCORE)) for row in cells]
        scale = 1.0 / (1.0 + sum(odds))
        return [odd * scale for odd in odds]

    def probability(self, cells: Cells) -> float:
        """The probability of a candidate that has no other beside it."""
        odd = math.exp(min(sum(map(self.weights.__getitem__, cells)), MAX_SCORE))
        return odd / (1.0 + odd)

    def learn(self, cells: list[Cells], probs: list[float], right: int) -> None:
        """One labelled node: candidate `right` came true (-1: none of them)."""
        weights, rate, token_rate = self.weights, self._rate, self._token_rate
        for index, row in enumerate(cells):
            error = (index == right) - probs[index]
            slow, fast = rate * error, token_rate * error
            for cell in row:
                weights[cell] += slow if cell < _TRUST else fast

    def state(self) -> dict[str, Float64Array]:
        """What was learned about evidence, to be kept: float64 [bands, cells] per table.

        `version` is STATE_VERSION and `bands` float64 [bands] says which were used, the present
        one first. The tables of tokens and token pairs stay out: they are a trace of the user's
        text.
        """
        learned = {self._band: self.weights, **self._bands}
        tables = {
            name: np.array([weights[_part(name)] for weights in learned.values()])
            for name in KEPT_TABLES
        }
        numbers = np.array(list(learned), np.float64)
        return {"version": np.array(float(STATE_VERSION)), "bands": numbers, **tables}

    def load(self, state: Mapping[str, ArrayLike]) -> None:
        """Takes over a `state`; raises ValueError and changes nothing if it does not fit."""
        if not np.array_equal(np.asarray(state.get("version", 0), np.float64), STATE_VERSION):
            raise ValueError("the calibration was kept by another version")
        bands = np.asarray(state.get("bands", ()), np.float64).ravel().tolist()
        if not bands or len(set(bands)) < len(bands) or not set(bands) <= set(range(NUM_BANDS)):
            raise ValueError(f"calibration bands must be different numbers below {NUM_BANDS}")
        learned = [shipped_weights()[:_LAST] for _ in bands]
        for name in KEPT_TABLES:
            values = np.asarray(state.get(name, ()), np.float64)
            shape = (len(bands), TABLE_SIZES[name])
            if values.shape != shape or not np.isfinite(values).all():
                raise ValueError(f"calibration table {name!r} must hold {shape} finite numbers")
            for weights, row in zip(learned, values.clip(-MAX_SCORE, MAX_SCORE), strict=True):
                weights[_part(name)] = row.tolist()
        self._bands = {int(band): row for band, row in zip(bands, learned, strict=True)}
        self._band = int(bands[0])
        self.weights[:_LAST] = self._bands.pop(self._band)


def shipped_weights() -> list[float]:
    """The weights before anything is learned."""
    weights = [0.0] * NUM_WEIGHTS
    for name in ALONE_TABLES:
        weights[_part(name)] = [ONLY_PRIOR] * TABLE_SIZES[name]
    for name, values in priors.WEIGHTS.items():
        weights[_part(name)] = [value / 100 for value in values]
    return weights


def _part(name: str) -> slice:
    return slice(OFFSETS[name], OFFSETS[name] + TABLE_SIZES[name])
