"""Fixtures with tiny real models, and what tests need to drive an engine by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.tiny import (
    CHAT_TEMPLATE,
    write_tiny_gemma,
    write_tiny_gpt2,
    write_tiny_lfm2,
    write_tiny_llama,
    write_tiny_mamba,
    write_tiny_moe,
)
from models.tiny_families import (
    write_tiny_nemotron_h,
    write_tiny_phi3,
    write_tiny_qwen2,
    write_tiny_qwen3,
    write_tiny_qwen3next,
    write_tiny_qwen35,
)
from sssd_local.config import ModelConfig, SamplingConfig
from sssd_local.draft.tree import DraftTree, Int32Array, empty_tree, tree_from_lists
from sssd_local.engine.context import Context
from sssd_local.engine.decode import Engine, Request, answer
from sssd_local.engine.model import Model
from sssd_local.engine.output import StepResult
from sssd_local.engine.sampling import new_sampler
from sssd_local.hardware.cost import CostModel
from sssd_local.hardware.sizer import Sizer

WRITERS = {
    "llama": write_tiny_llama,
    "moe": write_tiny_moe,
    "gemma": write_tiny_gemma,
    "mamba": write_tiny_mamba,
    "lfm2": write_tiny_lfm2,
    "gpt2": write_tiny_gpt2,
    "qwen2": write_tiny_qwen2,
    "qwen3": write_tiny_qwen3,
    "phi3": write_tiny_phi3,
    "qwen35": write_tiny_qwen35,
    "qwen3next": write_tiny_qwen3next,
    "nemotron_h": write_tiny_nemotron_h,
}
PROMPT = "the rain on the plain and the other rain on the hill"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that writes a tiny model once and returns its path."""
    folder = tmp_path_factory.mktemp("models")
    written: dict[str, Path] = {}

    def write(kind: str = "llama", **options: Any) -> Path:
        name = "-".join([kind, *(f"{key}={value}" for key, value in sorted(options.items()))])
        if name not in written:
            file = folder / f"{len(written)}.gguf"
            options.setdefault("chat_template", CHAT_TEMPLATE)
            written[name] = WRITERS[kind](file, **options)
        return written[name]

    return write


class Scripted:
    """A drafter that drafts what a function of the history says, whatever that is worth."""

    wants_runner_ups = False

    def __init__(self, draft: Callable[[list[int], int], DraftTree]) -> None:
        self.history: list[int] = []
        self._draft = draft

    def sync(self, tokens: Int32Array, *, temperature: float | None = None) -> None:
        self.history = tokens.tolist()

    def draft(self, costs: object, max_nodes: int, max_depth: int) -> DraftTree:
        if max_nodes < 1 or max_depth < 1:
            return empty_tree()
        tree = self._draft(self.history, min(max_depth, max_nodes)).prefix(max_nodes)
        assert tree.check() == ""
        return tree

    def observe(
        self,
        tree: DraftTree,
        path: Sequence[int],
        token_ids: Sequence[int],
        runner_ups: Int32Array | None = None,
    ) -> None:
        assert len(token_ids) == len(path) + 1
        self.history += token_ids

    def extend(self, tokens: Int32Array) -> None:
        self.history += tokens.tolist()

    def reset(self) -> None:
        self.history = []


def chain_tree(tokens: Sequence[int]) -> DraftTree:
    """A chain of nodes."""
    size = len(tokens)
    return tree_from_lists(
        list(tokens), list(range(-1, size - 1)), [0.5] * size, [2] * size, [0] * size
    )


def random_tree(random: np.random.Generator, num_nodes: int, num_vocab: int) -> DraftTree:
    """A tree of random shape with at most 8 leaves and random, different siblings."""
    parents: list[int] = []
    tokens: list[int] = []
    used: set[tuple[int, int]] = set()
    while len(parents) < num_nodes:
        parent = int(random.integers(-1, len(parents)))
        token = int(random.integers(3, num_vocab))
        leaves = len(parents) + 1 - len({*parents, parent} - {-1})
        if (parent, token) in used or leaves > 8:
            continue
        used.add((parent, token))
        parents.append(parent)
        tokens.append(token)
    size = len(parents)
    return tree_from_lists(tokens, parents, [0.5] * size, [1] * size, [0] * size)


@dataclass
class Bench:
    """An engine on a tiny model with a drafter of the test's choosing."""

    path: Path
    drafter: Any = None
    width: int | None = 1
    ctx: int = 256
    kv_type: Any = "f32"
    options: dict[str, Any] = field(default_factory=dict)
    config: ModelConfig = field(init=False)

    def __post_init__(self) -> None:
        self.config = ModelConfig(ctx=self.ctx, kv_type=self.kv_type, **self.options)
        self.model = Model(self.path, self.config)
        self.context = Context(self.model, self.config, 1, 1)
        drafter = self.drafter or Scripted(lambda history, depth: empty_tree())
        self.engine = Engine(self.model, self.context, drafter, Sizer(CostModel()), self.width)

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()
        self.model.close()

    def tokens(self, text: str = PROMPT) -> Int32Array:
        return self.model.tokenize(text, add_special=True, parse_special=False)

    def request(self, prompt: Int32Array, **options: Any) -> Request:
        max_tokens = options.pop("max_tokens", 40)
        keys = ("stop", "make_room", "should_stop", "progress")
        given = {key: options.pop(key) for key in keys if key in options}
        defaults: dict[str, Any] = {
            "stop": (),
            "make_room": lambda history: None,
            "should_stop": lambda: False,
        }
        sampling = SamplingConfig(**{"temperature": 0.0, **options})
        sampler = new_sampler(self.model, sampling, prompt)
        return Request(prompt, sampler, max_tokens, **{**defaults, **given})

    def steps(self, prompt: Int32Array | None = None, **options: Any) -> Iterator[StepResult]:
        prompt = self.tokens() if prompt is None else prompt
        return answer(self.engine, self.request(prompt, **options))

    def run(self, prompt: Int32Array | None = None, **options: Any) -> list[int]:
        """The token ids of an answer; checks the ledger after it."""
        tokens = [token for step in self.steps(prompt, **options) for token in step.token_ids]
        assert self.engine.ledger.check() == ""
        return tokens

    def fresh_logits(self, tokens: Sequence[int]) -> np.ndarray:
        """Logits after `tokens`, evaluated one at a time in an empty cache."""
        context = Context(self.model, self.config, 1, 1)
        for position, token in enumerate(tokens):
            context.decode_rows(np.array([token], np.int32), np.array([position], np.int32), None)
        row = context.logits[0].copy()
        context.close()
        return row
