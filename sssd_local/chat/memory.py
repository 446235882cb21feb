"""What a chat does about memory: asking at its end, `/memory`, and saying what went wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sssd_local.chat.render import Screen
from sssd_local.config import unknown_name
from sssd_local.errors import SSSDError
from sssd_local.store.memory_choice import memory_folder, read_choice, write_choice
from sssd_local.store.memory_status import memory_status

if TYPE_CHECKING:
    from sssd_local.chat.editor import ReadLine
    from sssd_local.store.memory import Memory

WORDS = ["status", "on", "off", "forget"]


def memory_note(memory: Memory | None) -> str:
    """What a chat's first line says of it; "" for nothing."""
    num_tokens = 0 if memory is None else memory.source.num_tokens
    return f"{num_tokens:,} tokens of earlier chats" if num_tokens else ""


def ask_to_keep(memory: Memory | None, screen: Screen, read: ReadLine) -> None:
    """Asks whether chats may be kept, if the user never said; anything but yes is no."""
    if memory is None or not memory.asks:
        return
    decided = read_choice().keep
    if decided is not None:
        # In another chat, since this one began.
        memory.decide(decided)
        return
    screen.fresh_line()
    question = "Keep what you write to make later chats faster? [y/N] stored in"
    try:
        answer = read(f"{question} {memory_folder()}: ").strip().lower()
    except (EOFError, KeyboardInterrupt, OSError, ValueError, RuntimeError, SSSDError):
        answer = ""
    screen.taken()
    screen.fresh_line()
    keep = answer in ("y", "yes")
    try:
        write_choice(replace(read_choice(), keep=keep))
        memory.decide(keep)
    except SSSDError as error:
        screen.error(str(error))
        memory.decide(False)
        return
    if keep:
        screen.note("kept from now on; `sssd-local memory` has status, off and forget")
    else:
        screen.note("nothing is kept; `sssd-local memory on` changes that")


def run_memory(memory: Memory | None, screen: Screen, word: str) -> None:
    """`/memory [status|on|off|forget]`. Raises SSSDError."""
    word = word or "status"
    if word not in WORDS:
        raise SSSDError(f"{unknown_name('word', word, WORDS)}; there are {', '.join(WORDS)}")
    if word == "status":
        for line in memory_status(read_choice(), memory_folder()).lines():
            screen.line(line)
        return
    if word == "forget":
        num_turns = memory.forget_chat() if memory is not None else 0
        screen.note(f"{num_turns} turn{'' if num_turns == 1 else 's'} of this chat forgotten")
        return
    write_choice(replace(read_choice(), keep=word == "on"))
    if memory is not None and memory.may_write:
        memory.decide(word == "on")
    if word == "off":
        screen.note("chats are not kept; `sssd-local memory forget` deletes those that were")
    elif memory is not None and memory.may_write:
        screen.note(f"this chat and later ones are kept in {memory_folder()}")
    else:
        screen.note(f"later chats are kept in {memory_folder()}, this one is not")
