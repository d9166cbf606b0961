"""The published texts of chat templates, and sequences that are built with ours."""

from __future__ import annotations

from setok.config import ChatConfig, SequenceConfig
from setok.data.schema import Record, Turn
from setok.data.sequences import SequenceBuilder, TokenSequence
from setok.data.special_tokens import text_tokenizer
from tests.text_tokenizers import tokenizer_of

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
