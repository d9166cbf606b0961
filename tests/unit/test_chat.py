"""Chat templates on tokenizers of all kinds: exactly what the assistant says is trained, and the texts are the published ones."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from setok.config import ChatConfig, SequenceConfig
from setok.data.chat import ChatTemplate, Message, Piece, Slot, message_of
from setok.data.chat_templates import BUILT_IN
from setok.data.schema import Record, Turn
from setok.data.sequences import SequenceBuilder, TokenSequence
from setok.data.special_tokens import add_special_tokens, text_tokenizer
from setok.data.text_tokenizer import TextTokenizer
from setok.errors import ConfigError, DataError
from setok.vocabulary import SPECIAL_TOKENS
from tests.text_tokenizers import CHAT_TOKENS, KINDS, SPECIAL, tokenizer_of, wrap

PUBLISHED = {
    "chatml": (
        "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "llama3": (
        "{% for m in messages %}{% set content = '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n'"
        " + m['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}"
        "{% endif %}{{ content }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    "llama2": (
        "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set system = messages[0]['content'] %}"
        "{% else %}{% set rest = messages %}{% set system = false %}{% endif %}{% for m in rest %}"
        "{% if loop.index0 == 0 and system != false %}"
        "{% set content = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' + m['content'] %}"
        "{% else %}{% set content = m['content'] %}{% endif %}"
        "{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
        "{% elif m['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
    ),
    "mistral": (
        "{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] %}"
        "{%- set rest = messages[1:] %}{%- else %}{%- set rest = messages %}{%- endif %}{{- bos_token }}"
        "{%- for m in rest %}{%- if m['role'] == 'user' %}{%- if loop.first and system is defined %}"
        "{{- ' [INST] ' + system + '\n\n' + m['content'] + ' [/INST]' }}{%- else %}"
        "{{- ' [INST] ' + m['content'] + ' [/INST]' }}{%- endif %}{%- else %}"
        "{{- ' ' + m['content'] + eos_token}}{%- endif %}{%- endfor %}"
    ),
    "vicuna_v1": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] + ' ' }}"
        "{% set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif %}{% for m in rest %}"
        "{% if m['role'] == 'user' %}{{ 'USER: ' + m['content'] + ' ' }}"
        "{% else %}{{ 'ASSISTANT: ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
    ),
    "plain": (
        "{{ bos_token }}{% for m in messages %}{{ m['content'] + (eos_token if m['role'] == 'assistant' else '\n') }}"
        "{% endfor %}"
    ),
}
AROUND = {
    "plain": ("", "</s>"),
    "vicuna_v1": (" ", "</s>"),
    "llama2": (" ", " </s>"),
    "llama3": ("", "<|eot_id|>"),
    "chatml": ("", "<|im_end|>"),
    "mistral": (" ", "</s>"),
}
"""What the model says before and behind an answer."""

GENERATION = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}"
    "{{ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
THINKING = (  # as Qwen 3: the last answer, and no other, begins with an empty thought
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m.content.split('</think>')[-1] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

ASCII = st.text(st.sampled_from([*map(chr, range(32, 127)), "\n"]), max_size=30)
TEXT = st.one_of(ASCII, st.lists(st.sampled_from([*SPECIAL, *SPECIAL_TOKENS, "It is", " a dog", "\n"])).map("".join))
ANSWER = TEXT.map(lambda text: text.replace("<image>", "<picture>").replace("<mask>", "<region>").strip() or "yes")
CONVERSATION = st.lists(st.tuples(ANSWER, ANSWER), min_size=1, max_size=3)


def builder(kind: str, template: str, **chat: str | None) -> SequenceBuilder:
    config = SequenceConfig(chat=ChatConfig(template=template, **chat), max_image_tokens=3)
    return SequenceBuilder(text_tokenizer(tokenizer_of(kind)), config, seed=0)


def record_of(pairs: list[tuple[str, str]], *, system: str = "") -> Record:
    turns = [Turn(role="system", text=system)] if system else []
    for question, answer in pairs:
        turns += [Turn(role="user", text=question), Turn(role="assistant", text=answer)]
    return Record(id="r", source="test", task="dialogue", conversation=turns)


def trained_text(kind: str, sequence: TokenSequence) -> str:
    """Trained ids as text; the token in front keeps decoders from dropping the first space."""
    ids = sequence.labels[sequence.labels >= 0].tolist()
    return tokenizer_of(kind).decode([0, *ids]).removeprefix("<pad>")


def whole_text(kind: str, template: str, record: Record, *, prompt: bool = False) -> str:
    messages = [{"role": turn.role, "content": turn.text.strip()} for turn in record.conversation]
    return tokenizer_of(kind).apply_chat_template(
        messages, chat_template=PUBLISHED[template], tokenize=False, add_generation_prompt=prompt
    )


# ---------------------------------------------------------------- what is trained


@pytest.mark.parametrize("template", BUILT_IN)
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(pairs=CONVERSATION)
def test_exactly_the_answers_and_their_ends_are_trained(kind: str, template: str, pairs: list[tuple[str, str]]) -> None:
    """Whatever the texts hold, texts of special tokens among it; and nothing but the template's tokens is special."""
    build = builder(kind, template)
    sequence = build.build(record_of(pairs), epoch=0)
    before, after = AROUND[template]
    assert trained_text(kind, sequence) == "".join(before + answer + after for _, answer in pairs)
    learned = sequence.labels >= 0
    assert (sequence.labels[learned] == sequence.input_ids[learned]).all()
    forms = [build.tokenizer.special_id(token) for token in (*SPECIAL_TOKENS, "<image>")]
    assert not set(sequence.input_ids.tolist()) & set(forms)
    ends = build.tokenizer.special_id(after.strip())
    assert (sequence.labels == ends).sum() == len(pairs)


@pytest.mark.parametrize("template", BUILT_IN)
def test_a_lossy_tokenizer_too(template: str) -> None:
    sequence = builder("bert", template).build(record_of([("What?", "A dog."), ("Where </s>?", "On grass.")]), epoch=0)
    end = AROUND[template][1].strip()
    assert trained_text("bert", sequence).strip() == f"a dog. {end} on grass. {end}"


@pytest.mark.parametrize("template", BUILT_IN)
@pytest.mark.parametrize("kind", KINDS)
def test_the_prompt_is_how_the_sequence_begins(kind: str, template: str) -> None:
    """At every turn: what the model is asked at inference is what came before the answer in training."""
    build = builder(kind, template)
    record = record_of([("What is it?", "It is a dog."), ("Where?", "here"), ("12 or 345?", "no")])
    sequence = build.build(record, epoch=0)
    starts = [
        place for place in range(1, len(sequence)) if sequence.labels[place] >= 0 and sequence.labels[place - 1] < 0
    ]
    assert len(starts) == 3
    for number, start in enumerate(starts):
        prompt = build.prompt([message_of(turn) for turn in record.conversation[: 2 * number + 1]])
        assert prompt.input_ids.tolist() == sequence.input_ids[:start].tolist()
        assert (prompt.labels == -100).all()


# ---------------------------------------------------------------- the published texts


@pytest.mark.parametrize("template", BUILT_IN)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("system", ["", "You are helpful."])
def test_ids_are_those_of_the_published_text_at_once(kind: str, template: str, system: str) -> None:
    record = record_of([("What is this?", "a dog on grass."), ("Don't you\nsee 12?", "yes, I think!")], system=system)
    build = builder(kind, template, system_prompt="")
    whole = tokenizer_of(kind)(whole_text(kind, template, record), add_special_tokens=False).input_ids
    assert build.build(record, epoch=0).input_ids.tolist() == whole
    asked = Record(id="r", source="test", conversation=record.conversation[:-1])
    whole = tokenizer_of(kind)(whole_text(kind, template, asked, prompt=True), add_special_tokens=False).input_ids
    assert build.prompt([message_of(turn) for turn in asked.conversation]).input_ids.tolist() == whole


@pytest.mark.parametrize("template", BUILT_IN)
@settings(max_examples=25, deadline=None)
@given(pairs=st.lists(st.tuples(ASCII, ASCII), min_size=1, max_size=3))
def test_ids_are_those_of_the_whole_text_for_a_tokenizer_that_splits_words(
    template: str, pairs: list[tuple[str, str]]
) -> None:
    pairs = [(question.strip() or "x", answer.strip() or "y") for question, answer in pairs]
    record = record_of([(q.replace("<", "("), a.replace("<", "(")) for q, a in pairs])
    whole = tokenizer_of("gpt2")(whole_text("gpt2", template, record), add_special_tokens=False).input_ids
    assert builder("gpt2", template, system_prompt="").build(record, epoch=0).input_ids.tolist() == whole


def test_where_a_token_would_reach_over_the_border_the_border_wins() -> None:
    """A line break and ``I`` are one token of this tokenizer; the prompt must still end behind the line break."""
    tokenizer, record = tokenizer_of("llama"), record_of([("What?", "It is a dog.")])
    whole = tokenizer(whole_text("llama", "chatml", record), add_special_tokens=False).tokens()
    assert any(token == "\nI" for token in whole)
    build = builder("llama", "chatml")
    sequence = build.build(record, epoch=0)
    assert trained_text("llama", sequence) == "It is a dog.<|im_end|>"
    assert tokenizer.decode(sequence.input_ids) == whole_text("llama", "chatml", record)


def test_the_system_prompt() -> None:
    def text(template: str, system: str | None, own: str = "") -> str:
        sequence = builder("gpt2", template, system_prompt=system).build(record_of([("q", "a")], system=own), epoch=0)
        return tokenizer_of("gpt2").decode(sequence.input_ids)

    assert text("vicuna_v1", None).startswith("<s>A chat between a curious user")
    assert text("vicuna_v1", "") == "<s>USER: q ASSISTANT: a</s>"
    assert text("vicuna_v1", "Be brief.") == "<s>Be brief. USER: q ASSISTANT: a</s>"
    assert text("vicuna_v1", "Be brief.", own="Be kind.") == "<s>Be kind. USER: q ASSISTANT: a</s>"
    assert text("llama2", "Be brief.") == "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nq [/INST] a </s>"
    assert text("mistral", "Be brief.") == "<s> [INST] Be brief.\n\nq [/INST] a</s>"
    assert text("plain", "Be brief.") == "<s>Be brief.\nq\na</s>"


# ---------------------------------------------------------------- templates that tokenizers bring


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


def test_turns_that_a_template_refuses() -> None:
    build = builder("gpt2", "llama2")
    turns = [Turn(role="user", text="a"), Turn(role="user", text="b"), Turn(role="assistant", text="c")]
    with pytest.raises(DataError, match="user, user, assistant"):
        build.build(Record(id="r", source="s", conversation=turns), epoch=0)


def test_slots_and_white_space() -> None:
    turn = message_of(Turn(role="user", text=" <image>\nWhat is <mask>? "))
    assert turn.parts == (" ", Slot.IMAGE, "\nWhat is <mask>? ")
    said = message_of(Turn(role="assistant", text="It is <mask>."))
    assert said.parts == ("It is ", Slot.MASK, ".")
    template = ChatTemplate(ChatConfig(template="plain"), text_tokenizer(tokenizer_of("gpt2")))
    pieces = template.pieces([turn, said])
    assert pieces == [
        Piece(content="<s>", trained=False, is_token=True),
        Piece(content=Slot.IMAGE, trained=False),
        Piece(content="\nWhat is <mask>?", trained=False),
        Piece(content="\n", trained=False),
        Piece(content="It is ", trained=True),
        Piece(content=Slot.MASK, trained=True),
        Piece(content=".", trained=True),
        Piece(content="</s>", trained=True, is_token=True),
    ]
    empty = template.pieces([Message(role="user", parts=(" ", "\n")), said])
    assert empty[1].content == "\n"


# ---------------------------------------------------------------- tokenizers


@pytest.mark.parametrize("kind", [*KINDS, "bert"])
def test_a_saved_tokenizer_is_read_without_transformers(kind: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(kind)
    tokenizer.save_pretrained(tmp_path)
    loaded = TextTokenizer.load(tmp_path)
    here = text_tokenizer(tokenizer)
    assert loaded.special_tokens == here.special_tokens
    assert (loaded.bos_token, loaded.eos_token, loaded.pad_token) == ("<s>", "</s>", "<pad>")
    assert loaded.pad_id == tokenizer.pad_token_id
    text = "a dog </s> on [Img] grass"
    loaded.encode(text, before="text")
    for other in (loaded, pickle.loads(pickle.dumps(loaded))):
        for before in ("nothing", "token", "text"):
            ids = other.encode(text, before=before)
            assert ids == here.encode(text, before=before)
            assert not set(ids) & {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("[Img]")}


def test_a_saved_template_is_found(tmp_path: Path) -> None:
    tokenizer = wrap(tokenizer_of("gpt2").backend_tokenizer)
    for template, expected in ((GENERATION, GENERATION), ({"default": "a", "tools": "b"}, "a")):
        tokenizer.chat_template = template
        tokenizer.save_pretrained(tmp_path)
        assert TextTokenizer.load(tmp_path).chat_template == expected


def test_special_tokens_are_added_once() -> None:
    tokenizer = wrap(Tokenizer.from_str(_without_pictures()))
    before = len(tokenizer)
    ids = add_special_tokens(tokenizer)
    assert ids == {"[Img]": before, "[/Img]": before + 1, "[Seg]": before + 2}
    assert add_special_tokens(tokenizer) == ids
    assert len(tokenizer) == before + 3
    assert tokenizer("a[Img]", add_special_tokens=False).input_ids[-1] == ids["[Img]"]


def _without_pictures() -> str:
    definition = json.loads(text_tokenizer(tokenizer_of("gpt2")).definition)
    definition["added_tokens"] = [one for one in definition["added_tokens"] if one["content"] not in SPECIAL_TOKENS]
    return json.dumps(definition)


def test_a_tokenizer_that_lacks_something(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist") as error:
        TextTokenizer.load(tmp_path / "nowhere")
    assert "save_pretrained" in error.value.remedy
    with pytest.raises(ConfigError, match=r"no tokenizer\.json"):
        TextTokenizer.load(tmp_path)
    bare = TextTokenizer(definition=_without_pictures(), eos_token="</s>")
    assert bare.pad_id == bare.special_id("</s>")
    with pytest.raises(ConfigError, match="pad_token"):
        _ = TextTokenizer(definition=_without_pictures()).pad_id
    with pytest.raises(ConfigError, match=r"\[Img\]") as error:
        SequenceBuilder(bare, SequenceConfig(chat=ChatConfig(template="plain")), seed=0)
    assert "add_special_tokens" in error.value.remedy
