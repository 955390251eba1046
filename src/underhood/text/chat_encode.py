"""A conversation as token ids, in which a message cannot write control tokens.

Whoever types ``<|im_end|><|im_start|>system`` into a message has typed characters. Yet template and messages end up in one text, in which they look alike
(transformers issues 29279, 47822). So before rendering, every sign that could begin a control token's name is replaced, in everything that comes from
outside, by a character of the private use area which occurs nowhere else; after rendering, control tokens are looked for, and only then the signs are put
back. Pieces of a name in two messages cannot join either. What remains are templates that write the beginning of a name themselves, ``'<|' + role``: hence
only known roles.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol

from underhood.text.chat import ChatTemplate
from underhood.text.chat_process import ChatTemplateError
from underhood.text.hf_tokenizer import HFTokenizer
from underhood.text.special import split_special
from underhood.text.tokenizer import Tokenizer, encode_plain

ROLES = ("system", "developer", "user", "assistant", "tool", "function", "ipython")
PRIVATE = range(0xF0000, 0xFFFFE)  # the first supplementary private use area
DEEPEST = 100  # of the objects in a message
PLAIN = "_\"'\\"  # names of fields, and JSON, must reach the template as they are
STRING = re.compile(r"""'([^'\\\n]*)'|"([^"\\\n]*)\"""")
LONGEST_STRING = 64


class ControlTokenizer(Tokenizer, Protocol):
    """A tokenizer with special tokens: ``special`` gives their ids by name. Where some added tokens are not special, ``added`` gives the ids of all."""

    special: dict[str, int]

    def encode(self, text: str, allowed_special: Collection[str] = ...) -> list[int]:
        """The ids of ``text``, in which special tokens are text unless they are among ``allowed_special``."""


def encode_chat(
    tokenizer: ControlTokenizer,
    template: ChatTemplate,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = True,
    *,
    roles: Collection[str] = ROLES,
    markup: Collection[str] = (),
    **variables: Any,
) -> list[int]:
    """The ids of the conversation: control tokens where the template writes them, text everywhere else.

    ``markup`` names tokens such as ``<think>`` that stay what they are in the assistant's own messages: give what the template looks for in them. Raises
    ``ChatTemplateError`` for a role outside ``roles``, and what ``ChatTemplate.render`` raises.
    """
    guard = Guard(tokenizer, template, (messages, tools, variables), markup)
    text = _render(guard, template, messages, tools, add_generation_prompt, roles, variables)
    return guard.encode(tokenizer, [text])[0]


def encode_for_training(
    tokenizer: ControlTokenizer,
    template: ChatTemplate,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
    *,
    roles: Collection[str] = ROLES,
    markup: Collection[str] = (),
    **variables: Any,
) -> tuple[list[int], list[bool]]:
    """The ids of a whole conversation and, for each, whether the assistant wrote it, which is what the loss counts.

    The template's ``generation`` tags say so; in a template without them it is what each assistant's message adds to the text before it that ends in the
    generation prompt. No token reaches over such a border, as none does when the model writes. Raises ``ChatTemplateError`` where the text of a
    conversation does not begin with that of its beginning, so that the added part is not defined.
    """
    guard = Guard(tokenizer, template, (messages, tools, variables), markup)
    if re.search(r"\{%[-+]?\s*generation\b", template.source(bool(tools))):
        text = _render(guard, template, messages, tools, False, roles, variables, guard.marks)
        spans = _marked(text, guard.marks)
    else:
        spans = _added(guard, template, messages, tools, roles, variables)
    pieces, assistant = zip(*spans, strict=True)
    found = guard.encode(tokenizer, pieces)
    return [i for ids in found for i in ids], [wrote for ids, wrote in zip(found, assistant, strict=True) for _ in ids]


class Guard:
    """Characters that stand in, during rendering, for the signs that begin control tokens."""

    def __init__(self, tokenizer: ControlTokenizer, template: ChatTemplate, given: Any, markup: Collection[str]) -> None:
        self.ids: dict[str, int] = getattr(tokenizer, "added", {}) | tokenizer.special
        written = "\0".join([*template.sources.values(), *template.tokens.values()])
        signs = {name: _sign(name) for name in self.ids if name in tokenizer.special or name[:2] in written}
        self.names = frozenset(name for name, sign in signs.items() if sign)
        used = set(json.dumps(given, ensure_ascii=False, default=str)).union(written, *self.ids)
        unused = (chr(code) for code in PRIVATE if chr(code) not in used)
        self.hidden = {ord(sign): next(unused) for sign in sorted(set(signs.values()) - {""})}
        self.shown = {ord(private): chr(code) for code, private in self.hidden.items()}
        self.escapes = {json.dumps(private)[1:-1]: private for private in self.hidden.values()}  # as JSON in ASCII writes them
        self.marks, self.border = (next(unused), next(unused)), next(unused)
        kept = {*markup, *(text for text in compared(written) if not any(overlap(text, name) for name in self.ids))}
        self.markup = re.compile("|".join(map(re.escape, sorted(kept, key=len, reverse=True))) or r"(?!)")

    def hide(self, value: Any, own: bool = False, depth: int = 0) -> Any:
        """``value`` (plain data) with the signs hidden in every string and key; in the assistant's ``own`` words ``markup`` is left alone."""
        if depth > DEEPEST:
            raise ChatTemplateError("nested too deeply", where="messages", expected=f"at most {DEEPEST} levels")
        if isinstance(value, str):
            return self._hide_text(value, own)
        if isinstance(value, Mapping):
            return {self.hide(k): self.hide(v, own, depth + 1) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [self.hide(v, own, depth + 1) for v in value]
        if value is None or isinstance(value, bool | int | float):
            return value
        raise ChatTemplateError(f"found {type(value).__name__}", where="messages", expected="plain data: text, numbers, lists, objects")

    def _hide_text(self, text: str, own: bool) -> str:
        if not own:
            return text.translate(self.hidden)
        hidden, last = "", 0
        for found in self.markup.finditer(text):
            hidden += text[last : found.start()].translate(self.hidden) + found.group()
            last = found.end()
        return hidden + text[last:].translate(self.hidden)

    def show(self, text: str) -> str:
        """``text`` with its own signs again."""
        return self._unescaped(text).translate(self.shown)

    def _unescaped(self, text: str) -> str:
        for escape, private in self.escapes.items():
            text = text.replace(escape, private)
        return text

    def encode(self, tokenizer: ControlTokenizer, pieces: Sequence[str]) -> list[list[int]]:
        """The ids of each of the ``pieces`` of one rendered text, whose hidden signs begin nothing."""
        if isinstance(tokenizer, HFTokenizer):
            return tokenizer.encode_pieces([self._unescaped(piece) for piece in pieces], self.names, self.shown, self.border)
        return [self._encode(tokenizer, piece) for piece in pieces]

    def _encode(self, tokenizer: ControlTokenizer, text: str) -> list[int]:
        pieces = split_special(text, self.ids, self.names)
        return [number for piece in pieces for number in ([piece] if isinstance(piece, int) else encode_plain(tokenizer, self.show(piece)))]


def _sign(name: str) -> str:
    """The character by which ``name`` is broken up: its first that is neither letter, digit nor space, nor one that names and JSON are written with.
    Empty where there is none, as in a run of spaces, which many vocabularies hold among their added tokens and which is text."""
    return next((char for char in name if not (char.isalnum() or char.isspace() or char in PLAIN)), "")


def compared(source: str) -> set[str]:
    """The strings in a template's source, such as the ``</think>`` at which it cuts what the assistant said."""
    return {text for pair in STRING.findall(source) for text in pair if 1 < len(text) <= LONGEST_STRING}


def overlap(name: str, control: str) -> bool:
    """Whether some text holds both so that they share characters."""
    return any(name[max(k, 0) : k + len(control)] == control[max(-k, 0) : len(name) - k] for k in range(1 - len(control), len(name)))


def _render(
    guard: Guard,
    template: ChatTemplate,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None,
    add_generation_prompt: bool,
    roles: Collection[str],
    variables: Mapping[str, Any],
    marks: tuple[str, str] = ("", ""),
) -> str:
    """The conversation with hidden signs."""
    hidden = []
    for k, message in enumerate(messages):
        role = message.get("role") if isinstance(message, Mapping) else None
        if role not in roles:
            raise ChatTemplateError(f"found {str(role)[:40]!r}", where=f"messages[{k}].role", expected=f"one of {', '.join(roles)}")
        hidden.append({**guard.hide(message, own=role == "assistant"), "role": role})
    return template.render(hidden, guard.hide(tools), add_generation_prompt, marks=marks, **guard.hide(variables))


def _marked(text: str, marks: tuple[str, str]) -> Iterator[tuple[str, bool]]:
    """The pieces of ``text`` with whether each stood between the marks."""
    for k, piece in enumerate(re.split("[" + "".join(marks) + "]", text)):
        yield piece, k % 2 == 1


def _added(
    guard: Guard,
    template: ChatTemplate,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None,
    roles: Collection[str],
    variables: Mapping[str, Any],
) -> Iterator[tuple[str, bool]]:
    """The pieces of the whole text with whether each was added by a message of the assistant's."""
    whole = _render(guard, template, messages, tools, False, roles, variables)
    done = 0
    for k, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = _render(guard, template, messages[:k], tools, True, roles, variables)
        after = _render(guard, template, messages[: k + 1], tools, False, roles, variables)
        if not (whole.startswith(after) and after.startswith(before)):
            raise ChatTemplateError(
                "writes the beginning of a conversation in another way once it goes on, so the assistant's part cannot be told",
                where=f"messages[{k}]",
                remedy="Give one turn at a time, or a template with {% generation %} tags.",
            )
        yield whole[done : len(before)], False
        yield after[len(before) :], True
        done = len(after)
    yield whole[done:], False
