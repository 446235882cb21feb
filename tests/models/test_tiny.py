"""Tiny models load, decode and tokenise in llama.cpp."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import tiny, tiny_families
from sssd_local.errors import ConfigError

Writer = Callable[..., Path]
WRITERS: dict[str, Writer] = {
    "llama": tiny.write_tiny_llama,
    "moe": tiny.write_tiny_moe,
    "gemma": tiny.write_tiny_gemma,
    "mamba": tiny.write_tiny_mamba,
    "lfm2": tiny.write_tiny_lfm2,
    "gpt2": tiny.write_tiny_gpt2,
    "qwen2": tiny_families.write_tiny_qwen2,
    "qwen3": tiny_families.write_tiny_qwen3,
    "phi3": tiny_families.write_tiny_phi3,
    "qwen35": tiny_families.write_tiny_qwen35,
    "qwen3next": tiny_families.write_tiny_qwen3next,
    "nemotron_h": tiny_families.write_tiny_nemotron_h,
}
PROMPT = [1, 70, 265, 300, 262, 271]


@contextmanager
def loaded(path: Path, **options: Any) -> Iterator[llama_cpp.Llama]:
    options = {"n_ctx": 256, "n_threads": 1, "n_threads_batch": 1, "verbose": False} | options
    llama = llama_cpp.Llama(str(path), **options)
    try:
        yield llama
    finally:
        llama.close()


def greedy(path: Path, num_tokens: int) -> list[int]:
    with loaded(path) as llama:
        return list(islice(llama.generate(PROMPT, temp=0), num_tokens))


def logits(path: Path, tokens: Sequence[int]) -> np.ndarray:
    """Rows of float32 logits after each token."""
    with loaded(path, logits_all=True) as llama:
        llama.eval(tokens)
        rows: np.ndarray = llama.scores[: len(tokens)].copy()
        return rows


@pytest.mark.parametrize("quant", ["F32", "Q8_0", "Q4_0"])
@pytest.mark.parametrize("kind", WRITERS)
def test_every_kind_is_small_and_decodes_varied_text(kind: str, quant: str, tmp_path: Path) -> None:
    path = WRITERS[kind](tmp_path / "m.gguf", quant=quant)
    assert path.stat().st_size < 1_000_000
    assert len(set(greedy(path, 64))) > 12


@pytest.mark.parametrize("kind", WRITERS)
def test_logits_differ_by_seed_and_are_spread(kind: str, tmp_path: Path) -> None:
    one = logits(WRITERS[kind](tmp_path / "1.gguf", seed=1), PROMPT)
    two = logits(WRITERS[kind](tmp_path / "2.gguf", seed=2), PROMPT)
    assert np.isfinite(one).all()
    assert one.std() == pytest.approx(tiny.LOGIT_SPREAD, rel=0.15)
    assert np.corrcoef(one.ravel(), two.ravel())[0, 1] < 0.2


@pytest.mark.parametrize(("quant", "bound"), [("F16", 0.002), ("Q8_0", 0.05), ("Q4_0", 0.5)])
@pytest.mark.parametrize("kind", WRITERS)
def test_quantised_models_agree(kind: str, quant: str, bound: float, tmp_path: Path) -> None:
    exact = logits(WRITERS[kind](tmp_path / "exact.gguf"), PROMPT)
    close = logits(WRITERS[kind](tmp_path / "close.gguf", quant=quant), PROMPT)
    error = np.sqrt(np.mean((close - exact) ** 2)) / exact.std()
    assert 0 < error < bound


def test_kinds_are_what_they_claim(tmp_path: Path) -> None:
    def model(kind: str) -> Any:
        return loaded(WRITERS[kind](tmp_path / f"{kind}.gguf"))

    with model("llama") as llama:
        assert llama.metadata["llama.attention.head_count_kv"] == "1"
    with model("moe") as llama:
        assert llama.metadata["llama.expert_count"] == "4"
    with model("gemma") as llama:
        assert llama_cpp.llama_model_n_swa(llama.model) == 32
    with model("mamba") as llama:
        assert llama_cpp.llama_model_is_recurrent(llama.model)
    with model("lfm2") as llama:
        assert llama_cpp.llama_model_is_hybrid(llama.model)
    for kind in ("qwen35", "qwen3next", "nemotron_h"):
        with model(kind) as llama:
            assert llama_cpp.llama_model_is_hybrid(llama.model)
            assert llama.metadata["general.architecture"] == kind
    with model("gpt2") as llama:
        assert llama_cpp.llama_model_n_ctx_train(llama.model) == 512


def test_a_quantised_cache_is_possible(tmp_path: Path) -> None:
    path = tiny.write_tiny_llama(tmp_path / "m.gguf")
    kind = llama_cpp.GGML_TYPE_Q8_0
    with loaded(path, type_k=kind, type_v=kind, flash_attn=True) as llama:
        assert len(list(islice(llama.generate(PROMPT, temp=0), 8))) == 8


def test_the_window_of_gemma_hides_old_tokens(tmp_path: Path) -> None:
    # Of 2 layers one sees everything, so only a window smaller than the text changes the logits.
    text = [1, *range(260, 310)]
    narrow, wide, wider = (
        logits(tiny.write_tiny_gemma(tmp_path / str(window), window=window), text)[-1]
        for window in (8, 64, 128)
    )
    np.testing.assert_allclose(wide, wider, atol=1e-4)
    assert np.abs(narrow - wide).max() > 0.1


def test_options_reach_the_file(tmp_path: Path) -> None:
    path = tiny.write_tiny_llama(
        tmp_path / "m.gguf", num_tokens=400, ctx_length=96, chat_template=tiny.CHAT_TEMPLATE
    )
    with loaded(path, n_ctx=0) as llama:
        assert llama.n_vocab() == 400
        assert llama_cpp.llama_model_n_ctx_train(llama.model) == 96
        assert llama.metadata["tokenizer.chat_template"] == tiny.CHAT_TEMPLATE
    with loaded(tiny.write_tiny_llama(tmp_path / "n.gguf")) as llama:
        assert "tokenizer.chat_template" not in llama.metadata


@pytest.mark.parametrize("num_tokens", [tiny.FIRST_PIECE, 320, tiny.MAX_TOKENS])
def test_tokens_are_distinct_and_as_many_as_asked_for(num_tokens: int) -> None:
    metadata = tiny.tokenizer_metadata(num_tokens)
    for name in ("tokens", "scores", "token_type"):
        assert len(metadata[f"tokenizer.ggml.{name}"]) == num_tokens
    assert len(set(metadata["tokenizer.ggml.tokens"])) == num_tokens


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[llama_cpp.Llama]:
    path = tiny.write_tiny_llama(tmp_path_factory.mktemp("tokenizer") / "m.gguf")
    with loaded(path) as llama:
        yield llama


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0▁")))
@settings(deadline=None, max_examples=200)
def test_any_text_comes_back(tokenizer: llama_cpp.Llama, text: str) -> None:
    tokens = tokenizer.tokenize(text.encode(), add_bos=False, special=False)
    assert b"".join(tokenizer.detokenize([token], [1]) for token in tokens).decode() == text


def test_english_takes_few_tokens(tokenizer: llama_cpp.Llama) -> None:
    tokens = tokenizer.tokenize(b"the king and the thing", add_bos=True)
    assert tokens[0] == tiny.BOS
    assert len(tokens) < 14


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quant": "Q5_K"}, "quant must be one of F32, F16, Q8_0, Q4_0, got 'Q5_K'"),
        ({"num_tokens": 200}, "num_tokens must be from 259"),
        ({"num_tokens": 5000}, f"to {tiny.MAX_TOKENS}, got 5000"),
    ],
)
def test_impossible_options_are_refused(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny.write_tiny_llama(tmp_path / "m.gguf", **options)
    assert list(tmp_path.iterdir()) == []


def test_mixture_of_experts_takes_other_numbers(tmp_path: Path) -> None:
    path = tiny.write_tiny_moe(tmp_path / "m.gguf", num_experts=3, num_used=1)
    shapes = {tensor.name: tensor.shape.tolist() for tensor in gguf.GGUFReader(path).tensors}
    assert shapes["blk.1.ffn_up_exps.weight"] == [64, 64, 3]
    assert len(greedy(path, 8)) == 8
