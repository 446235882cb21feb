"""ChatTemplate on the shapes of common models, the plain format, and its errors."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest

from sssd_local.chat.limits import RenderLimits
from sssd_local.chat.template import ChatTemplate, TemplateError, content_text, plain_text
from sssd_local.errors import SSSDError

SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Hello."}
AGAIN = {"role": "user", "content": "More"}
CHAT = [SYSTEM, USER, ANSWER, AGAIN]

CHATML = """{% for message in messages %}
{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{% if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}"""

LLAMA2 = """{% if messages[0]['role'] == 'system' %}
{% set rest = messages[1:] %}
{% set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}
{% else %}{% set rest = messages %}{% set system = '' %}{% endif %}
{% for message in rest %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{% endif %}
{% set content = system + message['content'] if loop.first else message['content'] %}
{% if message['role'] == 'user' %}
{{- bos_token + '[INST] ' + content.strip() + ' [/INST]' }}
{%- else %}
{{- ' ' + content.strip() + ' ' + eos_token }}
{%- endif %}
{% endfor %}"""

LLAMA3 = """{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' }}
    {{- message.content | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}"""

GEMMA = """{{ bos_token }}
{%- if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for message in messages %}
{%- set role = 'model' if message.role == 'assistant' else message.role %}
{{- '<start_of_turn>' + role + '\\n' + message.content | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""

ONLY_USERS = "{% for m in messages if m.role == 'user' %}[{{ m.content }}]{% endfor %}"

TOOLS = """{% if tools is not none %}{{ tools | tojson }}{% endif %}
{% for m in messages %}{% for call in m.tool_calls or [] %}
{{- call.function.name }}(
{%- for k, v in call.function.arguments | items %}{{ k }}={{ v }}{% endfor %})
{%- endfor %}{% endfor %}"""


def test_chatml() -> None:
    assert ChatTemplate(CHATML).render(CHAT) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>user\nMore<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_without_a_generation_prompt() -> None:
    text = ChatTemplate(CHATML).render([USER], add_generation_prompt=False)
    assert text == "<|im_start|>user\nHi<|im_end|>\n"


def test_llama2() -> None:
    assert ChatTemplate(LLAMA2, bos="<s>", eos="</s>").render(CHAT) == (
        "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST] Hello. </s><s>[INST] More [/INST]"
    )


def test_llama3() -> None:
    header = "<|start_header_id|>{}<|end_header_id|>\n\n"
    assert ChatTemplate(LLAMA3, bos="<|bos|>").render([SYSTEM, USER]) == (
        f"<|bos|>{header.format('system')}Be brief.<|eot_id|>"
        f"{header.format('user')}Hi<|eot_id|>{header.format('assistant')}"
    )


def test_a_refused_system_message_moves_into_the_first_user_message() -> None:
    assert ChatTemplate(GEMMA, bos="<bos>").render(CHAT) == (
        "<bos><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n"
        "<start_of_turn>model\nHello.<end_of_turn>\n"
        "<start_of_turn>user\nMore<end_of_turn>\n<start_of_turn>model\n"
    )


def test_a_refused_system_message_alone_becomes_the_user_message() -> None:
    text = ChatTemplate(GEMMA).render([SYSTEM])
    assert text == "<start_of_turn>user\nBe brief.<end_of_turn>\n<start_of_turn>model\n"


def test_a_system_message_that_is_left_out_moves_too() -> None:
    assert ChatTemplate(ONLY_USERS).render(CHAT) == "[Be brief.\n\nHi][More]"


def test_a_system_message_that_cannot_move_is_left_out() -> None:
    assert ChatTemplate("fixed").render(CHAT) == "fixed"


def test_a_system_message_of_parts_moves_before_the_parts() -> None:
    source = "{% for p in messages[0].content %}{{ p.text }}{% endfor %}"
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    parts = {"role": "user", "content": [{"type": "text", "text": "Hi"}]}
    assert ChatTemplate(refusing + source).render([SYSTEM, parts]) == "Be brief.\n\nHi"


def test_another_refusal_is_told_in_the_templates_words() -> None:
    template = ChatTemplate(LLAMA2)
    with pytest.raises(
        TemplateError, match=r"^the chat template refuses: Conversation roles must alternate"
    ):
        template.render([USER, AGAIN])
    with pytest.raises(TemplateError, match="roles must alternate"):
        template.render([SYSTEM, USER, AGAIN])


def test_tools_and_further_arguments_reach_the_template() -> None:
    arguments = OrderedDict(city="Rome")
    call = {"function": {"name": "weather", "arguments": arguments}}
    template = ChatTemplate(TOOLS)
    assert template.render([{"role": "assistant", "tool_calls": [call]}]) == "weather(city=Rome)"
    assert template.render([USER], tools=[{"name": "<é>"}]) == '[{"name": "<é>"}]'
    switch = ChatTemplate("{{ 'on' if enable_thinking is not defined else enable_thinking }}")
    assert switch.render([]) == "on"
    assert switch.render([], enable_thinking=False) == "False"


def test_documents_are_undefined_and_tools_none() -> None:
    assert ChatTemplate("{{ documents is defined }}{{ tools is none }}").render([]) == "FalseTrue"


def test_messages_are_not_changed_and_must_be_plain_values() -> None:
    messages: list[dict[str, Any]] = [{"role": "user", "content": ("a", None, 1.5, True)}]
    assert ChatTemplate("{{ messages[0].content }}").render(messages) == "['a', None, 1.5, True]"
    assert messages == [{"role": "user", "content": ("a", None, 1.5, True)}]
    with pytest.raises(TemplateError, match="a object in the messages"):
        ChatTemplate("x").render([{"role": "user", "content": object()}])


def test_messages_that_hold_themselves_are_an_error() -> None:
    messages: list[Any] = []
    messages.append({"role": "user", "content": messages})
    with pytest.raises(TemplateError, match="nested too deeply"):
        ChatTemplate("x").render(messages)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("a\n{% if %}", "the chat template cannot be read: line 2: Expected an expression"),
        ("{{ x|nofilter }}", "the chat template cannot be read: line 1: No filter named"),
        ("{{ x.y.z }}", "the chat template failed: UndefinedError: 'x' is undefined"),
        ("{{ 1 + 'a' }}", "the chat template failed: TypeError: \\+ does not work on int and str"),
        ("{{ 1 / 0 }}", "the chat template failed: ZeroDivisionError"),
        ("{{ raise_exception('two\n lines') }}", "the chat template refuses: two lines$"),
        ("{{ raise_exception('x' * 999) }}", "the chat template refuses: x{300}…$"),
    ],
)
def test_mistakes_are_told_in_one_line(source: str, message: str) -> None:
    with pytest.raises(TemplateError, match=message) as caught:
        ChatTemplate(source).render([])
    assert isinstance(caught.value, SSSDError)
    assert "\n" not in str(caught.value)


def test_an_error_leaves_the_template_usable() -> None:
    template = ChatTemplate("{{ messages[0].content }}", limits=RenderLimits(max_characters=5))
    with pytest.raises(TemplateError, match="longer than 5 characters"):
        template.render([{"role": "user", "content": "123456"}])
    assert template.render([{"role": "user", "content": "12345"}]) == "12345"


def test_a_template_marks_its_ends_itself() -> None:
    template = ChatTemplate(CHATML)
    assert not template.plain
    assert template.stop == ()


@pytest.mark.parametrize("source", [None, "", " \n"])
def test_the_plain_format_stands_in_for_a_missing_template(source: str | None) -> None:
    template = ChatTemplate(source, bos="<s>")
    assert template.plain
    assert template.stop == ("\nUser:",)
    assert template.render(CHAT) == (
        "Be brief.\n\nUser: Hi\nAssistant: Hello.\nUser: More\nAssistant:"
    )
    assert template.render([USER], add_generation_prompt=False) == "User: Hi\n"


def test_the_plain_format_of_other_roles_and_missing_content() -> None:
    empty = {"role": "assistant", "content": None}
    assert (
        plain_text([{"role": "tool", "content": " 5 "}, empty, SYSTEM])
        == "Tool: 5\nAssistant: \nSystem: Be brief.\nAssistant:"
    )


def test_the_text_of_a_message() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "image"}, "b"]
    assert content_text({"content": parts}) == "ab"
    assert content_text({"content": "c"}) == "c"
    assert content_text({}) == ""
