"""Templates that tokenizers bring, templates that cannot be used, and tokens that a template lacks."""

from __future__ import annotations

import json

import pytest
from tokenizers import Tokenizer

from setok.config import ChatConfig, SequenceConfig
from setok.data.chat import ChatTemplate
from setok.data.sequences import SequenceBuilder
from setok.data.special_tokens import text_tokenizer
from setok.data.text_tokenizer import TextTokenizer
from setok.errors import ConfigError
from tests.chat_templates import AROUND, GENERATION, PUBLISHED, record_of, trained_text, whole_text
from tests.text_tokenizers import CHAT_TOKENS, tokenizer_of, wrap

THINKING = (  # as Qwen 3: the last answer, and no other, begins with an empty thought
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m.content.split('</think>')[-1] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def own_template(source: str, kind: str = "gpt2") -> TextTokenizer:
    base = text_tokenizer(tokenizer_of(kind))
    return TextTokenizer(
        definition=base.definition, bos_token="<s>", eos_token="</s>", pad_token="<pad>", chat_template=source
    )


@pytest.mark.parametrize("source", [*PUBLISHED.values(), GENERATION])
def test_a_tokenizers_own_template(source: str) -> None:
    build = SequenceBuilder(own_template(source), SequenceConfig(max_image_tokens=3), seed=0)
    sequence = build.build(record_of([("What?", "A dog </s>"), ("Where?", "On grass")]), epoch=0)
    name = next((name for name, published in PUBLISHED.items() if published == source), "chatml")
    before, after = AROUND[name]
    expected = f"{before}A dog </s>{after}{before}On grass{after}"
    assert trained_text("gpt2", sequence) == expected


def test_generation_blocks_agree_with_transformers() -> None:
    tokenizer = tokenizer_of("gpt2")
    record = record_of([("What?", "A dog"), ("Where?", "On grass")])
    build = SequenceBuilder(own_template(GENERATION), SequenceConfig(max_image_tokens=3), seed=0)
    sequence = build.build(record, epoch=0)
    theirs = tokenizer.apply_chat_template(
        [{"role": turn.role, "content": turn.text} for turn in record.conversation],
        chat_template=GENERATION,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    assert sequence.input_ids.tolist() == theirs["input_ids"]
    assert (sequence.labels >= 0).tolist() == [bool(flag) for flag in theirs["assistant_masks"]]


def test_what_a_template_says_for_the_assistant_is_trained() -> None:
    build = SequenceBuilder(own_template(THINKING), SequenceConfig(max_image_tokens=3), seed=0)
    sequence = build.build(record_of([("q", "<think> a </think>b"), ("r", "c")]), epoch=0)
    text = "<think> a </think>b<|im_end|><think>\n\n</think>\n\nc<|im_end|>"
    assert trained_text("gpt2", sequence) == text


@pytest.mark.parametrize(
    ("source", "value", "remedy"),
    [
        ("", "no chat template", "llama3"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "no special token", "generation"),
        ("{{ messages | length }}{% for m in messages %}{{ m.content }}</s>{% endfor %}", "differently", "generation"),
        ("{% for m in messages %}{{ m.content + m.content }}</s>{% endfor %}", "once and in order", "built|one of"),
        ("{% for m in messages[1:] %}{{ m.content }}</s>{% endfor %}", "once and in order", "one of"),
        ("{{ raise_exception('no such thing') }}", "no such thing", "one of"),
        ("{% for m in messages %}", "refuses", "one of"),
    ],
)
def test_templates_that_cannot_be_used(source: str, value: str, remedy: str) -> None:
    with pytest.raises(ConfigError, match=value) as error:
        ChatTemplate(ChatConfig(), own_template(source))
    assert any(part in error.value.remedy for part in remedy.split("|"))


def test_a_template_without_room_for_a_system_prompt() -> None:
    source = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}" + PUBLISHED["chatml"]
    )
    ChatTemplate(ChatConfig(), own_template(source))
    with pytest.raises(ConfigError, match="no system here") as error:
        ChatTemplate(ChatConfig(system_prompt="Be kind."), own_template(source))
    assert "sequence.chat.system_prompt=''" in error.value.remedy


@pytest.mark.parametrize("side", ["lstrip", "rstrip"])
def test_tokens_that_swallow_the_space_beside_them(side: str) -> None:
    """As Phi's: a line break behind the end of a turn belongs to its token."""
    definition = json.loads(text_tokenizer(tokenizer_of("gpt2")).definition)
    for token in definition["added_tokens"]:
        token[side] |= token["content"] in ("<|im_end|>", "<|im_start|>")
    tokenizer = wrap(Tokenizer.from_str(json.dumps(definition)))
    build = SequenceBuilder(
        text_tokenizer(tokenizer), SequenceConfig(chat=ChatConfig(template="chatml"), max_image_tokens=3), seed=0
    )
    record = record_of([("What?", "A dog"), ("Where?", "On grass")])
    whole = tokenizer(whole_text("gpt2", "chatml", record), add_special_tokens=False).input_ids
    assert len(whole) < len(tokenizer_of("gpt2")(whole_text("gpt2", "chatml", record)).input_ids)
    assert build.build(record, epoch=0).input_ids.tolist() == whole


def test_a_built_in_template_needs_its_tokens() -> None:
    bare = TextTokenizer(definition=_without_chat_tokens(), bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    for template, token in (("chatml", "<|im_end|>"), ("llama3", "<|eot_id|>")):
        with pytest.raises(ConfigError, match="lacks") as error:
            ChatTemplate(ChatConfig(template=template), bare)
        assert token in error.value.problem
        assert "add them" in error.value.remedy
    with pytest.raises(ConfigError, match="eos_token"):
        ChatTemplate(ChatConfig(template="plain"), TextTokenizer(definition=_without_chat_tokens()))


def _without_chat_tokens() -> str:
    definition = json.loads(text_tokenizer(tokenizer_of("gpt2")).definition)
    definition["added_tokens"] = [one for one in definition["added_tokens"] if one["content"] not in CHAT_TOKENS]
    return json.dumps(definition)
