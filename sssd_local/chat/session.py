"""Conversation to token ids, so that a next turn only adds tokens to those of the turn before."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from sssd_local.errors import ContextFullError

AnyMessage = TypeVar("AnyMessage", bound=Mapping[str, Any])

# Written before a continuation to learn its tokens in the middle of a text; see `_continue`.
MARKERS = ("a", "0", ".", "\n")


class Tokenize(Protocol):
    """Text to token ids; `add_special` adds BOS where the model wants it."""

    def __call__(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """The token ids of `text`."""


@dataclass(frozen=True, slots=True)
class _Spelled:
    """Text (UTF-8) with its ids: the first `ends[i]` bytes are what the first `counts[i]` ids say.

    `ends` ascends strictly.
    """

    text: bytes = b""
    ids: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()

    def beginning_of(self, text: bytes) -> _Spelled:
        """The longest part, whole characters and tokens, that `text` begins with."""
        size = bisect_left(self.ends, True, key=lambda end: not text.startswith(self.text[:end]))
        while size and _inside_character(text, self.ends[size - 1]):
            size -= 1
        if not size:
            return _Spelled()
        end, count = self.ends[size - 1], self.counts[size - 1]
        return _Spelled(self.text[:end], self.ids[:count], self.ends[:size], self.counts[:size])

    def extend(self, text: bytes, ids: Sequence[int]) -> _Spelled:
        """With more text and its ids, which belong together as a whole."""
        all_text, all_ids = self.text + text, (*self.ids, *ids)
        if len(all_text) == (self.ends[-1] if self.ends else 0):
            return _Spelled(all_text, all_ids, self.ends, self.counts)
        ends, counts = (*self.ends, len(all_text)), (*self.counts, len(all_ids))
        return _Spelled(all_text, all_ids, ends, counts)


def _inside_character(text: bytes, index: int) -> bool:
    return index < len(text) and text[index] & 0xC0 == 0x80


def count_system(messages: Sequence[Mapping[str, Any]]) -> int:
    """How many system messages a conversation begins with."""
    roles = (message.get("role") for message in messages)
    return next((at for at, role in enumerate(roles) if role != "system"), len(messages))


class ChatSession:
    """Remembers how the last conversation was spelled in tokens.

    A model may spell its answer in other tokens than the tokenizer would. To find the answer in
    the KV cache again, the generated ids are kept and only the text after them is tokenised.
    `render(messages)` gives the prompt text, `token_bytes(id)` the text of a token (b"" for control
    tokens), and `bos` is the text of BOS, which is not added where the template writes it.
    """

    def __init__(
        self,
        render: Callable[[Sequence[Mapping[str, Any]]], str],
        tokenize: Tokenize,
        token_bytes: Callable[[int], bytes],
        *,
        bos: str = "",
    ) -> None:
        self._render = render
        self._tokenize = tokenize
        self._token_bytes = token_bytes
        self._bos = bos
        self._known = _Spelled()
        self._prompt = _Spelled()
        # Messages left out of the present conversation so that it fits, oldest first.
        self.left_out: list[Mapping[str, Any]] = []

    def encode(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Token ids of the conversation; begins with the remembered ids as far as texts agree."""
        self._prompt = self._spell(self._render(messages))
        return list(self._prompt.ids)

    def record(self, answer_ids: Sequence[int]) -> None:
        """Remembers what the model wrote after the prompt that was encoded last."""
        spelled = self._prompt
        text, ids = [spelled.text], list(spelled.ids)
        ends, counts = list(spelled.ends), list(spelled.counts)
        end = len(spelled.text)
        for token in answer_ids:
            piece = self._token_bytes(token)
            text.append(piece)
            ids.append(token)
            end += len(piece)
            # A token without text never ends a part: the template may write it as text.
            if piece:
                ends.append(end)
                counts.append(len(ids))
        self._known = _Spelled(b"".join(text), tuple(ids), tuple(ends), tuple(counts))

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The prompt text of a conversation."""
        return self._render(messages)

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a whole rendered conversation, with BOS exactly once if there is one."""
        written = bool(self._bos) and text.startswith(self._bos)
        return self._tokenize(text, add_special=not written, parse_special=True)

    def count(self, messages: Sequence[Mapping[str, Any]]) -> int:
        """How many tokens the conversation has."""
        return len(self._spell(self._render(messages)).ids)

    def fit(self, messages: Sequence[AnyMessage], max_tokens: int) -> tuple[list[AnyMessage], int]:
        """Leaves out the oldest turns until the conversation has at most `max_tokens` tokens.

        A turn is a user message with everything up to the next one; system messages at the start
        and the last turn stay. Returns the messages and how many were left out. Raises
        ContextFullError when the last turn alone is too long.
        """
        num_system = count_system(messages)
        system = list(messages[:num_system])
        starts = [num_system]
        starts += [
            at for at in range(num_system + 1, len(messages)) if messages[at].get("role") == "user"
        ]

        def count(turn: int) -> int:
            return self.count([*system, *messages[starts[turn] :]])

        if count(0) <= max_tokens:
            return list(messages), 0
        turn = bisect_left(range(len(starts)), True, lo=1, key=lambda at: count(at) <= max_tokens)
        if turn >= len(starts):
            needed = count(len(starts) - 1)
            raise ContextFullError(
                f"the last message needs {needed} tokens with its system message, there is room "
                f"for {max(max_tokens, 0)}; shorten it, or use a larger --ctx if the "
                "model was trained for one"
            )
        self.left_out += messages[num_system : starts[turn]]
        return [*system, *messages[starts[turn] :]], starts[turn] - num_system

    def _spell(self, text: str) -> _Spelled:
        data = text.encode("utf-8", "replace")
        if self._prompt.ids and data == self._prompt.text:
            return self._prompt
        known = self._known.beginning_of(data)
        if not known.ids:
            return _Spelled().extend(data, self.tokenize(data.decode()))
        rest = data[len(known.text) :]
        return known.extend(rest, self._continue(rest.decode()))

    def _continue(self, text: str) -> list[int]:
        """Tokens of a text that follows other text.

        SentencePiece vocabularies put a space before the start of a text. So the text is tokenised
        after a marker, one that stays a token of its own, and the marker's tokens are taken off.
        """
        if not text:
            return []
        for marker in MARKERS:
            head = self._tokenize(marker, add_special=False, parse_special=True)
            ids = self._tokenize(marker + text, add_special=False, parse_special=True)
            if ids[: len(head)] == head:
                return ids[len(head) :]
        return self._tokenize(text, add_special=False, parse_special=True)
