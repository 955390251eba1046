"""A conversation as the tokens that the model is to continue, and how its answer ends.

Three ways, by what the model knows: its own chat template; ChatML where its tokenizer has ChatML's tokens; and for a model that was trained on plain
text, plain text, in which each turn is a paragraph after its speaker's name.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from underhood.data.tokens import end_id
from underhood.infer.sample import text_ends
from underhood.serve.protocol import Message
from underhood.text.chat import TOKENS, ChatTemplate
from underhood.text.chat_encode import encode_chat, overlap
from underhood.text.chat_process import ChatTemplateError
from underhood.text.tokenizer import Tokenizer, encode_plain

CHATML = ("<|im_start|>", "<|im_end|>")
ENDS = ("<|im_end|>", "<|eot_id|>", "<|endoftext|>", "<|end_of_text|>", "</s>")  # tokens that end a turn in the families that are known
SPEAKERS = {"system": "System", "user": "User", "assistant": "Assistant"}
RESERVED = frozenset({"self", "tokenizer", "template", "messages", "tools", "documents", "add_generation_prompt", "roles", "markup", "marks", *TOKENS})
MOST_OPTIONS, LONGEST_NAME, LONGEST_OPTION, LARGEST_NUMBER = 16, 64, 1024, 2**63
Options = Mapping[str, bool | int | float | str]
FORGED = re.compile(rf"(?m)^(?=({'|'.join(SPEAKERS.values())}):)")


class Dialogue:
    """How one model is spoken with. ``style`` is "template", "chatml" or "plain".

    ``text_ends`` are tokens that end a text; ``end_ids`` are these and, where the model knows turns, those that end a turn; ``stop`` are texts that end an
    answer besides. ``closing_ids`` may come after an answer that a grammar has completed. ``end_ids`` as given are what the model's files name.
    """

    def __init__(self, tokenizer: Tokenizer, folder: Path, end_ids: Sequence[int]) -> None:
        special: dict[str, int] = dict(getattr(tokenizer, "special", {}))
        self.tokenizer, self.template = tokenizer, ChatTemplate.read(folder)
        own = self.template.origin != "default" and hasattr(tokenizer, "special")
        self.style = "template" if own else "chatml" if set(CHATML) <= special.keys() else "plain"
        mark = end_id(tokenizer)
        self.mark = () if mark is None else (mark,)  # between the documents of a model of ours
        turns = () if self.style == "plain" else (special[name] for name in ENDS if name in special)
        self.text_ends = text_ends(tokenizer, end_ids)
        self.end_ids = tuple(dict.fromkeys([*self.text_ends, *turns]))
        self.stop = self._stop() if self.style == "plain" else ()
        self.closing_ids = self.end_ids or self.mark
        self.markup = _markup(tokenizer, self.template)

    def encode(self, messages: Sequence[Message], options: Options = MappingProxyType({})) -> list[int]:
        """The tokens of the conversation up to where the answer begins. ``options`` are what the model's template knows besides (``enable_thinking``).

        Markup such as ``<think>`` is what it is in the assistant's turns, so that the template can leave out what was thought, and text in all others.
        Raises ``ChatTemplateError`` and ``TokenizerError``.
        """
        require_plain(options)
        turns = [(SYSTEM_OF.get(m.role, m.role), m.text, m.name) for m in messages]
        if self.style == "plain":
            return self._plain([(role, text) for role, text, _ in turns])
        plain = [{"role": role, "content": text, **({"name": name} if name else {})} for role, text, name in turns]
        return encode_chat(self.tokenizer, self.template, plain, markup=self.markup, **options)  # type: ignore[arg-type]  # one with special tokens

    def _stop(self) -> tuple[str, ...]:
        """What ends a paragraph of plain text: the next speaker's name, or the line, where documents are lines."""
        lines = self.mark and self.mark[0] not in getattr(self.tokenizer, "special", {}).values()
        return ("\n",) if lines else tuple(f"\n{name}:" for name in SPEAKERS.values())

    def _plain(self, turns: Sequence[tuple[str, str]]) -> list[int]:
        """``User: …`` and so on, at the beginning of a document. A name at the beginning of a line in a message is moved, or it would open a turn."""
        lines = [f"{SPEAKERS[role]}: {FORGED.sub(' ', text)}" for role, text in turns]
        begin = list(getattr(self.tokenizer, "begin_ids", ()) or self.mark)
        return begin + encode_plain(self.tokenizer, "\n".join([*lines, f"{SPEAKERS['assistant']}:"]))

    def shown(self, text: str) -> str:
        """An answer's text without the space that follows a speaker's name."""
        return text.removeprefix(" ") if self.style == "plain" else text

    @property
    def says(self) -> str:
        """What a person should know about it."""
        return {
            "template": "the model's own chat template",
            "chatml": "ChatML: the model has its tokens and no template",
            "plain": "plain text: the model was not trained to chat, so it continues a written dialogue",
        }[self.style]


def require_plain(options: Options) -> None:
    """Raise ``ChatTemplateError`` for options that are too many or too large, or have a name that is the conversation's own."""
    if len(options) > MOST_OPTIONS:
        raise ChatTemplateError(f"{len(options)} options", where="chat_template_kwargs", expected=f"at most {MOST_OPTIONS}")
    for name, value in options.items():
        where = f"chat_template_kwargs.{name[:LONGEST_NAME]}"
        if not name.isidentifier() or len(name) > LONGEST_NAME or name in RESERVED:
            raise ChatTemplateError("not the name of an option", where=where, expected="a variable that the template knows")
        small = len(value) <= LONGEST_OPTION if isinstance(value, str) else abs(value) <= LARGEST_NUMBER
        if not small:
            raise ChatTemplateError("too large", where=where, expected=f"a finite number, or at most {LONGEST_OPTION} characters")


def _markup(tokenizer: Tokenizer, template: ChatTemplate) -> frozenset[str]:
    """The added tokens that the template writes and that control nothing. One that a control token can be made of by text around it is none of them."""
    added, special = (getattr(tokenizer, kind, {}) for kind in ("added", "special"))
    written = "\0".join(template.sources.values())
    return frozenset(n for n in added if n not in special and n in written and not any(overlap(n, control) for control in special))


SYSTEM_OF = {"developer": "system"}  # two names for one thing; most templates know the older
