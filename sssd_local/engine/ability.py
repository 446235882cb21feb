"""Which drafts a model can check: trees, chains or none, and how its cache forgets the wrong ones.

One rule for the header of a file and for the loaded model. The architectures are llama.cpp's
(llama-arch.cpp; llama-model.cpp, create_memory, for what kind of cache each has).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

# Without attention, or with recurrent layers beside it: nothing can be cut off a state's end.
RECURRENT = frozenset(
    {"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7", "jamba", "falcon-h1", "plamo2",
     "granitehybrid", "lfm2", "lfm2moe", "nemotron_h", "nemotron_h_moe", "qwen3next", "qwen35",
     "qwen35moe", "qwen4exp", "kimi-linear", "kimi-k3", "bailingmoe3", "glm5-next", "deepseek4",
     "minimax-01"}
)  # fmt: skip
# llama.cpp can keep the states of the last tokens for some more (llm_arch_supports_rs_rollback);
# here are those whose graphs were tested, and their mixtures of experts, which share them.
SNAPSHOTS = frozenset({"lfm2", "lfm2moe", "qwen35", "qwen35moe", "nemotron_h", "nemotron_h_moe"})
# Caches of a kind of their own, which no test here covers.
UNTESTED = frozenset(
    {"deepseek4", "deepseek32", "dots3note", "glm-dsa", "glm5-next", "hy-v4", "minimax-m3",
     "qwen4exp"}
)  # fmt: skip


class Speculation(StrEnum):
    """What a draft may look like; `none` is plain decoding."""

    TREE = "tree"
    CHAIN = "chain"
    NONE = "none"


class RollBackKind(StrEnum):
    """How the cache forgets rejected tokens.

    `remove` them from a key-value cache; go back to a `snapshot` of the recurrent state that
    llama.cpp kept; `restore` a saved state and evaluate the accepted tokens again; or not at all.
    """

    REMOVE = "remove"
    SNAPSHOT = "snapshot"
    RESTORE = "restore"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Ability:
    """What a model can check, how it rolls back, and why not more; `reason` is "" for trees."""

    speculation: Speculation
    roll_back: RollBackKind
    reason: str = ""


def find_ability(
    architecture: str, *, recurrent: bool, swa_full: bool = True, snapshots: bool = True
) -> Ability:
    """The ability of an architecture.

    `recurrent`: it has layers with a state instead of a cache. `swa_full` False: layers with a
    sliding window forget what lies behind it. `snapshots` False: no memory for them.
    """
    if architecture in UNTESTED or (recurrent and architecture not in RECURRENT):
        kind = RollBackKind.NONE if recurrent else RollBackKind.REMOVE
        return Ability(Speculation.NONE, kind, "its kind of cache was not tested")
    if recurrent and snapshots and architecture in SNAPSHOTS:
        return Ability(Speculation.CHAIN, RollBackKind.SNAPSHOT, "its state has no branches")
    if recurrent:
        reason = "its state has no branches, and a wrong draft costs a second evaluation"
        return Ability(Speculation.CHAIN, RollBackKind.RESTORE, reason)
    if not swa_full:
        reason = "its sliding window is not kept whole"
        return Ability(Speculation.CHAIN, RollBackKind.REMOVE, reason)
    return Ability(Speculation.TREE, RollBackKind.REMOVE)
