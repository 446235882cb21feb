"""ChatSession with a tokenizer that merges across borders, as real ones do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sssd_local.chat.session import ChatSession, count_system
from sssd_local.errors import ContextFullError

BOS, EOS = 256, 257
SPECIAL = {"<s>": BOS, "</s>": EOS}
# Longest first: what is merged depends on what stands beside it.
MERGES = {b"ello": 300, b".\n": 301, b"\n\n": 302, b" H": 303, b"lo": 304, "é".encode(): 305}
CONTROL = 400
BYTES = {ids: text for text, ids in MERGES.items()}

Messages = Sequence[Mapping[str, Any]]


class Tokenizer:
    """Merges bytes greedily from the left; SentencePiece's space before the text if wanted."""

    def __init__(self, *, add_bos: bool = True, add_space: bool = False) -> None:
        self._add_bos = add_bos
        self._add_space = add_space
        self.texts: list[str] = []

    def __call__(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        assert parse_special
        self.texts.append(text)
        ids = [BOS] if add_special and self._add_bos else []
        begins = self._add_space
        while text:
            special = next((name for name in SPECIAL if text.startswith(name)), None)
            if special is not None:
                ids.append(SPECIAL[special])
                text, begins = text[len(special) :], self._add_space
                continue
            end = min((at for name in SPECIAL if (at := text.find(name)) >= 0), default=len(text))
            ids += merge((" " if begins else "") + text[:end])
            text, begins = text[end:], False
        return ids


def merge(text: str) -> list[int]:
    data, ids = text.encode(), []
    while data:
        piece = next((piece for piece in MERGES if data.startswith(piece)), data[:1])
        ids.append(MERGES.get(piece, piece[0]))
        data = data[len(piece) :]
    return ids


def token_bytes(token: int) -> bytes:
    """The text of a token; none for control tokens, as llama.cpp gives by default."""
    return bytes([token]) if token < 256 else BYTES.get(token, b"")


def spell(ids: Sequence[int]) -> str:
    names = {token: name.encode() for name, token in SPECIAL.items()}
    return b"".join(names.get(token, token_bytes(token)) for token in ids).decode()


def render(messages: Messages) -> str:
    text = ""
    for message in messages:
        end = "</s>" if message["role"] == "assistant" else "\n"
        text += f"{message['role'][0].upper()}:{message['content']}{end}"
    return text + "A:"


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def session(tokenizer: Tokenizer | None = None, **options: Any) -> ChatSession:
    return ChatSession(
        options.pop("render", render), tokenizer or Tokenizer(), token_bytes, **options
    )


def test_the_first_turn_is_tokenised_as_a_whole() -> None:
    assert session().encode([user("Hello")]) == [BOS, *merge("U:Hello\nA:")]


def test_the_second_turn_keeps_the_ids_of_the_first_and_of_the_answer() -> None:
    tokenizer = Tokenizer()
    chat = session(tokenizer)
    prompt = chat.encode([user("Hi")])
    letters = list(b"Hello")
    assert letters != merge("Hello")
    chat.record(letters)
    tokenizer.texts.clear()
    ids = chat.encode([user("Hi"), answer("Hello"), user("More")])
    assert ids == [*prompt, *letters, EOS, *merge("U:More\nA:")]
    assert all("Hello" not in text for text in tokenizer.texts)


def test_many_turns_keep_all_ids() -> None:
    chat, messages = session(), [user("0")]
    ids: list[int] = []
    for turn in range(5):
        prompt = chat.encode(messages)
        assert prompt[: len(ids)] == ids
        letters = list(b"Hello.\n" + str(turn).encode())
        chat.record(letters)
        ids = [*prompt, *letters]
        messages += [answer(f"Hello.\n{turn}"), user(str(turn))]
    assert spell(chat.encode(messages)) == "<s>" + render(messages)


def test_recorded_end_tokens_are_not_doubled() -> None:
    chat = session()
    prompt = chat.encode([user("Hi")])
    chat.record([*b"Yo", EOS])
    ids = chat.encode([user("Hi"), answer("Yo"), user("More")])
    assert ids == [*prompt, *b"Yo", EOS, *merge("U:More\nA:")]


def test_tokens_without_text_inside_an_answer_are_kept() -> None:
    chat = session()
    prompt = chat.encode([user("Hi")])
    chat.record([CONTROL, *b"Y", CONTROL, *b"o", CONTROL])
    ids = chat.encode([user("Hi"), answer("Yo"), user("!")])
    assert ids == [*prompt, CONTROL, *b"Y", CONTROL, *b"o", EOS, *merge("U:!\nA:")]


def test_trimmed_answers_keep_what_comes_before_the_white_space() -> None:
    chat = session()
    prompt = chat.encode([user("Hi")])
    chat.record([*b"He", 304, 301, 302])
    ids = chat.encode([user("Hi"), answer("Helo."), user("!")])
    assert ids == [*prompt, *b"He", 304, ord("."), EOS, *merge("U:!\nA:")]


def test_answers_whose_thoughts_are_dropped_keep_the_prompt() -> None:
    chat = session()
    prompt = chat.encode([user("Hi")])
    chat.record(list(b"(hm)Hello"))
    ids = chat.encode([user("Hi"), answer("Hello"), user("!")])
    assert ids == [*prompt, *merge("Hello"), EOS, *merge("U:!\nA:")]


def test_an_edited_answer_keeps_whole_tokens_and_whole_characters() -> None:
    chat = session()
    prompt = chat.encode([user("Hi")])
    chat.record([*b"ab", *"é".encode(), *b"cd"])
    ids = chat.encode([user("Hi"), answer("abèx")])
    assert ids == [*prompt, *b"ab", *"èx".encode(), EOS, *merge("A:")]
    assert spell(ids) == "<s>U:Hi\nA:abèx</s>A:"


def test_another_conversation_is_tokenised_as_a_whole() -> None:
    chat = session()
    chat.encode([user("Hi")])
    chat.record(list(b"Yo"))
    assert chat.encode([user("Bye")]) == [BOS, *merge("U:Bye\nA:")]


def test_asking_the_same_again_gives_the_same_ids() -> None:
    chat = session()
    prompt = chat.encode([user("Hi")])
    chat.record(list(b"Yo"))
    assert chat.encode([user("Hi")]) == prompt


def test_an_earlier_prompt_is_still_known_after_more_turns() -> None:
    chat = session()
    messages = [user("Hi"), answer("Hello"), user("More")]
    chat.encode(messages[:1])
    chat.record(list(b"Hello"))
    second = chat.encode(messages)
    chat.record(list(b"x"))
    assert chat.encode([*messages[:2], user("Else")])[: len(second) - 8] == second[:-8]


def test_without_an_answer_nothing_is_remembered() -> None:
    tokenizer = Tokenizer()
    chat = session(tokenizer)
    chat.encode([user("Hi")])
    chat.encode([user("Hi"), answer("Hello")])
    assert tokenizer.texts == ["U:Hi\nA:", "U:Hi\nA:Hello</s>A:"]


@pytest.mark.parametrize("answer_text", [" Hello", "Hi.", "12", "x\n"])
def test_a_continuation_gets_no_space_of_its_own(answer_text: str) -> None:
    chat = session(
        Tokenizer(add_space=True), render=lambda messages: "\n".join(m["content"] for m in messages)
    )
    prompt = chat.encode([user("Hi")])
    assert prompt == [BOS, *merge(" Hi")]
    chat.record(merge("\n" + answer_text))
    ids = chat.encode([user("Hi"), answer(answer_text), user("\nMore")])
    assert ids == [*prompt, *merge("\n" + answer_text), *merge("\n\nMore")]
    assert ids.count(ord(" ")) + ids.count(303) == spell(ids).count(" ")


def test_a_marker_that_merges_is_passed_over() -> None:
    merging = Tokenizer()

    def tokenize(text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        ids = merging(text, add_special=add_special, parse_special=parse_special)
        return [500, *ids[2:]] if text.startswith("aX") else ids

    chat = ChatSession(lambda messages: messages[0]["content"], tokenize, token_bytes)
    prompt = chat.encode([user("U")])
    chat.record([])
    assert chat.encode([user("UXY")]) == [*prompt, *b"XY"]


def test_bos_comes_from_the_template_or_the_tokenizer_but_once() -> None:
    assert session(bos="<s>").encode([user("x")])[:2] == [BOS, ord("U")]
    written = session(bos="<s>", render=lambda messages: "<s>" + render(messages))
    assert written.encode([user("x")])[:2] == [BOS, ord("U")]
    assert session(Tokenizer(add_bos=False)).encode([user("x")])[0] == ord("U")
    assert session(bos="<s>").tokenize("<s>x") == [BOS, ord("x")]
    assert session(bos="<s>").tokenize("x") == [BOS, ord("x")]


def test_lone_surrogates_do_not_fail() -> None:
    assert spell(session().encode([user("a\ud800b")])) == "<s>U:a?b\nA:"


@settings(deadline=None)
@given(
    turns=st.lists(
        st.tuples(st.text("Helo .\né", max_size=6), st.text("Helo .\né", max_size=6)), max_size=4
    ),
    strip=st.booleans(),
    add_space=st.booleans(),
    letters=st.booleans(),
)
def test_ids_always_spell_the_rendered_text(
    turns: list[tuple[str, str]], strip: bool, add_space: bool, letters: bool
) -> None:
    def trimming(messages: Messages) -> str:
        return render([{**m, "content": m["content"].strip()} for m in messages])

    chosen = trimming if strip else render
    chat = session(Tokenizer(add_space=add_space), render=chosen)
    messages: list[dict[str, str]] = []
    for question, reply in turns:
        messages.append(user(question))
        ids = chat.encode(messages)
        text = spell(ids).replace("<s> ", "<s>") if add_space else spell(ids)
        expected = "<s>" + chosen(messages)
        if add_space:
            text, expected = text.replace("</s> ", "</s>"), expected.replace("</s> ", "</s>")
        assert text == expected
        chat.record(list(reply.encode()) if letters else merge(reply))
        messages.append(answer(reply))


def turns_of(count: int) -> list[dict[str, str]]:
    return [message for turn in range(count) for message in (user(f"q{turn}"), answer(f"a{turn}"))]


SYSTEM = {"role": "system", "content": "sys"}


def test_what_fits_stays() -> None:
    messages = [SYSTEM, *turns_of(2), user("last")]
    size = len(session().encode(messages))
    assert session().fit(messages, size) == (messages, 0)


def test_the_oldest_turns_are_left_out_and_the_system_message_stays() -> None:
    messages = [SYSTEM, *turns_of(4), user("last")]
    for dropped in range(1, 5):
        kept = [SYSTEM, *turns_of(4)[2 * dropped :], user("last")]
        size = len(session().encode(kept))
        assert session().fit(messages, size) == (kept, 2 * dropped)


def test_what_is_left_out_adds_up() -> None:
    chat = session()
    messages = [SYSTEM, *turns_of(4), user("last")]
    shorter, _ = chat.fit(messages, chat.count(messages) - 1)
    assert chat.left_out == messages[1:3]
    shorter, num_dropped = chat.fit(shorter, chat.count(shorter) - 1)
    assert num_dropped == 2
    assert chat.left_out == messages[1:5]
    with pytest.raises(ContextFullError):
        chat.fit(shorter, 5)
    assert chat.left_out == messages[1:5]


@pytest.mark.parametrize(
    ("messages", "size"),
    [([], 0), ([user("a")], 0), ([SYSTEM, SYSTEM, user("a"), SYSTEM], 2), ([SYSTEM], 1)],
)
def test_system_messages_at_the_start_are_counted(messages: Messages, size: int) -> None:
    assert count_system(messages) == size


def test_a_turn_holds_everything_up_to_the_next_user_message() -> None:
    tool = {"role": "tool", "content": "5"}
    messages = [answer("Welcome"), user("q"), answer("a"), tool, answer("b"), user("last")]
    size = len(session().encode(messages[1:]))
    assert session().fit(messages, size) == (messages[1:], 1)
    assert session().fit(messages, size - 1) == (messages[5:], 5)


def test_a_last_message_that_is_too_long_is_an_error() -> None:
    messages = [SYSTEM, *turns_of(2), user("long" * 10)]
    needed = len(session().encode([SYSTEM, user("long" * 10)]))
    with pytest.raises(ContextFullError, match=f"needs {needed} tokens .* room for 20; shorten"):
        session().fit(messages, 20)
    with pytest.raises(ContextFullError, match="room for 0"):
        session().fit([user("x")], -5)


def test_few_renderings_are_needed_for_a_long_conversation() -> None:
    calls: list[int] = []

    def counting(messages: Messages) -> str:
        calls.append(len(messages))
        return render(messages)

    messages = [*turns_of(1000), user("last")]
    kept, num_dropped = session(render=counting).fit(messages, 40)
    assert len(messages) == len(kept) + num_dropped
    assert len(session().encode(kept)) <= 40 < len(session().encode(messages[num_dropped - 2 :]))
    assert len(calls) < 15


def test_fitting_does_not_disturb_what_is_recorded_next() -> None:
    chat = session()
    messages = [user("Hi"), answer("Hello"), user("More")]
    prompt = chat.encode(messages)
    chat.fit(messages, len(prompt) - 1)
    chat.record(list(b"Hello"))
    ids = chat.encode([*messages, answer("Hello"), user("!")])
    assert ids[: len(prompt) + 5] == [*prompt, *b"Hello"]
