"""Chat templates: how the messages of a conversation become the one text that a model was trained on.

Every family writes turns in its own way, and its template says how, as a Jinja program in the model's folder. It runs in a process of its own with limits
(``chat_process``). Only the model's folder gives templates, never a request.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from underhood.base.errors import DataError
from underhood.base.files import read_json
from underhood.text.chat_process import ChatTemplateError, TemplateProcess

LARGEST_TEMPLATE = 2**20  # characters
LARGEST_FILE = 64 * 2**20  # bytes of tokenizer_config.json
TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
CLASSES = {  # the tokens that a class of transformers has where no file names them
    "gpt2": dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>"),
    "llama": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "qwen2": {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "unk_token": "<|endoftext|>"},
}
REASONING = ("reasoning_content", "thinking", "reasoning")  # one thing by three names, the first of which templates read

CHATML = """\
{%- if tools %}{{ raise_exception('the model has no chat template of its own, so there is no way to give it tools') }}{% endif %}
{%- macro text(content) %}
    {%- if content is string %}{{ content }}{% else %}{% for part in content or [] %}{{ part.text }}{% endfor %}{% endif %}
{%- endmacro %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.role == 'assistant' %}
        {%- generation %}{{ text(message.content) + '<|im_end|>' }}{% endgeneration %}
    {%- else %}
        {{- text(message.content) + '<|im_end|>' }}
    {%- endif %}
    {{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatTemplate:
    """A model's template. ``sources`` by name: "default", and "tool_use" where a family has another one for conversations with tools.

    ``tokens`` are the names that it may write for special tokens (``bos_token`` …); ``origin`` is the file that it came from, or "default" (ChatML).
    """

    sources: Mapping[str, str]
    tokens: Mapping[str, str] = dataclasses.field(default_factory=dict)
    origin: str = "default"
    process: TemplateProcess = dataclasses.field(default_factory=TemplateProcess, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, source in self.sources.items():
            if len(source) > LARGEST_TEMPLATE:
                raise ChatTemplateError(f"{name!r} has {len(source):,} characters", where=self.origin, expected=f"at most {LARGEST_TEMPLATE:,}")

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> "ChatTemplate":
        """The template of the model in ``folder``: from ``chat_template.jinja``, else from ``tokenizer_config.json``, else ChatML.

        Raises ``ChatTemplateError`` naming the file and the field that is damaged.
        """
        folder = Path(folder)
        config, tokens = _read_config(folder / "tokenizer_config.json"), named_tokens(folder)
        files = {"default": folder / "chat_template.jinja"} | {p.stem: p for p in sorted(folder.glob("additional_chat_templates/*.jinja"))}
        sources = {name: _read_text(path) for name, path in files.items() if path.is_file()}
        if sources:
            return cls(sources=sources, tokens=tokens, origin=str(folder / "chat_template.jinja"))
        if config.get("chat_template") is not None:
            where = f"{folder / 'tokenizer_config.json'}: chat_template"
            return cls(sources=_named(config["chat_template"], where), tokens=tokens, origin=where)
        return cls(sources={"default": CHATML}, tokens=tokens)

    def source(self, with_tools: bool) -> str:
        """The source for a conversation with or without tools. Raises ``ChatTemplateError`` where there is none for it."""
        name = "tool_use" if with_tools and "tool_use" in self.sources else "default"
        if name not in self.sources:
            raise ChatTemplateError(f"only {', '.join(map(repr, self.sources))}", where=self.origin, expected="a template called 'default'")
        return self.sources[name]

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        *,
        marks: tuple[str, str] = ("", ""),
        **variables: Any,
    ) -> str:
        """The conversation as text; with ``add_generation_prompt`` it ends where the assistant's answer begins.

        ``tools`` are JSON schemas; ``variables`` are what a family's template knows besides (``enable_thinking`` …); ``marks`` enclose what stands in a
        ``generation`` tag. Raises ``ChatRefused`` where the template refuses the conversation, ``ChatTemplateError`` where it fails or takes too long.
        """
        if not messages:
            raise ChatTemplateError("the conversation has no message", where="messages", expected="at least one")
        values = {
            **self.tokens,
            "messages": [_plain_message(message, k) for k, message in enumerate(messages)],
            "tools": None if tools is None else list(tools),
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            **variables,
        }
        return self.process.render(self.source(bool(tools)), values, marks)


def named_tokens(folder: str | os.PathLike[str]) -> dict[str, str]:
    """The special tokens by their roles (``bos_token`` …): as ``tokenizer_config.json`` and ``special_tokens_map.json`` have them, else as the class does.

    Where both files name one, the second is believed unless the first lists the added tokens, as it does since transformers 4.34.
    """
    folder = Path(folder)
    config, other = _read_config(folder / "tokenizer_config.json"), _read_config(folder / "special_tokens_map.json")
    kind = config.get("tokenizer_class") or _read_config(folder / "config.json").get("model_type")
    own = CLASSES.get(str(kind).lower().removesuffix("fast").removesuffix("tokenizer"), {})
    own = {name: token for name, token in own.items() if name not in config}  # null says that there is none
    return {**own, **(_tokens(other) | _tokens(config) if "added_tokens_decoder" in config else _tokens(config) | _tokens(other))}


def _plain_message(message: Mapping[str, Any], number: int) -> dict[str, Any]:
    """``message`` without the fields that are None, which templates would print, and with its reasoning under the names that they read."""
    if not isinstance(message, Mapping):
        raise ChatTemplateError(f"found {type(message).__name__}", where=f"messages[{number}]", expected="an object with 'role' and 'content'")
    plain = {name: value for name, value in message.items() if value is not None}
    reasoning = next((plain[name] for name in REASONING if name in plain), None)
    return plain if reasoning is None else {"thinking": reasoning, **plain, "reasoning_content": reasoning}


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    if path.stat().st_size > LARGEST_FILE:
        raise ChatTemplateError(f"the file has {path.stat().st_size:,} bytes", where=str(path), expected=f"at most {LARGEST_FILE:,}")
    try:
        found = read_json(path)
    except DataError as error:
        raise ChatTemplateError(error.problem, where=str(path)) from None
    if not isinstance(found, dict):
        raise ChatTemplateError("not an object", where=str(path))
    return found


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > 4 * LARGEST_TEMPLATE:
            raise ChatTemplateError(f"the file has {path.stat().st_size:,} bytes", where=str(path), expected=f"at most {LARGEST_TEMPLATE:,} characters")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ChatTemplateError(f"not readable ({error})", where=str(path), expected="UTF-8") from None


def _tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """The special tokens in a configuration, each written as a string or as an object with ``content``."""
    values = {name: config[name] for name in TOKENS if name in config}
    contents = {name: value.get("content") if isinstance(value, dict) else value for name, value in values.items()}
    return {name: content for name, content in contents.items() if isinstance(content, str)}


def _named(found: Any, where: str) -> dict[str, str]:
    """The sources in ``chat_template``: one string, or a list of objects with ``name`` and ``template``."""
    if isinstance(found, str):
        return {"default": found}
    entries = [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
    sources = {entry.get("name"): entry.get("template") for entry in entries}
    if not sources or len(sources) != len(found) or not all(isinstance(part, str) for pair in sources.items() for part in pair):
        raise ChatTemplateError(f"found {type(found).__name__}", where=where, expected="a string, or a list of objects with 'name' and 'template'")
    return {str(name): str(source) for name, source in sources.items()}
