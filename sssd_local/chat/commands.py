"""The commands of a chat: a table of names, help texts and what they do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sssd_local.chat import render
from sssd_local.chat.editor import edit_text
from sssd_local.chat.memory import run_memory
from sssd_local.chat.transcript import load_chat, read_user_file, save_chat, split_names
from sssd_local.config import parse_speculation, unknown_name
from sssd_local.errors import SSSDError

if TYPE_CHECKING:
    from sssd_local.chat.repl import Repl

ALIASES = {"?": "help", "bye": "exit", "quit": "exit", "regen": "retry"}


@dataclass(frozen=True, slots=True)
class Command:
    """What stands behind a name; `run(repl, rest)` gets what was typed after it."""

    usage: str
    help: str
    run: Callable[[Repl, str], None]


def run_command(repl: Repl, line: str) -> None:
    """Carries out a line that begins with a slash; raises SSSDError for unknown names."""
    name, rest = _first_word(line.strip().lstrip("/"))
    name = ALIASES.get(name.lower(), name.lower())
    if name not in COMMANDS:
        text = unknown_name("command", f"/{name}", [f"/{known}" for known in COMMANDS])
        raise SSSDError(text if "did you mean" in text else f"{text}; /help lists them")
    COMMANDS[name].run(repl, rest.strip())


def _first_word(text: str) -> tuple[str, str]:
    """The first word and what follows it."""
    parts = text.split(None, 1)
    return (parts[0], parts[1].strip()) if len(parts) == 2 else (text.strip(), "")


def _help(repl: Repl, rest: str) -> None:
    width = max(len(command.usage) for command in COMMANDS.values())
    for command in COMMANDS.values():
        repl.screen.line(f"{command.usage:<{width}}  {command.help}")
    repl.screen.note('"""text""" may have many lines; Alt-Enter makes a new line, paste just works')
    repl.screen.note("Ctrl-C stops an answer, Ctrl-D leaves; a space before / sends it as text")


def _set(repl: Repl, rest: str) -> None:
    name, text = _first_word(rest)
    if name:
        repl.screen.note(repl.settings.change(name, text, repl.llm))
    else:
        _show_lines(repl, repl.settings.lines())


def _show(repl: Repl, rest: str) -> None:
    topics: dict[str, Callable[[], list[str]]] = {
        "info": repl.info,
        "params": repl.settings.lines,
        "stats": repl.last_stats,
        "system": lambda: [repl.transcript.system or "no system message"],
        "chat": lambda: [f"{m['role']}: {m['content']}" for m in repl.transcript.with_system()],
    }
    topic = rest or "info"
    if topic not in topics:
        raise SSSDError(f"{unknown_name('topic', topic, topics)}; there are {', '.join(topics)}")
    _show_lines(repl, topics[topic]())


def _show_lines(repl: Repl, lines: list[str]) -> None:
    for line in lines:
        repl.screen.line(line)


def _system(repl: Repl, rest: str) -> None:
    if not rest:
        repl.screen.line(repl.transcript.system or "no system message")
        return
    repl.transcript.system = None if rest == "none" else rest
    repl.keep()
    repl.screen.note("system message removed" if rest == "none" else "system message set")


def _read(repl: Repl, rest: str) -> None:
    names = split_names(rest)
    if not names:
        raise SSSDError("name a file: /read FILE…")
    files = [(name, read_user_file(name)) for name in names]
    ctx = repl.llm.n_ctx
    for name, text in files:
        num_tokens = len(repl.llm.tokenize(text, add_special=False))
        if num_tokens >= ctx:
            raise SSSDError(f"{name} has {num_tokens} tokens, the context holds {ctx}")
    repl.transcript.attachments += files
    for name, text in files:
        repl.screen.note(f"{name} ({len(text)} characters) goes with the next message")


def _retry(repl: Repl, rest: str) -> None:
    transcript = repl.transcript
    text = transcript.withdrawn
    if text is not None:
        repl.send(text)
        return
    before = list(transcript.messages), transcript.num_hidden
    text = transcript.undo()
    if text is None:
        raise SSSDError("there is nothing to retry")
    # The model shall see what it saw, and the cache holds it.
    transcript.num_hidden = before[1]
    try:
        repl.send(text)
    finally:
        if transcript.withdrawn is not None:
            # Without a new answer the old one stays.
            transcript.messages, transcript.num_hidden = before
            transcript.withdrawn = None
            repl.keep()


def _undo(repl: Repl, rest: str) -> None:
    transcript = repl.transcript
    text, transcript.withdrawn = transcript.withdrawn, None
    if text is None:
        # A message without an answer is no turn.
        text = transcript.undo()
    if text is None:
        raise SSSDError("there is nothing to undo")
    repl.keep()
    first = " ".join(text.split())
    repl.screen.note(f"removed: {first[:60]}{'…' if len(first) > 60 else ''}")


def _clear(repl: Repl, rest: str) -> None:
    repl.transcript.clear()
    repl.llm.reset()
    repl.keep()
    repl.screen.note("the conversation is forgotten")


def _save(repl: Repl, rest: str) -> None:
    messages = repl.transcript.with_system()
    if not repl.transcript.messages:
        raise SSSDError("there is nothing to save yet")
    path = save_chat(_one_name(rest, "/save FILE"), messages, repl.model_name)
    repl.screen.note(f"saved to {path}")


def _load(repl: Repl, rest: str) -> None:
    repl.replace(load_chat(_one_name(rest, "/load FILE")))
    repl.keep()
    count = len(repl.transcript.messages)
    repl.screen.note(f"{count} message{'' if count == 1 else 's'} loaded")


def _one_name(rest: str, usage: str) -> str:
    names = split_names(rest)
    if len(names) != 1:
        raise SSSDError(f"name one file: {usage} (quote a name with spaces)")
    return names[0]


def _edit(repl: Repl, rest: str) -> None:
    text = edit_text(rest or repl.transcript.withdrawn or "")
    if text is None or not text.strip():
        repl.screen.note("nothing sent")
        return
    repl.say(text.strip())


def _spec(repl: Repl, rest: str) -> None:
    if rest in ("show", "hide"):
        repl.settings.show_sources = rest == "show"
        if rest == "show":
            render.legend(repl.screen)
        return
    if rest:
        repl.llm.set_speculation("auto" if rest == "on" else parse_speculation(rest))
    note = repl.llm.speculation_note
    repl.screen.note(f"speculation {repl.llm.config.speculation}{f' ({note})' if note else ''}")


def _memory(repl: Repl, rest: str) -> None:
    run_memory(repl.llm.memory, repl.screen, rest)


def _quiet(repl: Repl, rest: str) -> None:
    repl.settings.change("quiet", rest or ("off" if repl.settings.quiet else "on"))
    state = "left out" if repl.settings.quiet else "shown"
    repl.screen.note(f"the line after each answer is {state}")


def _exit(repl: Repl, rest: str) -> None:
    repl.done = True


COMMANDS: dict[str, Command] = {
    "help": Command("/help, /?", "Shows this.", _help),
    "set": Command(
        "/set [NAME VALUE]",
        "Sets think show|hide, markdown on|off, template NAME=VALUE or an option (temp, top_k…).",
        _set,
    ),
    "show": Command("/show [TOPIC]", "Shows info, params, stats, system or chat.", _show),
    "system": Command("/system [TEXT]", "Sets the system message; none removes it.", _system),
    "read": Command("/read FILE…", "Puts the files' text into the next message.", _read),
    "retry": Command("/retry", "Asks the last message again.", _retry),
    "undo": Command("/undo", "Removes the last message and its answer.", _undo),
    "clear": Command("/clear", "Forgets the conversation.", _clear),
    "save": Command("/save FILE", "Saves the conversation; Markdown if FILE ends in .md.", _save),
    "load": Command("/load FILE", "Goes on with a saved conversation.", _load),
    "edit": Command("/edit [TEXT]", "Writes the next message in $EDITOR.", _edit),
    "spec": Command(
        "/spec auto|off|WIDTH|show|hide",
        "Drafts as it pays, never, to a width; colours text by its source.",
        _spec,
    ),
    "memory": Command(
        "/memory [status|on|off|forget]",
        "Keeps chats to draft later ones from, or not; forgets this one.",
        _memory,
    ),
    "quiet": Command("/quiet [on|off]", "Leaves out the line after each answer.", _quiet),
    "exit": Command("/exit, /bye", "Leaves; so does Ctrl-D.", _exit),
}
