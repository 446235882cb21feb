"""Replay models write exactly the text that was set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import pytest

from models.replay import (
    CTX_STEP,
    POSITION_SCALE,
    SHAPES,
    ReplayFile,
    cached_replay_model,
    set_text,
    write_replay_model,
)
from models.tiny import EOS, tokenizer_metadata, write_tiny_llama
from sssd_local.errors import ConfigError, ContextFullError, ModelError

NUM_CTX = 256
NUM_TOKENS = 320


@pytest.fixture(scope="module")
def vocab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vocab")
    return write_tiny_llama(folder / "vocab.gguf", num_tokens=NUM_TOKENS, chat_template="{{ x }}")


@pytest.fixture(scope="module")
def model(vocab: Path) -> Path:
    return write_replay_model(vocab.with_name("replay.gguf"), vocab, "tiny", "Q4_0", NUM_CTX)


@contextmanager
def loaded(path: Path, **options: Any) -> Iterator[llama_cpp.Llama]:
    llama = llama_cpp.Llama(
        str(path), n_ctx=NUM_CTX, n_threads=1, n_threads_batch=1, verbose=False, **options
    )
    try:
        yield llama
    finally:
        llama.close()


def answer(llama: llama_cpp.Llama, prompt: Sequence[int]) -> list[int]:
    llama.reset()
    tokens: list[int] = []
    for token in llama.generate(list(prompt), temp=0):
        if token == EOS:
            break
        tokens.append(token)
    return tokens


def random_text(size: int, seed: int) -> list[int]:
    ids = np.random.default_rng(seed).integers(3, NUM_TOKENS, size)
    return [int(token) for token in ids]


def test_the_answer_is_the_text_for_any_prompt_of_that_length(model: Path) -> None:
    text = random_text(150, seed=1)
    set_text(model, text, 20)
    with loaded(model) as llama:
        assert answer(llama, random_text(20, seed=2)) == text
        assert answer(llama, [1] * 20) == text
        assert answer(llama, [1] * 30) == text[10:]


@pytest.mark.parametrize("quant", ["F16", "Q8_0", "Q4_K_M"])
def test_every_quant_is_exact(quant: str, vocab: Path, tmp_path: Path) -> None:
    path = write_replay_model(tmp_path / "m.gguf", vocab, "tiny", quant, NUM_CTX)
    set_text(path, random_text(100, seed=3), 5)
    with loaded(path) as llama:
        assert answer(llama, [1] * 5) == random_text(100, seed=3)


def test_a_second_text_leaves_nothing_of_the_first(model: Path) -> None:
    with ReplayFile(model) as file:
        file.set_text(random_text(200, seed=4), 10)
        file.set_text(random_text(30, seed=5), 40)
    with loaded(model) as llama:
        assert answer(llama, [1] * 40) == random_text(30, seed=5)
        assert answer(llama, [1] * 90) == []


def test_a_batch_of_many_tokens_predicts_the_same(model: Path) -> None:
    text = random_text(64, seed=6)
    set_text(model, text, 8)
    with loaded(model, logits_all=True) as llama:
        llama.eval([1] * 8 + text)
        assert llama.scores[7:72].argmax(axis=1).tolist() == [*text, EOS]


def test_the_text_may_fill_the_context_to_the_end(model: Path) -> None:
    text = random_text(NUM_CTX - 1, seed=7)
    set_text(model, text, 1)
    with loaded(model) as llama:
        generated = llama.generate([1], temp=0)
        assert [next(generated) for _ in text] == text


def test_the_margin_is_wide(model: Path) -> None:
    text = random_text(100, seed=8)
    set_text(model, text, 1)
    with loaded(model, logits_all=True) as llama:
        llama.eval([1, *text])
        rows = np.sort(llama.scores[:100], axis=1)
    assert (rows[:, -1] - rows[:, -2] > 0.5 * rows[:, -1]).all()


def test_setting_a_text_keeps_the_time_stamp(model: Path) -> None:
    before = model.stat().st_mtime_ns
    set_text(model, random_text(10, seed=9), 3)
    assert model.stat().st_mtime_ns == before


def test_only_positions_change(model: Path) -> None:
    def digest() -> dict[str, bytes]:
        return {tensor.name: tensor.data.tobytes() for tensor in gguf.GGUFReader(model).tensors}

    before = digest()
    set_text(model, random_text(50, seed=10), 7)
    after = digest()
    assert [name for name in before if before[name] != after[name]] == ["position_embd.weight"]
    rows = np.frombuffer(after["position_embd.weight"], np.float32)
    assert set(np.unique(np.abs(rows))) <= {0.0, POSITION_SCALE}


def test_the_tokenizer_is_copied(model: Path) -> None:
    fields = gguf.GGUFReader(model).fields
    for name, value in tokenizer_metadata(NUM_TOKENS).items():
        assert fields[name].contents() == value
    assert fields["tokenizer.chat_template"].contents() == "{{ x }}"
    assert fields["gpt2.context_length"].contents() == NUM_CTX


def test_llama_cpp_quantises_the_body_and_not_the_positions(model: Path) -> None:
    types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(model).tensors}
    assert types["position_embd.weight"] == "F32"
    assert types["blk.1.ffn_down.weight"] == "Q4_0"
    assert types["output.weight"] == "Q6_K"


@pytest.mark.parametrize(
    ("size", "body"), [("150m", 125.8e6), ("1b", 968.9e6), ("3b", 3.02e9), ("tiny", 0.92e6)]
)
def test_shapes_have_the_size_they_are_named_after(size: str, body: float) -> None:
    shape = SHAPES[size]
    per_layer = shape.n_embd * (2 * shape.n_embd + 2 * shape.n_kv + 2 * shape.n_ff)
    assert shape.n_layer * per_layer == pytest.approx(body, rel=0.01)
    assert shape.n_embd % 256 == 0


def test_bad_texts_are_refused(model: Path) -> None:
    with ReplayFile(model) as file:
        assert (file.eos, file.num_tokens, file.n_ctx) == (EOS, NUM_TOKENS, NUM_CTX)
        with pytest.raises(ContextFullError, match="250 tokens from position 10 on does not fit"):
            file.set_text([5] * 250, 10)
        with pytest.raises(ConfigError, match="start_position must be at least 1, got 0"):
            file.set_text([5], 0)
        with pytest.raises(ConfigError, match="from 0 to 319"):
            file.set_text([5, NUM_TOKENS], 1)


def test_other_files_are_refused(vocab: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is no replay model"):
        ReplayFile(vocab)
    (tmp_path / "text.gguf").write_text("no model, but long enough to have a header")
    with pytest.raises(ModelError, match="cannot read the vocabulary"):
        write_replay_model(tmp_path / "m.gguf", tmp_path / "text.gguf", "tiny", "Q4_0", 256)


def test_unknown_names_are_refused_before_anything_is_written(vocab: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown shape '2b'; .*known are tiny, 150m, 1b, 3b"):
        write_replay_model(tmp_path / "m.gguf", vocab, "2b", "Q4_0", 256)
    with pytest.raises(ConfigError, match="unknown quant 'Q4'"):
        write_replay_model(tmp_path / "m.gguf", vocab, "tiny", "Q4", 256)
    assert list(tmp_path.iterdir()) == []


def test_the_cache_is_used_and_knows_the_vocabulary(vocab: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = cached_replay_model(cache, vocab, "tiny", "Q8_0", 300)
    stamp = first.stat().st_mtime_ns
    assert ReplayFile(first).n_ctx == CTX_STEP
    assert cached_replay_model(cache, vocab, "tiny", "Q8_0", 2000) == first
    assert first.stat().st_mtime_ns == stamp

    other = write_tiny_llama(tmp_path / "other.gguf", num_tokens=400)
    assert cached_replay_model(cache, other, "tiny", "Q8_0", 300) != first
    assert len(list(cache.iterdir())) == 2
