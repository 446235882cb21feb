"""Why two greedy answers differ: how far apart two tokens' logits are, and how far logits move.

llama.cpp evaluates batches of different widths by different kernels, and drafts that were dropped
leave the cache's cells in another order, so the same text gives slightly different sums. Where
activations are rounded to 8 bits that grows to steps; where two tokens are closer than that, either
may be the likeliest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sssd_local.draft.tree import Float32Array, Int32Array
from sssd_local.engine.decode import PROMPT_PIECE, Engine

# Tokens of a batch, and cells left free before the text, which move all others to other places in
# the sums: kernels change with the width, and dropped drafts leave such holes.
VARIANTS = ((8, 5), (4, 48), (16, 1), (3, 0), (2, 20), (5, 11), (1, 3), (1, 9), (1, 17), (1, 33))
# Rounding steps are rare in a small model, so the noise is looked for at this many positions.
NUM_ROWS = 128


@dataclass(frozen=True, slots=True)
class Tie:
    """`gap`: by how much the two tokens' logits differ; `noise`: the most by which any logit of the
    text before them was seen to move when it was evaluated in another way."""

    gap: float
    noise: float

    @property
    def is_explained(self) -> bool:
        """Whether both logits moving by the noise closes the gap."""
        return self.gap <= 2 * self.noise


def compare_tokens(
    engine: Engine, prompt: Int32Array, answer: Sequence[int], first: int, second: int
) -> Tie:
    """How close `first` and `second` are as the token after `prompt` and `answer`.

    The text is evaluated token by token, as plain decoding does, and then in VARIANTS until one
    moves the logits of its last NUM_ROWS positions by enough. Empties the cache.
    """
    tokens = np.array(answer, np.int32)
    try:
        plain = _rows(engine, prompt, tokens, 1, 0)
        tie = Tie(abs(float(plain[-1, first] - plain[-1, second])), 0.0)
        for width, shift in VARIANTS:
            moved = np.abs(_rows(engine, prompt, tokens, width, shift) - plain)
            tie = Tie(tie.gap, max(tie.noise, float(moved.max())))
            if tie.is_explained:
                break
    finally:
        engine.reset()
    return tie


def _rows(
    engine: Engine, prompt: Int32Array, answer: Int32Array, width: int, shift: int
) -> Float32Array:
    """The logits at the answer's last positions, float32 [up to NUM_ROWS, vocabulary]."""
    context = engine.context
    engine.reset()
    room = context.ctx - len(prompt) - len(answer) if context.num_sequences > 1 else 0
    _evaluate_prompt(engine, prompt, min(shift, room))
    num_rows = min(NUM_ROWS, len(answer))
    rows = np.empty((num_rows, context.num_vocab), np.float32)
    for start in range(0, len(answer), width):
        batch = answer[start : start + width]
        at, size = len(prompt) + start, len(batch)
        if size == 1:
            context.decode_one(int(batch[0]), at)
        else:
            context.decode_rows(batch, np.arange(at, at + size, dtype=np.int32), None)
        row = start - (len(answer) - num_rows)
        skipped = max(0, -row)
        if skipped < size:
            rows[row + skipped : row + size] = context.logits[skipped:]
    return rows


def _evaluate_prompt(engine: Engine, prompt: Int32Array, shift: int) -> None:
    context, ledger = engine.context, engine.ledger
    if shift > 0:
        # Another sequence holds the first cells until the prompt's first piece stands behind them.
        context.decode_prompt(prompt[:1].repeat(shift), 0, logits=True)
        context.copy(0, 1, 0, shift)
        context.remove(0, 0)
    for start in range(0, len(prompt), PROMPT_PIECE):
        piece = prompt[start : start + PROMPT_PIECE]
        context.decode_prompt(piece, ledger.length, logits=True)
        if shift > 0 and not start:
            context.remove(1, 0)
        ledger.commit_prompt(piece)
