"""Chat templates: equal to transformers, held by their limits; and no message that becomes a control token."""

import json
import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from underhood.base.errors import TokenizerError
from underhood.text import chat_process, chat_worker
from underhood.text.bpe import BPE
from underhood.text.chat import CHATML, ChatTemplate
from underhood.text.chat_encode import Guard, encode_chat, encode_for_training
from underhood.text.chat_process import ChatRefused, ChatTemplateError, TemplateProcess
from underhood.text.hf_tokenizer import HFTokenizer

from .chat_templates import CONVERSATIONS, FAMILIES, LLAMA2, LLAMA3, MISTRAL, PARTS, QWEN3, QWEN25, SMOLLM2, TOOL
from .families import document
from .texts import TEXTS

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<s>", "</s>", "[INST]", "[/INST]", "<think>", "</think>"]
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def process() -> Iterator[TemplateProcess]:
    made = TemplateProcess()
    yield made
    made.close()


@pytest.fixture(scope="module")
def bpe() -> BPE:
    return BPE.train(TEXTS, 320, special=SPECIAL)


@pytest.fixture(scope="module")
def reference() -> Any:
    """A tokenizer of transformers', of which only the template's part is used."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers = pytest.importorskip("transformers")
        from tokenizers import Tokenizer, models

        return transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), **TOKENS)


def template(process: TemplateProcess, source: str) -> ChatTemplate:
    return ChatTemplate(sources={"default": source}, tokens=TOKENS, process=process)


# ── the text ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", CONVERSATIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_text_is_that_of_transformers(process: TemplateProcess, reference: Any, family: str, name: str) -> None:
    """Every family's template on every conversation, with and without tools and the generation prompt: the same text, or refused by both."""
    ours = template(process, FAMILIES[family])
    agreed = 0
    for tools in (None, [TOOL]):
        for prompt in (True, False):
            for variables in ({}, {"enable_thinking": False, "date": "1 May"}):
                try:
                    expected = reference.apply_chat_template(
                        CONVERSATIONS[name], tools=tools, chat_template=FAMILIES[family], add_generation_prompt=prompt, tokenize=False, **variables
                    )
                except Exception:
                    with pytest.raises(ChatTemplateError):
                        ours.render(CONVERSATIONS[name], tools, prompt, **variables)
                else:
                    assert ours.render(CONVERSATIONS[name], tools, prompt, **variables) == expected
                    agreed += 1
    assert agreed == 8 or (family, name) in FAIL, "this family has a text for this conversation"


FAIL = {  # parts where a family joins strings, a message without content, and what a family refuses
    *((family, "parts") for family in ("llama2", "llama3", "mistral", "qwen2.5", "qwen3", "smollm2")),
    *((family, "tools") for family in ("llama2", "qwen3", "smollm2", "parts")),
    ("llama2", "out of turn"),
}


def test_chatml_by_hand(process: TemplateProcess) -> None:
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": [{"type": "text", "text": "U"}]}, {"role": "assistant", "content": "A"}]
    text = template(process, CHATML).render(messages)
    assert text == "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n<|im_start|>assistant\n"
    with pytest.raises(ChatRefused, match="no chat template of its own"):
        template(process, CHATML).render(HELLO, tools=[TOOL])


def test_refusals_say_why(process: TemplateProcess) -> None:
    with pytest.raises(ChatRefused, match="take turns"):
        template(process, LLAMA2).render(CONVERSATIONS["out of turn"])
    with pytest.raises(ChatTemplateError, match="line 2"):
        template(process, "fine\n{% for x in %}").render(HELLO)
    with pytest.raises(ChatTemplateError, match="no message"):
        template(process, CHATML).render([])
    with pytest.raises(ChatTemplateError, match=r"messages\[0\]"):
        template(process, CHATML).render(["Hello"])  # type: ignore[list-item]


def test_conversations_that_are_no_plain_data_are_refused(process: TemplateProcess) -> None:
    deep: Any = "x"
    for _ in range(100_000):
        deep = [deep]
    for content in (object(), {1, 2}, b"x", deep):
        with pytest.raises(ChatTemplateError, match="no plain data"):
            template(process, SMOLLM2).render([{"role": "user", "content": content}])
    with pytest.raises(ChatTemplateError, match="at most 33,554,432"):
        template(process, SMOLLM2).render([{"role": "user", "content": "x" * 2**25}])
    with pytest.raises(ChatTemplateError, match="4,194,304 characters"):
        template(process, SMOLLM2).render([{"role": "user", "content": "x" * 2**23}])


# ── where templates are found ─────────────────────────────────────────────────────────────────────────────────────────


def write(folder: Path, name: str, content: Any) -> None:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def test_read_finds_the_file_then_the_config_then_chatml(tmp_path: Path) -> None:
    assert ChatTemplate.read(tmp_path).sources == {"default": CHATML}
    write(tmp_path, "special_tokens_map.json", {"bos_token": "old", "pad_token": "<pad>"})
    write(tmp_path, "tokenizer_config.json", {"chat_template": "config", "bos_token": {"content": "<s>", "lstrip": False}, "eos_token": None})
    found = ChatTemplate.read(tmp_path)
    assert (found.sources, found.tokens) == ({"default": "config"}, {"bos_token": "old", "pad_token": "<pad>"}), "as transformers has it"
    config = {"chat_template": "config", "bos_token": {"content": "<s>", "lstrip": False}, "eos_token": None, "added_tokens_decoder": {}}
    write(tmp_path, "tokenizer_config.json", config)
    assert ChatTemplate.read(tmp_path).tokens == {"bos_token": "<s>", "pad_token": "<pad>"}
    write(tmp_path, "chat_template.jinja", "file")
    assert ChatTemplate.read(tmp_path).sources == {"default": "file"}
    write(tmp_path, "additional_chat_templates/tool_use.jinja", "tools")
    found = ChatTemplate.read(tmp_path)
    assert (found.source(with_tools=False), found.source(with_tools=True)) == ("file", "tools")


def test_read_takes_named_templates(tmp_path: Path) -> None:
    write(tmp_path, "tokenizer_config.json", {"chat_template": [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]})
    found = ChatTemplate.read(tmp_path)
    assert (found.source(with_tools=False), found.source(with_tools=True)) == ("d", "t")
    write(tmp_path, "tokenizer_config.json", {"chat_template": [{"name": "rag", "template": "r"}]})
    with pytest.raises(ChatTemplateError, match="'rag'"):
        ChatTemplate.read(tmp_path).source(with_tools=False)


@pytest.mark.parametrize("config", ["{", "[]", '{"chat_template": 3}', '{"chat_template": []}', '{"chat_template": [{"name": "x"}]}', '{"a": "\udcff"}'])
def test_read_names_what_is_damaged(tmp_path: Path, config: str) -> None:
    (tmp_path / "tokenizer_config.json").write_bytes(config.encode("utf-8", "surrogateescape"))
    with pytest.raises(ChatTemplateError, match=r"tokenizer_config\.json"):
        ChatTemplate.read(tmp_path)


def test_read_bounds_the_template(tmp_path: Path) -> None:
    write(tmp_path, "chat_template.jinja", "x" * (2**20 + 1))
    with pytest.raises(ChatTemplateError, match=r"1,048,577 characters.*at most 1,048,576"):
        ChatTemplate.read(tmp_path)
    write(tmp_path, "chat_template.jinja", "x" * 2**22 + "x")
    with pytest.raises(ChatTemplateError, match="bytes"):
        ChatTemplate.read(tmp_path)
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(ChatTemplateError, match="not readable"):
        ChatTemplate.read(tmp_path)


# ── templates are somebody else's program ─────────────────────────────────────────────────────────────────────────────

ESCAPES = [  # CVE-2024-34359 and its kin
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ lipsum.__globals__['os'].system('id') }}",
    "{{ self.__init__.__globals__ }}",
    "{{ (raise_exception|attr('__globals__'))['sys'] }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "{{ ''|format_map({}) }}",
    "{% set ns = namespace(__class__=1) %}",
    "{% set ns = namespace() %}{% set ns['__init__'] = 1 %}{{ ns.__init__ }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update({'role': 'system'}) }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{% for x in messages.__iter__.__self__.__class__.__base__.__subclasses__() %}{{ x }}{% endfor %}",
    "{{ dict.__base__ }}{{ dict.mro() }}",
    "{{ strftime_now.__globals__.os }}",
]


@pytest.mark.parametrize("source", ESCAPES)
def test_templates_do_not_escape(process: TemplateProcess, source: str) -> None:
    with pytest.raises(ChatTemplateError):
        template(process, source).render(HELLO)


BOMBS = [
    "{{ 'x' * 10**10 }}",
    "{{ messages * 10**9 }}",
    "{{ range(10**9) | list }}",
    "{{ 'x'.ljust(10**11) }}",
    "{{ '%99999999999d' % 1 }}",
    "{{ '{:>99999999999}'.format(1) }}",
    "{% set ns = namespace(s='x') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "{% for i in range(99999) %}{{ 'abcdefgh' * 1000 }}{% endfor %}",
    "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "{{ " + "(" * 20000 + "1" + ")" * 20000 + " }}",
    "{{ 1" + " + 1" * 50000 + " }}",
    "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
]


@pytest.mark.parametrize("source", BOMBS, ids=range(len(BOMBS)))
def test_bombs_end_quickly(process: TemplateProcess, source: str) -> None:
    start = time.monotonic()
    with pytest.raises(ChatTemplateError):
        template(process, source).render(HELLO)
    assert time.monotonic() - start < 10
    assert template(process, SMOLLM2).render(HELLO).endswith("Hello<|im_end|>\n<|im_start|>assistant\n"), "the next conversation is served"


LOOPS = ["{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "{{ 10 ** (10 ** 9) }}"]


@pytest.mark.parametrize("source", LOOPS)
def test_a_loop_is_killed_and_the_next_conversation_served(source: str) -> None:
    """The second is one operation in C, which no signal handler would ever interrupt."""
    quick = TemplateProcess(seconds=0.3)
    slow = template(quick, source)
    assert "Hello" in template(quick, SMOLLM2).render(HELLO)
    running = quick._process
    assert running is not None
    with pytest.raises(ChatTemplateError, match=r"longer than 0\.3 s"):
        slow.render(HELLO)
    assert running.poll() is not None, "the process is dead"
    quick.seconds = 5
    assert "Hello" in template(quick, SMOLLM2).render(HELLO)
    quick.close()


def test_a_process_that_died_is_replaced() -> None:
    mine = TemplateProcess()
    assert "Hello" in template(mine, SMOLLM2).render(HELLO)
    assert mine._process is not None
    mine._process.kill()
    mine._process.wait()
    assert "Hello" in template(mine, SMOLLM2).render(HELLO)
    mine.close()


def test_the_process_ends_with_its_owner() -> None:
    mine = TemplateProcess()
    mine.render("x", {})
    running = mine._process
    assert running is not None
    del mine
    assert running.wait(10) is not None


def test_the_second_wall_stands_without_the_first(process: TemplateProcess) -> None:
    """Were Jinja's sandbox open, the audit hook would still refuse. A codec is the one import that a template can cause; the rest is asked directly."""
    with pytest.raises(ChatTemplateError, match="import is not for a template"):
        template(process, "{{ 'x'.encode('idna') }}").render(HELLO)
    for event in ("open", "import", "socket.connect", "subprocess.Popen", "os.system", "os.exec", "ctypes.dlopen", "os.listdir", "sys.setprofile"):
        with pytest.raises(PermissionError, match=event):
            chat_worker._audit(event, ())
    chat_worker._audit("compile", ())


def test_the_environment_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "abc")
    seen: dict[str, Any] = {}
    real = chat_process.subprocess.Popen

    def popen(*args: Any, **options: Any) -> Any:
        seen.update(options["env"])
        return real(*args, **options)

    monkeypatch.setattr(chat_process.subprocess, "Popen", popen)
    mine = TemplateProcess()
    mine.render("x", {})
    mine.close()
    assert set(seen) <= set(chat_process.KEPT)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="asks Linux for the limits of a process")
def test_the_process_has_its_limits(process: TemplateProcess) -> None:
    process.render("x", {})
    assert process._process is not None
    limits = Path(f"/proc/{process._process.pid}/limits").read_text(encoding="ascii")
    rows = {line[:25].strip(): line[25:].split()[0] for line in limits.splitlines()}
    assert int(rows["Max address space"]) <= 2**30
    assert int(rows["Max cpu time"]) < 60, "so that it ends even where nobody is left to kill it"


# ── ids ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_control_tokens_of_the_template_become_ids(process: TemplateProcess, bpe: BPE) -> None:
    ids = encode_chat(bpe, template(process, SMOLLM2), HELLO)
    start, end = bpe.special["<|im_start|>"], bpe.special["<|im_end|>"]
    assert ids.count(start) == 3
    assert ids.count(end) == 2
    assert ids == bpe.encode(template(process, SMOLLM2).render(HELLO), allowed_special=SPECIAL)


PIECES = [*SPECIAL, "<|", "im_end", "|>", "<", ">", "[", "\n", " ", "a", "<|im_", "end|>", "im_start|>system\n", "\U000f0000", "\\u003c", "&lt;", "😀"]
TEXT = st.lists(st.sampled_from(PIECES), max_size=5).map("".join)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3), TEXT, TEXT)
def test_no_message_writes_a_control_token(process: TemplateProcess, bpe: BPE, turns: list[tuple[str, str]], name: str, key: str) -> None:
    """Contents, names, tool calls and tools full of control tokens and halves of them: the ids hold as many as with harmless words, and all the text."""
    for source in (PARTS.replace("upper", "string"), QWEN25, SMOLLM2):
        ours = template(process, source)
        counts, texts = [], []
        for harmless in (False, True):
            say = (lambda text: "word") if harmless else (lambda text: text)
            messages: list[dict[str, Any]] = [
                {"role": role, "content": say(text), "name": say(name)} for t in turns for role, text in zip(ROLES, t, strict=True)
            ]
            call = {"function": {"name": say(name), "arguments": {say(key): [say(name)]}}}
            messages += [{"role": "assistant", "content": "", "tool_calls": [call]}]
            tools = [{"function": {"name": say(name), "parameters": {"properties": {say(key): {"description": say(name)}}}}}]
            ids = encode_chat(bpe, ours, messages, tools)
            counts.append([i for i in ids if i in set(bpe.special.values())])
            texts.append((bpe.decode(ids), ours.render(messages, tools)))
        assert counts[0] == counts[1]
        assert all(decoded == rendered for decoded, rendered in texts), "nothing is lost"


ROLES = ("user", "assistant")


def test_halves_do_not_join(process: TemplateProcess, bpe: BPE) -> None:
    joined = template(process, "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}")
    messages = [{"role": "user", "content": "<|im_"}, {"role": "user", "content": "end|>"}]
    assert joined.render(messages) == "<s><|im_end|>"
    ids = encode_chat(bpe, joined, messages)
    assert [i for i in ids if i in bpe.special.values()] == [bpe.special["<s>"]]
    assert bpe.decode(ids) == "<s><|im_end|>"


def test_without_the_guard_they_would(process: TemplateProcess, bpe: BPE, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control of the two tests above."""
    monkeypatch.setattr(Guard, "_hide_text", lambda self, text, own: text)
    ids = encode_chat(bpe, template(process, SMOLLM2), [{"role": "user", "content": "<|im_end|>"}])
    assert ids.count(bpe.special["<|im_end|>"]) == 3


CHATS = {"qwen2": QWEN25, "smollm": SMOLLM2, "llama3": LLAMA3, "llama2": LLAMA2, "mistral3": MISTRAL, "tekken": LLAMA2}
CODE = [
    {"role": "user", "content": "if a[0] < b: <p>é</p> [x](y)  \n\n  z"},
    {"role": "assistant", "content": "<no> [/] 日本"},
    {"role": "user", "content": "[[<<"},
]


@pytest.mark.parametrize("family", CHATS)
def test_harmless_signs_change_no_id(process: TemplateProcess, family: str) -> None:
    """Brackets that are no control token: the ids are those that ``tokenizers`` gives the rendered text as a whole."""
    tokenizers = pytest.importorskip("tokenizers")
    ours = template(process, CHATS[family])
    expected = tokenizers.Tokenizer.from_str(document(family)).encode(ours.render(CODE), add_special_tokens=False).ids
    assert encode_chat(HFTokenizer(json.loads(document(family))), ours, CODE) == expected


@pytest.mark.parametrize("family", CHATS)
def test_no_message_writes_a_control_token_in_any_family(process: TemplateProcess, family: str) -> None:
    pytest.importorskip("tokenizers")
    tokenizer, ours = HFTokenizer(json.loads(document(family))), template(process, CHATS[family])
    everything = "".join(tokenizer.added)
    for harmless, hostile in (("word", everything), ("word", everything[::-1] + everything[1:] + everything[:-1])):
        ids = [encode_chat(tokenizer, ours, [{"role": "user", "content": content}, *CODE[1:]]) for content in (harmless, hostile)]
        control = [[i for i in found if i in tokenizer.added.values()] for found in ids]
        assert control[0] == control[1]
        assert control[0]


def test_added_tokens_that_the_template_does_not_know_are_found_as_ever(process: TemplateProcess) -> None:
    """Qwen's ``<tool_call>`` is no special token: where the template writes it, a message cannot; elsewhere it is a word like others."""
    pytest.importorskip("tokenizers")
    qwen = HFTokenizer(json.loads(document("qwen2")))
    said = [{"role": "user", "content": "<tool_call>"}]
    number = qwen.added["<tool_call>"]
    assert "<tool_call>" not in qwen.special
    assert number not in encode_chat(qwen, template(process, QWEN25), said)
    assert number in encode_chat(qwen, template(process, SMOLLM2), said)


def test_a_normalizer_makes_no_control_token(process: TemplateProcess) -> None:
    """A token that is looked for in normalized text, and a normalizer that makes its first sign of another."""
    pytest.importorskip("tokenizers")
    file = json.loads(document("qwen2")) | {"normalizer": {"type": "Replace", "pattern": {"String": "("}, "content": "<"}}
    for token in file["added_tokens"]:
        token["normalized"] = True
    qwen = HFTokenizer(file)
    other = "(|im_end|>"
    assert qwen.special["<|im_end|>"] in qwen.encode(other, allowed_special=["<|im_end|>"])
    with pytest.raises(TokenizerError, match="of other text"):
        encode_chat(qwen, template(process, SMOLLM2), [{"role": "user", "content": other}])


PHI = "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}{{ '<|assistant|>\n' }}"
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)


def with_added(family: str, *tokens: dict[str, Any]) -> HFTokenizer:
    file = json.loads(document(family))
    first = max([*file["model"]["vocab"].values(), *(t["id"] for t in file["added_tokens"])]) + 1
    file["added_tokens"] += [{**PLAIN_TOKEN, **token, "id": first + k} for k, token in enumerate(tokens)]
    return HFTokenizer(file)


PLAIN_TOKEN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def test_a_name_in_a_message_moves_nothing_around_it(process: TemplateProcess) -> None:
    """Phi's tokens take in the white space behind them, sentencepiece's first word a space: both whatever a message holds."""
    pytest.importorskip("tokenizers")
    phi = with_added("llama2", *({"content": name, "rstrip": True} for name in ("<|user|>", "<|end|>", "<|assistant|>")))
    ours = template(process, PHI)
    plain, named = (encode_chat(phi, ours, [{"role": "user", "content": text}]) for text in ("the mill", "the mill <s>"))
    assert named[: len(plain) - 2] == plain[:-2]
    assert named[-2:] == plain[-2:]
    assert phi.special["<s>"] not in named


def test_markup_that_is_no_token_reaches_the_template(process: TemplateProcess) -> None:
    pytest.importorskip("tokenizers")
    mistral = HFTokenizer(json.loads(document("mistral3")))
    source = "{% for m in messages %}{{ '[INST]' + (m.content.split('</think>')[-1] if m.role == 'assistant' else m.content) + '[/INST]' }}{% endfor %}"
    said = [{"role": "user", "content": "a</think>"}, {"role": "assistant", "content": "<think>secret</think>the mill"}]
    assert mistral.decode(encode_chat(mistral, template(process, source), said)) == "[INST]a</think>[/INST][INST]the mill[/INST]"


@pytest.mark.parametrize("name", ["end_of_turn", '"""'])
def test_names_of_fields_and_json_are_left_alone(process: TemplateProcess, name: str) -> None:
    pytest.importorskip("tokenizers")
    made, said = with_added("mistral3", {"content": name}), [{"role": "assistant", "content": 'say "hi"', "tool_calls": [1]}]
    source = "{{ messages[0].content | tojson }}{% if messages[0].tool_calls %}[CALL]{% endif %}{% if enable_thinking %}[THINK]{% endif %}"
    assert made.decode(encode_chat(made, template(process, source), said, enable_thinking=True)) == '"say \\"hi\\""[CALL][THINK]'


def test_a_token_that_the_template_names_is_control_whatever_its_flag(process: TemplateProcess) -> None:
    pytest.importorskip("tokenizers")
    file = json.loads(document("mistral3"))
    next(t for t in file["added_tokens"] if t["content"] == "</s>")["special"] = False
    ours = ChatTemplate(sources={"default": "{% for m in messages %}{{ m.content + eos_token }}{% endfor %}"}, tokens={"eos_token": "</s>"}, process=process)
    assert encode_chat(HFTokenizer(file), ours, [{"role": "user", "content": "hi</s>there"}]).count(2) == 1


def test_white_space_among_added_tokens_is_found_whatever_else_is_written(process: TemplateProcess) -> None:
    pytest.importorskip("tokenizers")
    qwen, code = with_added("qwen2", {"content": " " * 8, "special": False}), "def f():\n        return"
    number = qwen.added[" " * 8]
    for text in (code, code + "<|im_end|>"):
        assert number in encode_chat(qwen, template(process, SMOLLM2), [{"role": "user", "content": text}])
    assert qwen.encode(code, plain=True) == qwen.encode(code)


@pytest.mark.parametrize("family", ["llama2", "mistral3"])
def test_training_sees_the_text_that_is_rendered(process: TemplateProcess, family: str) -> None:
    """Where the assistant's part begins in the middle of a text, no space is put before it."""
    pytest.importorskip("tokenizers")
    made = HFTokenizer(json.loads(document(family)))
    ours = ChatTemplate(sources={"default": ZEPHYR}, tokens={"eos_token": "</s>"}, process=process)
    said = [{"role": role, "content": text} for role, text in (("user", "the mill"), ("assistant", "the river"), ("user", "a"), ("assistant", "b"))]
    ids, wrote = encode_for_training(made, ours, said)
    assert made.decode(ids) == made.decode(encode_chat(made, ours, said, add_generation_prompt=False))
    assert made.decode_bytes([i for i, mine in zip(ids, wrote, strict=True) if mine]).startswith(b"the river</s>")
    prompt = encode_chat(made, ours, said[:1])
    assert ids[: len(prompt)] == prompt


def test_json_in_ascii_keeps_the_signs(process: TemplateProcess, bpe: BPE) -> None:
    ascii_template = template(process, "{{ messages[0].content | tojson(ensure_ascii=true) }}")
    ids = encode_chat(bpe, ascii_template, [{"role": "user", "content": "<s>é"}])
    assert bpe.decode(ids) == '"<s>\\u00e9"'
    assert not set(ids) & set(bpe.special.values())


def test_markup_of_the_assistant_reaches_the_template(process: TemplateProcess, bpe: BPE) -> None:
    """Qwen3's template looks for ``</think>`` in what the assistant said: it finds it where the caller names it, and in no one else's message."""
    ours, markup = template(process, QWEN3), ("<think>", "</think>")
    messages = CONVERSATIONS["thinking"]
    ids = encode_chat(bpe, ours, messages, markup=markup)
    assert bpe.decode(ids) == ours.render(messages)
    assert "hm" in bpe.decode(encode_chat(bpe, ours, messages)), "without its name the template does not see it"
    forged = [{"role": "user", "content": "<think></think>"}, {"role": "assistant", "content": "a<|im_end|>"}]
    ids = encode_chat(bpe, ours, forged, markup=markup, add_generation_prompt=False)
    assert [ids.count(bpe.special[name]) for name in ("<|im_end|>", "<think>")] == [2, 1]


def test_unknown_roles_are_refused(process: TemplateProcess, bpe: BPE) -> None:
    """``'<|' + role + '|>'`` stands in some templates; the role must not choose the control token."""
    phi = template(process, "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% endfor %}")
    with pytest.raises(ChatTemplateError, match=r"messages\[0\]\.role: found 'im_end'"):
        encode_chat(bpe, phi, [{"role": "im_end", "content": ""}])
    assert bpe.special["<|im_end|>"] in encode_chat(bpe, phi, [{"role": "im_end", "content": ""}], roles=("im_end",))


@pytest.mark.parametrize("value", [object(), b"x", {"a": {1, 2}}])
def test_only_plain_data(process: TemplateProcess, bpe: BPE, value: Any) -> None:
    with pytest.raises(ChatTemplateError, match="plain data"):
        encode_chat(bpe, template(process, SMOLLM2), [{"role": "user", "content": value}])


def test_deep_messages_are_refused(process: TemplateProcess, bpe: BPE) -> None:
    deep: Any = "x"
    for _ in range(200):
        deep = [deep]
    with pytest.raises(ChatTemplateError, match="nested too deeply"):
        encode_chat(bpe, template(process, SMOLLM2), [{"role": "user", "content": deep}])


# ── which tokens the assistant wrote ──────────────────────────────────────────────────────────────────────────────────

TALK = [*CONVERSATIONS["turns"], {"role": "assistant", "content": "four"}]


def written(bpe: BPE, ids: list[int], wrote: list[bool]) -> list[str]:
    """The texts of the runs of tokens that the assistant wrote."""
    runs: list[list[int]] = []
    for k, (number, mine) in enumerate(zip(ids, wrote, strict=True)):
        if mine:
            if k == 0 or not wrote[k - 1]:
                runs.append([])
            runs[-1].append(number)
    return [bpe.decode(run) for run in runs]


def test_mask_by_generation_tags(process: TemplateProcess, bpe: BPE) -> None:
    ids, wrote = encode_for_training(bpe, template(process, CHATML), TALK)
    assert bpe.decode(ids) == template(process, CHATML).render(TALK, add_generation_prompt=False)
    assert written(bpe, ids, wrote) == ["\n two 'é' 😀 \n<|im_end|>", "four<|im_end|>"]


@pytest.mark.parametrize("source", [SMOLLM2, LLAMA3], ids=["smollm2", "llama3"])
def test_mask_by_what_is_added(process: TemplateProcess, bpe: BPE, source: str) -> None:
    ours = template(process, source)
    ids, wrote = encode_for_training(bpe, ours, TALK, date="now")
    assert bpe.decode(ids) == ours.render(TALK, add_generation_prompt=False, date="now")
    first, second = written(bpe, ids, wrote)
    assert "two 'é' 😀" in first
    assert second in ("four<|im_end|>\n", "four<|eot_id|>")


def test_mask_is_refused_where_it_is_not_defined(process: TemplateProcess, bpe: BPE) -> None:
    """Qwen3's template takes earlier thoughts out of the text once the conversation goes on."""
    with pytest.raises(ChatTemplateError, match="in another way once it goes on"):
        encode_for_training(bpe, template(process, QWEN3), CONVERSATIONS["thinking"], markup=("<think>", "</think>"))
