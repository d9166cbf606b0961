"""Chat templates on tokenizers of all kinds: exactly what the assistant says is trained, and the texts are the published ones."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from setok.config import ChatConfig
from setok.data.chat import ChatTemplate, Message, Piece, Slot, message_of
from setok.data.chat_templates import BUILT_IN
from setok.data.schema import Record, Turn
from setok.data.special_tokens import text_tokenizer
from setok.errors import DataError
from setok.vocabulary import SPECIAL_TOKENS
from tests.chat_templates import AROUND, builder, record_of, trained_text, whole_text
from tests.text_tokenizers import KINDS, SPECIAL, tokenizer_of

ASCII = st.text(st.sampled_from([*map(chr, range(32, 127)), "\n"]), max_size=30)
TEXT = st.one_of(ASCII, st.lists(st.sampled_from([*SPECIAL, *SPECIAL_TOKENS, "It is", " a dog", "\n"])).map("".join))
ANSWER = TEXT.map(lambda text: text.replace("<image>", "<picture>").replace("<mask>", "<region>").strip() or "yes")
CONVERSATION = st.lists(st.tuples(ANSWER, ANSWER), min_size=1, max_size=3)


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
