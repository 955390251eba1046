"""Small tokenizers of the shape that each family publishes: trained by ``tokenizers`` on our texts, written as the family's ``tokenizer.json``."""

import functools
import random
from collections.abc import Sequence
from typing import Any

from underhood.text.alphabet import CHAR_OF_BYTE
from underhood.text.pretokenize import GPT2_AS_RELEASED, LLAMA3, O200K, QWEN2, TEKKEN

from .texts import TEXTS, random_text

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
NO_REGEX = {**BYTE_LEVEL, "use_regex": False}
SPACE_TO_MARK = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
MARK_TO_SPACE = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
PLAIN_END = [{"type": "ByteFallback"}, {"type": "Fuse"}]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
Document = dict[str, Any]


def corpus() -> list[str]:
    rng = random.Random(11)
    return [*TEXTS, *TEXTS, *(random_text(rng, 150) for _ in range(10)), "    deep\n        deeper\n", "aaaa aaa aa a" * 4]


def isolated(pattern: str) -> Document:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def sequence(name: str, *parts: Document) -> Document:
    return {"type": "Sequence", name: list(parts)}


def learn(pre_tokenizer: Document | None, normalizer: Document | None, alphabet: Sequence[str], size: int) -> tuple[list[str], list[list[str]]]:
    """Tokens and merges as ``tokenizers`` learns them from the corpus with these parts."""
    import json

    import tokenizers

    model = {"type": "BPE", "vocab": {}, "merges": []}
    made = tokenizers.Tokenizer.from_str(json.dumps({**empty(), "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "model": model}))
    made.train_from_iterator(corpus(), tokenizers.trainers.BpeTrainer(vocab_size=size, initial_alphabet=list(alphabet), show_progress=False))
    learned = json.loads(made.to_str())["model"]
    return sorted(learned["vocab"], key=lambda token: int(learned["vocab"][token])), learned["merges"]


def every_split(tokens: Sequence[str], known: set[str]) -> list[list[str]]:
    """Each way in which each token is made of two others, as files converted from sentencepiece and tiktoken list their merges."""
    return [[token[:k], token[k:]] for token in tokens for k in range(1, len(token)) if token[:k] in known and token[k:] in known]


def empty() -> Document:
    names = ("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder")
    return {"version": "1.0", **dict.fromkeys(names), "added_tokens": []}


def added(number: int, content: str, **flags: bool) -> Document:
    return {"id": number, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True, **flags}


def before(name: str, number: int) -> Document:
    """A template that puts one token before the text."""
    special = {"id": name, "type_id": 0}
    single: list[Document] = [{"SpecialToken": special}, {"Sequence": {"id": "A", "type_id": 0}}]
    pair = [*single, {"SpecialToken": {**special, "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}]
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": {name: {"id": name, "ids": [number], "tokens": [name]}}}


def model(vocab: dict[str, int], merges: list[Any], **fields: Any) -> Document:
    nothing = {"dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None}
    flags = {"fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
    return {"type": "BPE", **nothing, **flags, **fields, "vocab": vocab, "merges": merges}


def gpt2() -> Document:
    tokens, merges = learn(BYTE_LEVEL, None, CHAR_OF_BYTE, 600)
    vocab = {token: k for k, token in enumerate([*tokens, "<|endoftext|>"])}
    merged = [" ".join(pair) for pair in merges]
    parts = {"pre_tokenizer": BYTE_LEVEL, "post_processor": BYTE_LEVEL, "decoder": {**BYTE_LEVEL, "add_prefix_space": True}}
    prefix = {"continuing_subword_prefix": "", "end_of_word_suffix": ""}
    return {**empty(), **parts, "added_tokens": [added(600, "<|endoftext|>", normalized=True)], "model": model(vocab, merged, **prefix)}


def gpt2_with_prefix() -> Document:
    """As RoBERTa's kin: a space before every text, a mask that takes the space before it, a token that must stand alone, and one found anywhere."""
    base = gpt2()
    spaced = {**BYTE_LEVEL, "add_prefix_space": True}
    flags = [{"lstrip": True}, {"single_word": True, "special": False}, {"rstrip": True, "special": False, "normalized": True}, {"special": False}]
    more = [added(601 + k, name, **flag) for k, (name, flag) in enumerate(zip(["<mask>", "mill", "<r>", "  "], flags, strict=True))]
    return {**base, "pre_tokenizer": spaced, "post_processor": spaced, "added_tokens": [*base["added_tokens"], *more]}


def llama3() -> Document:
    """Every split of every token is a merge, and two tokens that no merge reaches are found whole."""
    pre = sequence("pretokenizers", isolated(LLAMA3), NO_REGEX)
    tokens, _ = learn(pre, None, CHAR_OF_BYTE, 700)
    merges = every_split(tokens, set(tokens))
    vocab = {token: k for k, token in enumerate([*tokens, "Ġunreachable", "qqq"])}
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    post = sequence("processors", BYTE_LEVEL, before(names[0], len(vocab)))
    specials = [added(len(vocab) + k, name) for k, name in enumerate(names)]
    parts = {"pre_tokenizer": pre, "post_processor": post, "decoder": BYTE_LEVEL, "added_tokens": specials}
    return {**empty(), **parts, "model": model(vocab, merges, ignore_merges=True)}


def qwen2() -> Document:
    pre = sequence("pretokenizers", isolated(QWEN2), NO_REGEX)
    tokens, merges = learn(pre, {"type": "NFC"}, CHAR_OF_BYTE, 650)
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>"]
    extra = [added(650 + k, name, special=name[1] == "|") for k, name in enumerate(names)]
    parts = {"normalizer": {"type": "NFC"}, "pre_tokenizer": pre, "post_processor": NO_REGEX, "decoder": NO_REGEX, "added_tokens": extra}
    vocab = {token: k for k, token in enumerate(tokens)}
    return {**empty(), **parts, "model": model(vocab, [" ".join(pair) for pair in merges], unk_token=None)}


def smollm() -> Document:
    pre = sequence("pretokenizers", {"type": "Digits", "individual_digits": True}, BYTE_LEVEL)
    tokens, merges = learn(pre, None, CHAR_OF_BYTE, 600)
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocab = {token: k for k, token in enumerate([*names, *tokens])}
    parts = {"pre_tokenizer": pre, "decoder": BYTE_LEVEL, "added_tokens": [added(k, name) for k, name in enumerate(names)]}
    return {**empty(), **parts, "model": model(vocab, merges)}


def tekken() -> Document:
    """Mistral Nemo's: control tokens first, and ids in an order of their own."""
    pre = sequence("pretokenizers", isolated(TEKKEN), NO_REGEX)
    tokens, merges = learn(pre, None, CHAR_OF_BYTE, 600)
    names = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
    shuffled = random.Random(5).sample(tokens, len(tokens))
    vocab = {token: k for k, token in enumerate([*names, *shuffled])}
    parts = {"pre_tokenizer": pre, "post_processor": before("<s>", 1), "decoder": NO_REGEX, "added_tokens": [added(k, n) for k, n in enumerate(names)]}
    return {**empty(), **parts, "model": model(vocab, merges)}


def o200k() -> Document:
    removed = {"type": "Split", "pattern": {"Regex": O200K}, "behavior": "Removed", "invert": True}
    pre = sequence("pretokenizers", removed, NO_REGEX)
    tokens, merges = learn(pre, None, CHAR_OF_BYTE, 600)
    vocab = {token: k for k, token in enumerate(tokens)}
    return {**empty(), "pre_tokenizer": pre, "decoder": BYTE_LEVEL, "added_tokens": [added(600, "<|endoftext|>")], "model": model(vocab, merges)}


def released_pattern() -> Document:
    """GPT-2's pattern written out in a Split instead of implied."""
    pre = sequence("pretokenizers", isolated(GPT2_AS_RELEASED), NO_REGEX)
    return {**gpt2(), "pre_tokenizer": pre}


def _sentencepiece() -> tuple[dict[str, int], list[list[str]], list[Document]]:
    """As transformers converts sentencepiece's BPE: control and byte tokens, merged pieces in their order, single characters last."""
    whole = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}
    learned, _ = learn(whole, None, [], 500)
    runs = ["▁" * n for n in (2, 4, 8, 16, 3, 5, 6, 7)]  # Llama 2 has runs of spaces, in an order of its own
    pieces = [*runs, *(token for token in learned if len(token) > 1)]
    characters = sorted({"▁", *(token for token in learned if len(token) == 1 and token < "\u3000" and token != "q")})
    control = ["<unk>", "<s>", "</s>"]
    vocab = {token: k for k, token in enumerate(dict.fromkeys([*control, *BYTES, *pieces, *characters]))}
    merges = every_split(list(vocab)[3 + 256 :], set(vocab) - set(control) - set(BYTES))
    return vocab, merges, [added(k, name) for k, name in enumerate(control)]


def llama2() -> Document:
    vocab, merges, control = _sentencepiece()
    normalizer = sequence("normalizers", {"type": "Prepend", "prepend": "▁"}, SPACE_TO_MARK)
    decoder = sequence("decoders", MARK_TO_SPACE, *PLAIN_END, {"type": "Strip", "content": " ", "start": 1, "stop": 0})
    parts = {"normalizer": normalizer, "decoder": decoder, "post_processor": before("<s>", 1), "added_tokens": control}
    fields = {"unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}
    return {**empty(), **parts, "model": model(vocab, [" ".join(pair) for pair in merges], **fields)}


def mistral3() -> Document:
    """Version 3's: the space is put before the first text alone, and control tokens stand in the vocabulary."""
    vocab, merges, control = _sentencepiece()
    names = ["[INST]", "[/INST]", "[TOOL_CALLS]"]
    vocab |= {name: len(vocab) + k for k, name in enumerate(names)}
    base = llama2()
    parts = {"normalizer": None, "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}}
    more = [added(vocab[name], name) for name in names]
    return {**base, **parts, "added_tokens": [*control, *more], "model": {**base["model"], "vocab": vocab, "merges": merges}}


def gemma() -> Document:
    """Spaces become marks and nothing is put before the text; tokens found anywhere are runs of line ends."""
    base = llama2()
    vocab = base["model"]["vocab"]
    runs = [added(vocab.get(name, len(vocab) + k), name, special=False) for k, name in enumerate(["\n" * 7, "\n" * 8, "\n\n"])]
    return {**base, "normalizer": SPACE_TO_MARK, "decoder": sequence("decoders", MARK_TO_SPACE, *PLAIN_END), "added_tokens": [*base["added_tokens"], *runs]}


def metaspace() -> Document:
    """Words apart, unknown characters fused to one token, and the decoder called Metaspace."""
    vocab, merges, control = _sentencepiece()
    vocab = {token: number for token, number in vocab.items() if token not in BYTES}
    space = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    parts = {"pre_tokenizer": space, "decoder": space, "added_tokens": control}
    return {**empty(), **parts, "model": model(vocab, merges, unk_token="<unk>", fuse_unk=True)}


def unfused() -> Document:
    base = metaspace()
    space = {**base["pre_tokenizer"], "prepend_scheme": "never", "split": False}
    return {**base, "pre_tokenizer": space, "decoder": space, "model": {**base["model"], "fuse_unk": False}}


BYTE_FAMILIES = {
    "gpt2": gpt2, "gpt2_with_prefix": gpt2_with_prefix, "released_pattern": released_pattern, "llama3": llama3, "qwen2": qwen2, "smollm": smollm,
    "tekken": tekken, "o200k": o200k,
}  # fmt: skip
PIECE_FAMILIES = {"llama2": llama2, "mistral3": mistral3, "gemma": gemma, "metaspace": metaspace, "unfused": unfused}
FAMILIES = BYTE_FAMILIES | PIECE_FAMILIES


@functools.cache
def document(name: str) -> str:
    """The family's file."""
    import json

    return json.dumps(FAMILIES[name]())
