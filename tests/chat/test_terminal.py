"""The program in a real terminal: typing, pasting, Ctrl-C, resize, signals, the plain prompt."""

from __future__ import annotations

import json
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("POSIX terminals", allow_module_level=True)

from tests.chat.terminal import Terminal

TinyModel = Callable[..., Path]
HINT = "Send a message (/? for help)"
PROMPT = ">>> "
ENDLESS = [f"--logit-bias={token}=-inf" for token in range(259)]


@pytest.fixture(params=["xterm", "dumb"])
def chat(
    request: pytest.FixtureRequest, tiny_model: TinyModel, tmp_path: Path
) -> Iterator[Terminal]:
    """A chat with prompt_toolkit and, on a dumb terminal, with plain `input`."""
    if request.param == "xterm":
        pytest.importorskip("prompt_toolkit")
    model = tiny_model(ctx_length=131072)
    options = ["--ctx", "65536", "--speculation", "off", "--markdown", "off", "--max-tokens", 5]
    with Terminal(model, *options, *ENDLESS, home=tmp_path, TERM=request.param) as made:
        made.expect("65536 tokens of context")
        made.expect(HINT)
        yield made


def test_type_paste_and_leave(chat: Terminal, tmp_path: Path) -> None:
    chat.type("/hlep\r")
    chat.expect("did you mean '/help'?")
    chat.expect(PROMPT)
    chat.type("hello\r")
    chat.answered()
    # Only an editor asks the terminal to bracket what is pasted.
    chat.type("\x1b[200~one\ntwo\nthree\x1b[201~\r" if chat.brackets else "one\ntwo\nthree\r")
    chat.answered()
    chat.type("/show info\r")
    chat.expect("turns 2")
    chat.expect(PROMPT)
    chat.resize(10, 40)
    chat.type('"""a\r')
    chat.type('b"""\r')
    chat.answered()
    chat.type("\x04")
    assert chat.exit_code() == 0
    kept = (tmp_path / "last_chat.json").read_text()
    assert '"one\\ntwo\\nthree"' in kept
    assert '"a\\nb"' in kept


def test_ctrl_c_stops_the_answer_and_not_the_program(chat: Terminal) -> None:
    chat.type("/set max_tokens none\r")
    chat.expect("max_tokens none")
    chat.expect(PROMPT)
    chat.type("go\r")
    chat.expect("the")
    for columns in (40, 200, 1, 80):
        chat.resize(10, columns)
        chat.expect("the")
    chat.type("\x03")
    chat.expect(" · stopped")
    chat.expect(PROMPT)
    chat.type("\x03")
    chat.expect("Ctrl-D or /exit leaves")
    chat.expect(PROMPT)
    chat.type("/show info\r")
    chat.expect("turns 1")
    chat.expect(PROMPT)
    chat.type("/exit\r")
    assert chat.exit_code() == 0


@pytest.mark.parametrize("writing", [False, True])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals(chat: Terminal, number: int, code: int, writing: bool) -> None:
    if writing:
        chat.type("/set max_tokens none\r")
        chat.expect("max_tokens none")
        chat.expect(PROMPT)
        chat.type("go\r")
        chat.expect("the")
    chat.signal(number)
    assert chat.exit_code() == code
    assert "Traceback" not in chat.seen


def test_ctrl_d_during_an_answer_leaves_after_it(chat: Terminal) -> None:
    chat.type("/set max_tokens none\r")
    chat.expect("max_tokens none")
    chat.expect(PROMPT)
    chat.type("go\r")
    chat.expect("the")
    chat.type("\x04")
    for _ in range(200):
        chat.expect("the")
    chat.type("\x03")
    chat.expect(" · stopped")
    assert chat.exit_code() == 0


def test_what_is_typed_during_an_answer_comes_after_it(chat: Terminal, tmp_path: Path) -> None:
    # Without an editor lines that come together are one message, as pasted ones are.
    later = ["again", "and again"] if chat.brackets else ["again"]
    chat.type("/set max_tokens 1000\r")
    chat.expect("max_tokens 1000")
    chat.expect(PROMPT)
    chat.type("go\r")
    chat.expect("the")
    chat.type("".join(f"{text}\r" for text in later) + "\x04")
    for _ in ["go", *later]:
        chat.expect("1000 tokens · ")
    assert chat.exit_code() == 0
    kept = json.loads((tmp_path / "last_chat.json").read_text())["messages"]
    assert [message["content"] for message in kept[::2]] == ["go", *later]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_at_the_prompt_leaves_the_terminal_as_it_was(chat: Terminal, number: int) -> None:
    chat.signal(number)
    chat.exit_code()
    assert chat.modes() == chat.modes_at_start
    if chat.brackets:
        assert "\x1b[?2004l" in chat.seen


@pytest.mark.parametrize("writing", [False, True])
def test_a_terminal_that_is_closed(chat: Terminal, writing: bool) -> None:
    if writing:
        chat.type("/set max_tokens none\r")
        chat.expect("max_tokens none")
        chat.expect(PROMPT)
        chat.type("go\r")
        chat.expect("the")
    chat.hang_up()
    assert chat.exit_code() == 129


@pytest.fixture
def editor(tiny_model: TinyModel, tmp_path: Path) -> Callable[..., Terminal]:
    pytest.importorskip("prompt_toolkit")
    arguments = [tiny_model(), "--ctx", 512, "--speculation", "off", "--max-tokens", 3]

    def start(*more: str, asks_to_keep: bool = False) -> Terminal:
        return Terminal(*arguments, *more, home=tmp_path, asks_to_keep=asks_to_keep, TERM="xterm")

    return start


def test_history_lasts_across_runs(editor: Callable[..., Terminal], tmp_path: Path) -> None:
    path = tmp_path / "history"
    path.touch(0o644)
    with editor() as chat:
        chat.expect(HINT)
        chat.type("remember me\r")
        chat.answered()
        chat.type("left by Ctrl-C\x03")
        chat.expect(HINT)
        chat.type("\x04")
        assert chat.exit_code() == 0
        # The last line is left without the hint.
        assert HINT not in chat.seen
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_bytes()
    with editor("--private") as chat:
        chat.expect("private: no text is kept")
        chat.expect(HINT)
        chat.type("a secret\r")
        chat.answered()
        chat.type("\x04")
        assert chat.exit_code() == 0
    assert path.read_bytes() == before
    assert b"a secret" not in b"".join(
        file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()
    )
    with editor("-c") as chat:
        chat.expect("going on with the last chat, 2 messages")
        chat.expect(HINT)
        chat.type("\x1b[A")
        chat.expect("remember me")
        chat.type("\x1b\r" + "second line\r")
        chat.answered()
        chat.type("\x04")
        assert chat.exit_code() == 0
    assert '"remember me\\nsecond line"' in (tmp_path / "last_chat.json").read_text()


def test_a_chat_is_kept_only_after_a_yes_and_asked_once(
    editor: Callable[..., Terminal], tmp_path: Path
) -> None:
    with editor(asks_to_keep=True) as chat:
        chat.expect(HINT)
        chat.type("something to keep\r")
        chat.answered()
        chat.type("\x04")
        chat.expect("Keep what you write to make later chats faster? [y/N]")
        assert not list((tmp_path / "memory").rglob("*.npy"))
        chat.type("y\r")
        chat.expect("kept from now on")
        assert chat.exit_code() == 0
    kept = list((tmp_path / "memory").rglob("*.npy"))
    assert kept
    assert {stat.S_IMODE(path.stat().st_mode) for path in kept} == {0o600}
    with editor(asks_to_keep=True) as chat:
        chat.expect("tokens of earlier chats")
        chat.expect(HINT)
        chat.type("\x04")
        assert chat.exit_code() == 0
        assert "Keep what" not in chat.seen


def test_an_unusable_grammar_is_told_before_the_chat(
    editor: Callable[..., Terminal], tmp_path: Path
) -> None:
    (tmp_path / "bad.gbnf").write_text('root ::= ( "a"')
    with editor("--grammar", str(tmp_path / "bad.gbnf")) as chat:
        assert chat.expect("error: the grammar cannot be used") == ""
        assert chat.exit_code() == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-c", "--private"], "--continue needs the history"),
        (["--raw"], "--raw needs a PROMPT"),
        (["-c", "hello"], "leave out PROMPT"),
        (["--template-arg", "x"], "no template argument like"),
    ],
)
def test_options_that_do_not_go_together(
    editor: Callable[..., Terminal], arguments: list[str], message: str
) -> None:
    with editor(*arguments) as chat:
        chat.expect(message)
        assert chat.exit_code() == 2
