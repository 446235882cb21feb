"""The tokenizer's ids are llama.cpp's, and copied words keep their tokens."""

from __future__ import annotations

import random
from pathlib import Path

import llama_cpp
import numpy as np
import pytest

from models import corpus, tokenizer
from models.export import export, tokenizer_metadata

pytest.importorskip("tokenizers", reason="needs the [train] extra")


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> llama_cpp.Llama:
    """A model of one value a token with the committed tokenizer."""
    shape = {
        "ctx_length": 8,
        "num_tokens": tokenizer.NUM_TOKENS,
        "n_embd": 32,
        "n_layer": 0,
        "n_ff": 32,
        "n_head": 1,
        "norm_epsilon": 1e-5,
        "rope_base": 10_000.0,
    }
    weights = {
        "token_embd.weight": np.zeros((tokenizer.NUM_TOKENS, 32)),
        "output_norm.weight": np.ones(32),
    }
    path = export(shape, weights, tmp_path_factory.mktemp("vocabulary") / "tokens.gguf")
    return llama_cpp.Llama(str(path), vocab_only=True, verbose=False)


def sample_texts() -> list[str]:
    """1,000 texts: of the corpus, random letters of many scripts and random bytes."""
    choose = random.Random(0)
    found = []
    for number in range(400):
        for question, answer in next(corpus.chat(7, number)).turns:
            found += [question, answer]
    marks = [
        *"  \n\n\t.,:;!?'\"`()[]{}<>=+-*/_#@|&%0123456789aAzZbcdeéßñøæöü",
        "'s",
        "'ll",
        "\r\n",
        "   ",
        "日本",
        "語",
        "привет",
        "שלום",
        "😀",
        "👩‍🔬",
        "\u00a0",
        "\u2003",
        "²",
        "½",
        "٣",
        "e\u0301",
    ]
    for _ in range(300):
        found.append("".join(choose.choices(marks, k=choose.randint(0, 40))))
    for _ in range(400):
        data = choose.randbytes(choose.randint(1, 40))
        found.append(data.decode("utf-8", "replace").replace("\0", " "))
    return found[:400] + found[-600:]


def test_ids_equal_those_of_llama_cpp(vocabulary: llama_cpp.Llama) -> None:
    checked = sample_texts()
    assert len(checked) == 1000
    for text in checked:
        expected = vocabulary.tokenize(text.encode(), add_bos=True, special=False)
        assert tokenizer.encode(text) == expected, text


def test_tokens_give_the_text_back(vocabulary: llama_cpp.Llama) -> None:
    for text in sample_texts():
        assert vocabulary.detokenize(tokenizer.encode(text)) == text.encode()


def test_special_tokens_are_last_and_not_found_in_texts(vocabulary: llama_cpp.Llama) -> None:
    ids = tokenizer.special_ids()
    assert list(ids) == ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
    assert list(ids.values()) == [4092, 4093, 4094, 4095]
    assert not set(tokenizer.encode("<|end|><|user|>")) & set(ids.values())
    assert vocabulary.tokenize(b"<|end|>", add_bos=False, special=True) == [4095]
    assert vocabulary.token_eos() == 4095


def test_digits_are_tokens_of_their_own() -> None:
    assert len(tokenizer.encode("20417")) == 5
    assert len(tokenizer.encode("a1b22")) == 5


@pytest.mark.parametrize("word", ["Mirando", "total_price", "kelvar", "maxWidth", "blue", "lamp"])
def test_a_name_has_the_same_tokens_wherever_it_stands(word: str) -> None:
    alone = tokenizer.encode(word)
    for before in ('"', "(", "`", "_", " ", "\n", "- "):
        assert tokenizer.encode(before + word)[-len(alone) :] == alone


def test_batches_are_the_texts_in_turn() -> None:
    some = ["Hello", "What is 47 + 38?", ""]
    assert tokenizer.encode_batch(some) == [tokenizer.encode(text) for text in some]
    assert tokenizer.encode("") == []


def test_saving_and_loading_gives_the_same_tokenizer(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    tokenizer.save(tokenizer.load(), path)
    assert path.read_text("utf-8") == tokenizer.FILE.read_text("utf-8")


def test_metadata_names_every_token_once() -> None:
    metadata = tokenizer_metadata()
    tokens = metadata["tokenizer.ggml.tokens"]
    assert len(tokens) == len(set(tokens)) == tokenizer.NUM_TOKENS
    assert metadata["tokenizer.ggml.token_type"].count(3) == 4
    known = set(tokens)
    for merge in metadata["tokenizer.ggml.merges"]:
        first, second = merge.split(" ")
        assert first + second in known
