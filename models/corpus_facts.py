"""Questions about sssd-local, speculative decoding and very little else, with right answers."""

from __future__ import annotations

from models.corpus_talk import vary
from models.corpus_words import Draw

Turn = tuple[str, str]

# Questions on one matter and answers that are right to each of them.
_FACTS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (
        (
            "What is sssd-local?",
            "What does sssd-local do?",
            "Explain sssd-local",
            "What is this program?",
            "What is this tool for?",
            "Why should I use sssd-local?",
        ),
        (
            "sssd-local makes any GGUF model answer faster on your own machine. It drafts the "
            "next tokens from the text itself and lets the model check them in one batch.",
            "sssd-local runs GGUF models with speculative decoding: no draft model, no training, "
            "no tuning. The answer is the model's own, only the time changes.",
        ),
    ),
    (
        (
            "What is speculative decoding?",
            "Explain speculative decoding",
            "How does speculative decoding work?",
            "What does speculative decoding mean?",
            "Tell me about speculative decoding",
        ),
        (
            "In speculative decoding something cheap drafts the next tokens and the model checks "
            "them all in one batch. Right tokens are kept, so one step can give several tokens.",
            "Speculative decoding guesses several tokens ahead and checks them in one step of the "
            "model. What is right is kept, what is wrong is dropped.",
        ),
    ),
    (
        (
            "How does sssd-local work?",
            "How does it work?",
            "How do you make models faster?",
            "Explain the method",
        ),
        (
            "It looks for what followed the last tokens earlier in the text, drafts that as a "
            "small tree, and the model checks the whole tree in one batch.",
        ),
    ),
    (
        (
            "What does SSSD mean?",
            "What is SSSD?",
            "What does SSSD stand for?",
            "Where does the name come from?",
        ),
        ("SSSD stands for Simply-Scalable Speculative Decoding. The paper is arXiv 2411.05894.",),
    ),
    (
        (
            "Does it change the answer?",
            "Is the output the same?",
            "Is sssd-local lossless?",
            "Is speculative decoding lossless?",
            "Does speculation change the output?",
            "Is the quality worse?",
        ),
        (
            "No. Every token is the model's own; only the time changes. An exact tie may fall the "
            "other way, because llama.cpp computes batches of other widths slightly differently.",
        ),
    ),
    (
        (
            "What is a draft?",
            "What is a draft tree?",
            "What does drafting mean?",
            "What are drafts?",
        ),
        ("A draft is a guess at the next tokens. sssd-local drafts a small tree of them.",),
    ),
    (
        (
            "Where do the drafts come from?",
            "Does it need a draft model?",
            "Is there a draft model?",
            "Do I need a second model?",
            "Who writes the draft?",
        ),
        (
            "There is no draft model. The drafts come from the prompt and from what the model has "
            "already written.",
        ),
    ),
    (
        (
            "What is acceptance?",
            "What does accepted mean?",
            "What is an accepted token?",
            "What is the acceptance rate?",
        ),
        ("Acceptance is the share of drafted tokens that the model itself would have written.",),
    ),
    (
        (
            "What is a cost curve?",
            "What is measured?",
            "What does the probe do?",
            "What is sssd-local probe?",
            "Why does it measure my machine?",
        ),
        (
            "The probe measures what checking several tokens in one batch costs on this machine. "
            "Drafts are only as large as pays for itself.",
        ),
    ),
    (
        (
            "How much faster is it?",
            "What is the speed-up?",
            "How fast is sssd-local?",
            "How much time does it save?",
        ),
        (
            "That depends on the text and the machine. Text that repeats itself, such as edited "
            "code or JSON, gains most. Try it: sssd-local bench MODEL.gguf",
        ),
    ),
    (
        (
            "When does it help?",
            "What gains most?",
            "When is speculation useful?",
            "For which texts is it good?",
            "Which prompts get faster?",
        ),
        (
            "It helps where the answer repeats text: editing code, JSON, quoting, summaries and "
            "long chats. Text that repeats nothing gains nothing.",
        ),
    ),
    (
        (
            "Can it be slower?",
            "Is it ever slower?",
            "What if the drafts are wrong?",
            "What happens to wrong drafts?",
        ),
        (
            "Wrong drafts are dropped. Where nothing pays, sssd-local drafts less and decodes "
            "plainly, so it should not be slower.",
        ),
    ),
    (
        (
            "How do I run a real model?",
            "How do I use another model?",
            "How can I use a bigger model?",
            "How do I load a model?",
            "How do I name a model?",
            "How do I run my own model?",
        ),
        (
            "Give the path of a GGUF file: sssd-local run MODEL.gguf",
            "Name its file: sssd-local run MODEL.gguf. Then the chat is with that model.",
        ),
    ),
    (
        (
            "What is a GGUF file?",
            "What is GGUF?",
            "What does GGUF mean?",
            "Which files can it read?",
        ),
        ("GGUF is the file format of llama.cpp for models. sssd-local runs any GGUF file.",),
    ),
    (
        (
            "What is llama.cpp?",
            "What does it run on?",
            "Which backend is used?",
            "What is the backend?",
        ),
        ("llama.cpp is a program that runs language models. sssd-local uses it.",),
    ),
    (
        (
            "Do I need a GPU?",
            "Does it work on a CPU?",
            "Does it need a graphics card?",
            "Which hardware do I need?",
        ),
        ("No, a CPU is enough. With a GPU build of llama-cpp-python layers go to the GPU.",),
    ),
    (
        (
            "Does it use the internet?",
            "Is my text private?",
            "Do you send my data anywhere?",
            "Is there any network access?",
            "What about privacy?",
            "Do you keep what I write?",
        ),
        ("Everything runs on your own machine. Your text is not sent anywhere.",),
    ),
    (
        (
            "How do I compare the speed?",
            "How do I measure the speed-up?",
            "What is sssd-local bench?",
            "How do I run a benchmark?",
        ),
        ("Run: sssd-local bench MODEL.gguf. It answers with and without speculation.",),
    ),
    (
        (
            "How do I see the settings?",
            "Where are the settings?",
            "What is sssd-local config show?",
        ),
        ("Run: sssd-local config show. It says each setting and where it came from.",),
    ),
    (
        ("What does sssd-local info do?", "How do I see what a file is?", "How big is a model?"),
        ("Run: sssd-local info MODEL.gguf. It says what the file is without loading it.",),
    ),
    (
        (
            "How do I turn speculation off?",
            "Can I switch speculation off?",
            "How do I disable speculation?",
        ),
        ("Use --speculation off. The answer stays the same, only the speed changes.",),
    ),
    (
        ("How do I get JSON only?", "Can I force JSON?", "What is a grammar for?"),
        ("Use --json-schema FILE or --grammar FILE: then only text of that form is written.",),
    ),
    (
        (
            "What does --temp 0 do?",
            "What is greedy decoding?",
            "How do I get the same answer again?",
        ),
        ("--temp 0 is greedy: the likeliest token is taken. --seed N repeats a random answer.",),
    ),
    (
        ("How do I use it from Python?", "Is there a Python API?", "Can I call it from Python?"),
        (
            'Yes:\n```python\nfrom sssd_local import LLM\n\nwith LLM("model.gguf") as llm:\n'
            '    print(llm.chat([{"role": "user", "content": "Hello"}]).text)\n```',
        ),
    ),
    (
        (
            "Which licence does it have?",
            "Is it free?",
            "What is the licence?",
            "Can I use it at work?",
        ),
        ("sssd-local has the MIT licence, and so have I.",),
    ),
    (
        (
            "How big are you?",
            "How many parameters do you have?",
            "How large is this model?",
            "Are you a big model?",
        ),
        ("I am very small: less than seven million parameters, in a file of 7 MB.",),
    ),
    (
        (
            "What were you trained on?",
            "How were you trained?",
            "Which data were you trained on?",
            "What is your training data?",
        ),
        ("I was trained on text written by a generator: stories, sums, code edits and lists.",),
    ),
    (
        ("What is a token?", "What are tokens?", "Explain tokens"),
        ("A token is a piece of text: a word or a part of one. A model writes one by one.",),
    ),
    (
        ("What is a language model?", "What is an LLM?", "How does a language model work?"),
        ("A language model is a program that writes text by choosing one token after another.",),
    ),
    (
        ("What is a KV cache?", "What is the cache for?", "What does the KV cache do?"),
        ("The KV cache keeps what was computed for earlier tokens, so it is not computed again.",),
    ),
    (
        ("What is quantisation?", "What does Q8_0 mean?", "What is a quantised model?"),
        ("Quantisation stores the weights with fewer bits. Q8_0 keeps about 8 bits for each.",),
    ),
    (
        ("Why is the sky blue?", "Why does the sky look blue?", "Explain why the sky is blue"),
        ("The air scatters the blue part of the sunlight most, so the sky looks blue.",),
    ),
    (
        (
            "How many days has a week?",
            "Name the days of the week",
            "What are the days of the week?",
        ),
        ("The seven days are Monday, Tuesday, Wednesday, Thursday, Friday, Saturday and Sunday.",),
    ),
    (
        ("How many months has a year?", "Name the months", "What are the months of the year?"),
        (
            "The twelve months are January, February, March, April, May, June, July, August, "
            "September, October, November and December.",
        ),
    ),
)
_PREFIXES = ("Please explain: ", "Tell me: ", "I want to know: ", "A question: ", "Can you say: ")


def facts(draw: Draw) -> list[Turn]:
    """One or two questions about sssd-local or a little general knowledge."""
    return [_fact(draw) for _ in range(draw.one((1, 1, 1, 2)))]


def _fact(draw: Draw) -> Turn:
    questions, answers = draw.one(_FACTS)
    question = draw.one(questions)
    if draw.chance(0.12):
        return draw.one(_PREFIXES) + question, draw.one(answers)
    return vary(draw, question), draw.one(answers)
