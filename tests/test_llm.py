"""The Python API on a real tiny model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sssd_local import LLM, Chunk, Completion, SSSDError
from sssd_local.errors import BusyError, ConfigError, ContextFullError
from sssd_local.hardware.profile import ProfileStore

TinyModel = Callable[..., Path]
GREEDY: dict[str, Any] = {"temperature": 0.0, "max_tokens": 24}
HELLO = [{"role": "user", "content": "the rain on the plain"}]


@pytest.fixture
def llm(tiny_model: TinyModel) -> Iterator[LLM]:
    with LLM(tiny_model(), ctx=256, threads=1, kv_type="f32", speculation=4) as made:
        yield made


def join(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def test_generate_returns_the_whole_answer(llm: LLM) -> None:
    done = llm.generate("the rain on the", **GREEDY)
    assert isinstance(done, Completion)
    assert len(done.token_ids) == len(done.sources) == 24
    assert done.text == llm.detokenize(done.token_ids)
    assert done.finish_reason == "length"
    assert done.stats.tokens == 24
    assert done.stats.prompt_tokens == len(llm.tokenize("the rain on the"))
    assert sum(done.stats.by_source.values()) == 24
    assert set(done.stats.by_source) <= {"model", "prompt", "output"}
    assert done.stats.accepted == 24 - done.stats.by_source["model"]
    assert done.stats.steps == done.stats.by_source["model"] - 1


def test_stream_gives_the_same_in_pieces(llm: LLM) -> None:
    whole = llm.generate("the rain on the", **GREEDY)
    llm.reset()
    chunks = list(llm.stream("the rain on the", **GREEDY))
    assert join(chunks) == whole.text
    assert tuple(token for chunk in chunks for token in chunk.token_ids) == whole.token_ids
    for chunk in chunks:
        assert chunk.text == "".join(chunk.pieces)
        assert len(chunk.pieces) == len(chunk.token_ids) == len(chunk.sources)
    assert [chunk.stats is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
    assert [chunk.finish_reason for chunk in chunks][-1] == "length"
    assert {chunk.finish_reason for chunk in chunks[:-1]} == {None}


def test_token_ids_are_a_prompt_too(llm: LLM) -> None:
    text = llm.generate("the rain", **GREEDY)
    ids = llm.generate(llm.tokenize("the rain"), **GREEDY)
    assert ids.token_ids == text.token_ids


@pytest.mark.parametrize("speculation", ["off", "auto", 2, 16, 64])
def test_speculation_does_not_change_the_answer(
    tiny_model: TinyModel, llm: LLM, speculation: str | int
) -> None:
    expected = llm.generate("the rain on the", **GREEDY).token_ids
    with LLM(tiny_model(), ctx=256, threads=1, kv_type="f32", speculation=speculation) as other:
        assert other.generate("the rain on the", **GREEDY).token_ids == expected
        sampled = other.generate("the rain", seed=7, max_tokens=24).token_ids
    assert sampled == llm.generate("the rain", seed=7, max_tokens=24).token_ids


def test_auto_measures_once_and_keeps_a_profile(tiny_model: TinyModel) -> None:
    from sssd_local.files import app_folder

    path = tiny_model(seed=5)
    options: dict[str, Any] = {"ctx": 256, "threads": 1}
    with LLM(path, **options) as llm:
        stats = llm.generate("the rain", **GREEDY).stats
    assert stats.plain_ms is not None
    assert stats.plain_ms > 0
    assert stats.speedup is not None
    kept = list((app_folder() / "profiles").glob("*.json"))
    # On a machine too busy to measure nothing is kept; otherwise exactly one profile.
    assert len(kept) <= 1
    if kept:
        reads: list[object] = []
        original = ProfileStore.load

        def load(self: ProfileStore, key: Any, *, quiet: bool = False) -> Any:
            reads.append(original(self, key, quiet=quiet))
            return reads[-1]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ProfileStore, "load", load)
            LLM(path, **options).close()
        assert reads[0] is not None


def test_chat_uses_the_template(llm: LLM) -> None:
    done = llm.chat(HELLO, **GREEDY)
    prompt = "user: the rain on the plain\nassistant: "
    llm.reset()
    assert llm.generate(prompt, **GREEDY).token_ids == done.token_ids


def test_without_a_template_the_plain_format_is_used(tmp_path: Path) -> None:
    from models.tiny import write_tiny_llama

    path = write_tiny_llama(tmp_path / "plain.gguf")
    with LLM(path, ctx=256, threads=1, speculation="off") as llm:
        done = llm.chat(HELLO, **GREEDY)
        llm.reset()
        raw = llm.generate("User: the rain on the plain\nAssistant:", **GREEDY)
        assert done.text == raw.text.split("\nUser:")[0]


def test_a_second_turn_evaluates_only_new_text(llm: LLM) -> None:
    # Bytes that are no UTF-8 become U+FFFD in the text, which no tokenizer turns back.
    options = {
        **GREEDY,
        "logit_bias": {token: -float("inf") for token in (*range(35), *range(130, 259))},
    }
    first = llm.chat(HELLO, **options)
    messages = [
        *HELLO,
        {"role": "assistant", "content": first.text},
        {"role": "user", "content": "and"},
    ]
    second = llm.chat(messages, **options)
    kept = first.stats.prompt_tokens + len(first.token_ids) - 1
    assert second.stats.reused_tokens == kept
    new_text = llm.tokenize("\nuser: and\nassistant: ", add_special=False)
    assert second.stats.prompt_tokens - kept == len(new_text) + 1
    llm.reset()
    fresh = llm.chat(messages, **options)
    assert fresh.stats.reused_tokens == 0
    assert fresh.text == second.text


def test_stopping_to_iterate_is_safe(llm: LLM) -> None:
    expected = llm.generate("the rain on the", **GREEDY).token_ids
    for num_chunks in (0, 1, 2, 5):
        stream = llm.stream("the rain on the", **GREEDY)
        for _ in range(num_chunks):
            next(stream)
        stream.close()  # type: ignore[attr-defined]
        assert llm.generate("the rain on the", **GREEDY).token_ids == expected


def test_a_forgotten_stream_frees_the_model(llm: LLM) -> None:
    next(llm.stream("the rain", **GREEDY))
    assert llm.generate("the rain", **GREEDY).finish_reason == "length"


def test_two_answers_at_once_are_refused(llm: LLM) -> None:
    stream = llm.stream("the rain", **GREEDY)
    next(stream)
    with pytest.raises(BusyError, match="another answer"):
        llm.generate("the rain", **GREEDY)
    with pytest.raises(BusyError):
        llm.reset()
    assert len(list(stream)) > 1
    llm.generate("the rain", **GREEDY)


def test_a_call_from_another_thread_is_refused(llm: LLM) -> None:
    stream = llm.stream("the rain", **GREEDY)
    first = next(stream)
    errors: list[BaseException] = []

    def call() -> None:
        try:
            llm.generate("the rain", **GREEDY)
        except BusyError as error:
            errors.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert len(errors) == 1
    rest = list(stream)
    llm.reset()
    assert join([first, *rest]) == llm.generate("the rain", **GREEDY).text


def test_cancel_from_another_thread(llm: LLM) -> None:
    stream = llm.stream("the rain", temperature=0.0, max_tokens=200)
    next(stream)
    thread = threading.Thread(target=llm.cancel)
    thread.start()
    thread.join()
    last = next(stream)
    assert last.finish_reason == "cancelled"
    assert last.stats is not None
    assert llm.generate("the rain", **GREEDY).finish_reason == "length"


def test_cancel_during_the_prompt(llm: LLM) -> None:
    done = llm.generate("the rain", prompt_progress=lambda part, total: llm.cancel(), **GREEDY)
    assert done.finish_reason == "cancelled"
    assert llm.generate("the rain", **GREEDY).finish_reason == "length"


def test_two_models_in_one_process(tiny_model: TinyModel, llm: LLM) -> None:
    with LLM(tiny_model(seed=1), ctx=128, threads=1, kv_type="f32", speculation=8) as other:
        streams = [llm.stream("the rain", **GREEDY), other.stream("the rain", **GREEDY)]
        texts = ["", ""]
        for one, two in zip(*streams, strict=False):
            texts[0] += one.text
            texts[1] += two.text
        texts = [text + join(list(stream)) for text, stream in zip(texts, streams, strict=True)]
    llm.reset()
    assert llm.generate("the rain", **GREEDY).text.startswith(texts[0])
    assert texts[0] != texts[1]


def test_close_is_idempotent_and_final(tiny_model: TinyModel) -> None:
    llm = LLM(tiny_model(), ctx=64, threads=1, speculation="off")
    stream = llm.stream("the rain", **GREEDY)
    next(stream)
    llm.close()
    llm.close()
    assert list(stream) == []
    with pytest.raises(SSSDError, match="closed"):
        llm.generate("the rain", **GREEDY)
    with pytest.raises(SSSDError, match="closed"):
        llm.chat(HELLO)
    with pytest.raises(SSSDError, match="closed"):
        llm.tokenize("the rain")


def test_closing_while_another_thread_reads(tiny_model: TinyModel) -> None:
    llm = LLM(tiny_model(), ctx=512, threads=1, speculation="off")
    started = threading.Event()
    reasons: list[str | None] = []

    def read() -> None:
        try:
            for chunk in llm.stream("the rain", temperature=0.0, max_tokens=400):
                started.set()
                reasons.append(chunk.finish_reason)
        finally:
            started.set()

    thread = threading.Thread(target=read)
    thread.start()
    assert started.wait(20)
    llm.close()
    thread.join(20)
    assert not thread.is_alive()
    assert reasons


def test_a_refused_call_does_not_keep_close_from_ending(tiny_model: TinyModel) -> None:
    llm = LLM(tiny_model(), ctx=128, threads=1, speculation="off")
    first = llm.stream("the rain", **GREEDY)
    next(first)
    with pytest.raises(BusyError):
        llm.generate("the rain", **GREEDY)
    unread = llm.stream("the rain", **GREEDY)
    llm.close()
    assert list(first) == []
    with pytest.raises(SSSDError, match="closed"):
        list(unread)


def test_closing_from_inside_a_call(tiny_model: TinyModel) -> None:
    llm = LLM(tiny_model(), ctx=128, threads=1, speculation="off")
    done = llm.generate("the rain", prompt_progress=lambda part, total: llm.close(), **GREEDY)
    assert done.finish_reason == "cancelled"
    with pytest.raises(SSSDError, match="closed"):
        llm.generate("the rain", **GREEDY)


def test_a_reader_that_stops_after_close_does_not_hold_it(tiny_model: TinyModel) -> None:
    llm = LLM(tiny_model(), ctx=128, threads=1, speculation="off")
    stream = llm.stream("the rain", temperature=0.0, max_tokens=100)
    inside, go_on = threading.Event(), threading.Event()
    original = llm._engine.decode

    def slow(*arguments: Any) -> Any:
        inside.set()
        assert go_on.wait(20)
        return original(*arguments)

    llm._engine.decode = slow  # type: ignore[method-assign]
    next(stream)
    thread = threading.Thread(target=lambda: next(stream))
    thread.start()
    assert inside.wait(20)
    llm.close()
    go_on.set()
    thread.join(20)
    assert not thread.is_alive()
    stream.close()  # type: ignore[attr-defined]
    with pytest.raises(SSSDError, match="closed"):
        llm.tokenize("the rain")


def test_a_stream_can_be_cancelled_before_it_is_read(llm: LLM) -> None:
    stream = llm.stream("the rain", **GREEDY)
    llm.cancel()
    assert [chunk.finish_reason for chunk in stream] == ["cancelled"]
    assert llm.generate("the rain", **GREEDY).finish_reason == "length"


def test_the_readers_time_is_not_counted(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    import sssd_local.engine.output as output

    now = [100.0]
    monkeypatch.setattr(output.time, "perf_counter", lambda: now[0])
    stats = None
    for chunk in llm.stream("the rain", **GREEDY):
        now[0] += 1000.0
        stats = chunk.stats
    assert stats is not None
    assert stats.ms == 0.0


def test_generated_ids_are_kept_not_tokenised_again(llm: LLM) -> None:
    """An answer spelled in byte tokens, which the tokenizer would write as one."""
    options: dict[str, Any] = {**GREEDY, "max_tokens": 3}
    letters = [3 + ord(letter) for letter in "the"]
    bias = {token: -float("inf") for token in range(320) if token not in letters}
    first = llm.chat(HELLO, logit_bias=bias, **options)
    assert set(first.token_ids) <= set(letters)
    messages = [*HELLO, {"role": "assistant", "content": first.text}, *HELLO]
    assert llm.chat(messages, **options).stats.reused_tokens == first.stats.prompt_tokens + 2


@pytest.mark.parametrize("tokens", [[320], [-1], ["a"], [1.5], None, 5])
def test_impossible_tokens_are_refused(llm: LLM, tokens: Any) -> None:
    with pytest.raises(ConfigError, match="token ids"):
        llm.detokenize(tokens)
    with pytest.raises(ConfigError, match="token ids"):
        llm.generate(tokens)


@pytest.mark.parametrize("messages", ["hello", None, [None], ["a"], [{"content": "x"}]])
def test_impossible_messages_are_refused(llm: LLM, messages: Any) -> None:
    with pytest.raises(ConfigError, match="messages must be a list"):
        llm.chat(messages)


def test_numbers_of_other_libraries_are_numbers(llm: LLM) -> None:
    import numpy as np

    ids = np.array(llm.tokenize("the rain"))
    options = {"temperature": np.float32(0), "max_tokens": np.int64(5)}
    assert llm.generate(ids, **options).stats.tokens == 5  # type: ignore[arg-type]


def test_unknown_options_are_errors_with_a_suggestion(tiny_model: TinyModel, llm: LLM) -> None:
    with pytest.raises(
        ConfigError, match="unknown option 'temprature'; did you mean 'temperature'"
    ):
        llm.generate("a", temprature=0.5)
    with pytest.raises(ConfigError, match="did you mean 'threads'"):
        LLM(tiny_model(), thread=2)
    assert llm.generate("the rain", temp=0, max_tokens=2).stats.tokens == 2


def test_impossible_values_are_refused_before_anything_runs(llm: LLM) -> None:
    with pytest.raises(ConfigError, match="top_p must be in"):
        llm.stream("a", top_p=1.3)
    with pytest.raises(ConfigError, match="from 0 to 319"):
        llm.stream([5, 320])
    with pytest.raises(ConfigError, match="from 0 to 319"):
        llm.stream([-1])


def test_prompts_longer_than_the_context(llm: LLM) -> None:
    with pytest.raises(ContextFullError, match="the context holds 256"):
        llm.generate([30] * 256)
    with pytest.raises(ContextFullError):
        llm.chat([{"role": "user", "content": "rain " * 300}], overflow="drop-oldest")
    assert llm.generate("the rain", **GREEDY).stats.tokens == 24


@pytest.mark.parametrize("overflow", ["drop-oldest", "shift"])
def test_long_answers_go_on_past_the_context(tiny_model: TinyModel, overflow: str) -> None:
    messages = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "the first question"},
        {"role": "assistant", "content": "the first answer"},
        {"role": "user", "content": "the rain on the plain"},
    ]
    with LLM(tiny_model(), ctx=128, threads=1, kv_type="f32", speculation=4) as llm:
        cut = llm.chat(messages, temperature=0.0)
        assert cut.finish_reason == "length"
        room = 128 - cut.stats.prompt_tokens + 1
        assert len(cut.token_ids) == room
        more = llm.chat(messages, temperature=0.0, max_tokens=room + 15, overflow=overflow)
        assert len(more.token_ids) == room + 15
        assert more.token_ids[:room] == cut.token_ids
        start = llm.render_chat(messages).partition("be kind")[0] + "be kind"
        assert llm.detokenize(llm._engine.ledger.tokens).startswith(start)
        after = llm.chat(messages, temperature=0.0, max_tokens=4)
        llm.reset()
        assert llm.chat(messages, temperature=0.0, max_tokens=4).text == after.text


def test_old_turns_are_left_out_when_the_prompt_does_not_fit(llm: LLM) -> None:
    turn = [{"role": "user", "content": "rain " * 30}, {"role": "assistant", "content": "plain"}]
    messages = [*turn * 4, *HELLO]
    with pytest.raises(ContextFullError):
        llm.chat(messages, **GREEDY)
    done = llm.chat(messages, overflow="drop-oldest", temperature=0.0, max_tokens=4)
    assert done.stats.prompt_tokens < 256
    llm.reset()
    assert llm.chat([*turn, *HELLO], temperature=0.0, max_tokens=4).text == done.text


def test_raw_text_shifts(tiny_model: TinyModel) -> None:
    with LLM(tiny_model(), ctx=64, threads=1, speculation="off") as llm:
        done = llm.generate("the rain", temperature=0.0, max_tokens=200, overflow="drop-oldest")
        assert done.stats.tokens == 200


@pytest.mark.parametrize("kind", ["mamba", "lfm2"])
def test_models_with_a_state_check_chains(tiny_model: TinyModel, kind: str) -> None:
    with LLM(tiny_model(kind), ctx=128, threads=1, kv_type="f32") as llm:
        assert (llm.speculation, llm.speculation_note) == ("chain", "")
        done = llm.generate("the rain", **GREEDY)
        assert done.stats.note == ""
        assert llm.generate("the rain", **GREEDY).token_ids == done.token_ids
        llm.set_speculation("off")
        assert llm.generate("the rain", **GREEDY).token_ids == done.token_ids


def test_the_context_manager_frees_after_a_failed_start(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []
    monkeypatch.setattr("sssd_local.llm.LLM._free", lambda self: closed.append("free"))
    with pytest.raises(SSSDError, match="template"):
        LLM(tiny_model(), chat_template="{% for %}", ctx=64, speculation="off")
    assert closed == ["free"]


def test_json_of_a_schema_is_valid(llm: LLM) -> None:
    import json

    schema = json.dumps(
        {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    )
    done = llm.generate("the rain", json_schema=schema, temperature=0.0, max_tokens=100)
    assert done.finish_reason == "stop"
    assert list(json.loads(done.text)) == ["ok"]


def test_a_client_that_sends_everything_again_evaluates_little(tiny_model: TinyModel) -> None:
    """A long conversation loses turns seldom, many at once, and the same ones the next time."""
    options: dict[str, Any] = {"logit_bias": {2: -float("inf")}, "overflow": "drop-oldest"}
    options |= {"temperature": 0.0, "max_tokens": 8}
    messages: list[dict[str, str]] = []
    with LLM(tiny_model(), ctx=384, threads=1, kv_type="f32", speculation="off") as llm:
        dropped = []
        for turn in range(40):
            messages.append({"role": "user", "content": f"question {turn}"})
            done = llm.chat(messages, **options)
            messages.append({"role": "assistant", "content": done.text})
            dropped.append(llm.num_dropped_messages)
        assert llm.chat(messages[-1:], max_tokens=1).stats.prompt_tokens < 384
        assert llm.num_dropped_messages == 0
    assert dropped == sorted(dropped)
    assert dropped[-1] >= 40
    assert len(set(dropped)) <= 10


def test_options_are_checked_without_an_answer(llm: LLM) -> None:
    llm.check_answer(temperature=0.5, grammar='root ::= "a"', max_tokens=3, stop=["x"])
    for options, message in [
        ({"grammar": "root ::= ("}, "the grammar cannot be used"),
        ({"json_schema": "["}, "the JSON schema cannot be used"),
        ({"logit_bias": {999: 1.0}}, "the vocabulary ends at 319"),
        ({"top_k": -1}, "top_k must be"),
        ({"topk": 1}, "did you mean 'top_k'"),
    ]:
        with pytest.raises(SSSDError, match=message):
            llm.check_answer(**options)
    llm.close()
    with pytest.raises(SSSDError, match="closed"):
        llm.check_answer()


def test_closing_keeps_what_was_learned_and_loading_uses_it(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sssd_local import costs
    from sssd_local.hardware.probe import ProbePoint

    widths = (1, 2, 3, 4, 6, 8, 12, 16, 32)
    points = [ProbePoint(0, width, 1e-4 * (0.9 + width / 10)) for width in widths]
    monkeypatch.setattr(costs, "run_probe", lambda decode, *, max_width: points)
    path = tiny_model(seed=6)
    with LLM(path, ctx=256, threads=1) as llm:
        llm.generate("the rain on the plain and the rain on the hill", **GREEDY)
        learned = llm._engine.drafter.calibration.state()
    (kept,) = costs.profile_store().list()
    assert kept.profile is not None
    assert kept.profile.calibration is not None
    for name, table in learned.items():
        assert kept.profile.calibration[name] == pytest.approx(table)
    with LLM(path, ctx=256, threads=1) as llm:
        for name, table in llm._engine.drafter.calibration.state().items():
            assert table == pytest.approx(learned[name])


@pytest.mark.parametrize("speculation", ["auto", "off", 4])
def test_threads_are_the_best_measured_unless_the_user_chose(
    tiny_model: TinyModel, speculation: Any
) -> None:
    from sssd_local import costs
    from sssd_local.hardware.probe import ProbePoint
    from sssd_local.hardware.profile import Profile

    path = tiny_model(seed=7)
    points = (ProbePoint(0, 1, 1e-4), ProbePoint(0, 4, 2e-4))
    with LLM(path, ctx=256, speculation="off") as llm:
        key = costs.key_of(llm._model, llm.config)
    costs.profile_store().save(key, Profile(points, 1, 3))
    with LLM(path, ctx=256, speculation=speculation) as llm:
        assert (llm.threads, llm.threads_batch) == (1, 3)
        assert llm.generate("the rain", **GREEDY).token_ids
    with LLM(path, ctx=256, speculation=speculation, threads=2) as llm:
        assert (llm.threads, llm.threads_batch) == (2, 2)
