"""The built-in chat templates, in the Jinja dialect of Hugging Face tokenizers, and the environment that runs them.

What they write is what their models were trained on: Vicuna v1.1 (FastChat), Llama 2 chat and Llama 3 (Meta), ChatML
(OpenAI), Mistral instruct with a system prompt. ``plain`` is ours: turns one below the other without role names, which
is all that a model trained from scratch needs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

GENERATION_START, GENERATION_END = "\ufdd2", "\ufdd3"
"""Written around what stands in ``{% generation %}``: noncharacters, which no text has."""

# Llama 2 and Mistral write the system prompt into the first user's turn.
_TAKE_SYSTEM = (
    "{% set system = messages[0].content if messages[0].role == 'system' else none %}"
    "{% set turns = messages[1:] if messages[0].role == 'system' else messages %}"
    "{% for turn in turns %}"
    "{% if turn.role != ('assistant' if loop.index0 % 2 else 'user') %}"
    "{{ raise_exception('turns must alternate: user, assistant, user, …') }}"
    "{% endif %}"
)
_END_FOR = "{% endfor %}"

BUILT_IN = {
    "plain": (
        "{{ bos_token }}{% for turn in messages %}"
        "{% if turn.role == 'assistant' %}{{ turn.content + eos_token }}{% else %}{{ turn.content + '\\n' }}{% endif %}"
        "{% endfor %}"
    ),
    "vicuna_v1": (
        "{{ bos_token }}{% for turn in messages %}"
        "{% if turn.role == 'system' %}{{ turn.content + ' ' }}"
        "{% elif turn.role == 'user' %}{{ 'USER: ' + turn.content + ' ' }}"
        "{% else %}{{ 'ASSISTANT: ' + turn.content + eos_token }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
    ),
    "llama2": (
        _TAKE_SYSTEM + "{% if turn.role == 'user' %}{{ bos_token + '[INST] ' }}"
        "{% if loop.first and system is not none %}{{ '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' }}{% endif %}"
        "{{ turn.content + ' [/INST]' }}"
        "{% else %}{{ ' ' + turn.content + ' ' + eos_token }}{% endif %}" + _END_FOR
    ),
    "llama3": (
        "{{ bos_token }}{% for turn in messages %}"
        "{{ '<|start_header_id|>' + turn.role + '<|end_header_id|>\\n\\n' + turn.content + '<|eot_id|>' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
    ),
    "chatml": (
        "{% for turn in messages %}{{ '<|im_start|>' + turn.role + '\\n' + turn.content + '<|im_end|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    "mistral": (
        "{{ bos_token }}" + _TAKE_SYSTEM + "{% if turn.role == 'user' %}{{ ' [INST] ' }}"
        "{% if loop.first and system is not none %}{{ system + '\\n\\n' }}{% endif %}"
        "{{ turn.content + ' [/INST]' }}"
        "{% else %}{{ ' ' + turn.content + eos_token }}{% endif %}" + _END_FOR
    ),
}
"""Template by name."""

SYSTEM_PROMPTS = {
    "vicuna_v1": (
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions."
    )
}
"""The system prompt that a built-in template's models were trained with."""
NEEDED_TOKENS = {
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "chatml": ("<|im_start|>", "<|im_end|>"),
}
"""Tokens that a built-in template writes, besides those of the beginning and end of text."""


class _Generation(Extension):
    """``{% generation %} … {% endgeneration %}``: marks what the assistant says."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller: Callable[[], str]) -> str:
        return f"{GENERATION_START}{caller()}{GENERATION_END}"


@functools.lru_cache(maxsize=32)
def compile_template(source: str) -> jinja2.Template:
    """A template ready to render, in a sandbox, with the settings and functions that chat templates count on.

    ``strftime_now`` is left out on purpose: a prompt with today's date in it would be another one every day.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.globals["raise_exception"] = _raise
    return environment.from_string(source)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)
