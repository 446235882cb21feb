"""The embedded model's tokenizer: byte-level BPE with single digits, as llama.cpp's `smollm` kind.

A space is a token of its own before all but common words, so that a name or an identifier has the
same tokens wherever it stands, and copying it is copying tokens.

    python -m models.tokenizer models/tokenizer.json
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from models import corpus
from models.corpus_words import (
    ANIMALS,
    CODE_WORDS,
    COLOURS,
    DAYS,
    FOODS,
    JOBS,
    MONTHS,
    OBJECTS,
    PLACES,
    REAL_NAMES,
)

FILE = Path(__file__).with_name("tokenizer.json")
NUM_TOKENS = 4096
SYSTEM, USER, ASSISTANT, END = "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"
SPECIAL = (SYSTEM, USER, ASSISTANT, END)
PRE = "smollm"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{{ '<|end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
# Byte-level BPE writes a space and a line end as these letters.
_SPACE, _LINE = "Ġ", "Ċ"
# Runs of spaces as indented code has them; the last space of a run stands before the next word.
_RUNS = (
    (_SPACE, _SPACE),
    (_SPACE * 2, _SPACE * 2),
    (_SPACE * 2, _SPACE),
    (_SPACE * 4, _SPACE * 3),
    (_LINE, _SPACE),
    (_LINE, _SPACE * 3),
    (_LINE, _SPACE * 7),
)
# What is copied into JSON or code has the same tokens there as in prose.
_COPIED = (ANIMALS, COLOURS, DAYS, FOODS, JOBS, MONTHS, OBJECTS, PLACES, REAL_NAMES)
_SHORT_WORDS = {"the", "and", "of", "is", "to", "was", "for", "you", "are", "not", "has", "can"}
_NUM_SPACED = 400
_NUM_EXAMPLES = 20_000


def train() -> Any:
    """A tokenizer trained on examples of the corpus, the same at every run."""
    library = _library()
    learned = library.Tokenizer(library.models.BPE())
    learned.pre_tokenizer = library.pre_tokenizers.Sequence(
        [library.pre_tokenizers.Split(" ", "removed"), *_splits()]
    )
    size = NUM_TOKENS - len(SPECIAL) - len(_RUNS) - _NUM_SPACED
    trainer = library.trainers.BpeTrainer(
        vocab_size=size,
        show_progress=False,
        initial_alphabet=sorted(library.pre_tokenizers.ByteLevel.alphabet()),
    )
    learned.train_from_iterator(texts(_NUM_EXAMPLES), trainer)
    model = json.loads(learned.to_str())["model"]
    merges = [(first, second) for first, second in model["merges"]]
    spaced = _spaced_words(set(model["vocab"]), NUM_TOKENS - len(SPECIAL) - len(_RUNS) - size)
    pairs = [*merges, *_RUNS, *((_SPACE, word) for word in spaced)]
    pieces = sorted(model["vocab"], key=model["vocab"].get)
    pieces += [first + second for first, second in pairs[len(merges) :]]
    return assemble(pieces, pairs)


def assemble(pieces: list[str], merges: list[tuple[str, str]]) -> Any:
    """A tokenizer of these pieces (ids in order) with the special tokens behind them."""
    library = _library()
    vocab = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = library.Tokenizer(library.models.BPE(vocab, merges))
    tokenizer.pre_tokenizer = library.pre_tokenizers.Sequence(_splits())
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def read_file(path: Path = FILE) -> dict[str, Any]:
    """The `pieces` and `merges` of a saved tokenizer."""
    saved: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return saved


@cache
def load(path: Path = FILE) -> Any:
    """The committed tokenizer."""
    saved = read_file(path)
    return assemble(saved["pieces"], [(first, second) for first, second in saved["merges"]])


def save(tokenizer: Any, path: Path) -> None:
    """Writes pieces and merges, one a line."""
    model: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].get)
    lines = {
        name: "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]"
        for name, rows in (("pieces", pieces), ("merges", model["merges"]))
    }
    text = f'{{"pieces": {lines["pieces"]},\n"merges": {lines["merges"]}}}\n'
    path.write_text(text, encoding="utf-8")


def encode(text: str) -> list[int]:
    """The ids of a text; special tokens are not looked for in it."""
    return encode_batch([text])[0]


def encode_batch(texts: list[str]) -> list[list[int]]:
    """The ids of several texts."""
    tokenizer = load()
    tokenizer.encode_special_tokens = True
    return [encoded.ids for encoded in tokenizer.encode_batch(texts)]


def special_ids() -> dict[str, int]:
    """The id of each special token."""
    return {name: load().token_to_id(name) for name in SPECIAL}


def _splits() -> list[Any]:
    splitters = _library().pre_tokenizers
    return [
        splitters.Digits(individual_digits=True),
        splitters.ByteLevel(add_prefix_space=False, use_regex=True),
    ]


def _library() -> Any:
    """Hugging Face's tokenizers, of the [train] extra; reading the file needs it not."""
    return import_module("tokenizers")


def texts(count: int) -> Iterator[str]:
    """Questions and answers of `count` examples of the corpus."""
    for index in range(count):
        example = next(corpus.chat(-1, index))
        for question, answer in example.turns:
            yield question
            yield answer


def _spaced_words(known: set[str], count: int) -> list[str]:
    """The most frequent words that are one piece and no part of a name."""
    counts: Counter[str] = Counter()
    splitter = _library().pre_tokenizers.Sequence(_splits())
    for text in texts(_NUM_EXAMPLES):
        counts.update(piece for piece, _ in splitter.pre_tokenize_str(text))
    never = {part for word in CODE_WORDS for part in word.split("_")}.union(*_COPIED)
    chosen: list[str] = []
    for piece, _ in counts.most_common():
        word = piece[1:]
        if piece[0] == _SPACE and word in known and word not in never and _starts_no_name(word):
            chosen.append(word)
    return chosen[:count]


def _starts_no_name(word: str) -> bool:
    """Whether names seldom begin with this word, so that they keep their tokens."""
    return not word.isalpha() or len(word) > 3 or word in _SHORT_WORDS


def main(arguments: list[str]) -> None:
    """Trains the tokenizer and writes it to the given path."""
    save(train(), Path(arguments[0]))


if __name__ == "__main__":
    main(sys.argv[1:])
