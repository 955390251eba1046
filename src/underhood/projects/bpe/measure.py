"""What the tokenizer costs and what it saves, on this machine and on generated stories."""

import time
from collections.abc import Callable

from underhood.data.tales import generate
from underhood.text.bpe_fast import FastBPE
from underhood.text.split import split

SENTENCES = {  # the same sentence, written for this page
    "English": "The cat sleeps under the old table, and nobody wants to wake it.",
    "German": "Die Katze schläft unter dem alten Tisch, und niemand will sie wecken.",
    "Russian": "Кошка спит под старым столом, и никто не хочет её будить.",
    "Hindi": "बिल्ली पुरानी मेज़ के नीचे सोती है, और कोई उसे जगाना नहीं चाहता।",
    "Chinese": "猫在旧桌子下面睡觉，没有人想叫醒它。",
    "Python": "for cat in cats:\n    if cat.asleep and not cat.under(table):\n        wake(cat)\n",
}
STORIES, HELD_OUT, VOCAB = 3000, 300, 1024


def figure(value: float, unit: str, limit: float | None = None, limit_is: str = "") -> dict[str, float | str | None]:
    """A measured number, its unit, and where there is one the limit beside which it stands."""
    return {"value": value, "unit": unit, "limit": limit, "limit_is": limit_is}


def measure() -> dict[str, dict[str, float | str | None]]:
    """Bytes per token, fertility by language and code, and the speed of training and encoding beside splitting alone (one thread)."""
    texts = [story.text for story in generate(STORIES, 0)]
    held_out = "\n".join(story.text for story in generate(HELD_OUT, 1))
    start = time.perf_counter()
    tokenizer = FastBPE.train(texts, VOCAB, "gpt4")
    train_seconds = time.perf_counter() - start
    ids = tokenizer.encode(held_out)
    megabytes, seconds = len(held_out.encode()) / 1e6, _best(lambda: tokenizer.encode(held_out))
    split_rate = megabytes / _best(lambda: split(held_out, "gpt4"))
    figures = {
        "bytes_per_token": figure(len(held_out.encode()) / len(ids), "bytes/token"),
        "train_speed": figure(sum(len(text.encode()) for text in texts) / 1e6 / train_seconds, "MB/s", split_rate, "splitting alone by the regular expression"),
        "encode_speed": figure(megabytes / seconds, "MB/s", split_rate, "splitting alone by the regular expression"),
        "decode_speed": figure(megabytes / _best(lambda: tokenizer.decode(ids)), "MB/s"),
    }
    for language, sentence in SENTENCES.items():
        tokens = len(tokenizer.encode(sentence))
        figures[f"bytes_per_token_{language.lower()}"] = figure(len(sentence.encode()) / tokens, "bytes/token")
        figures[f"fertility_{language.lower()}"] = figure(tokens / len(sentence.split()), "tokens/word")
    return figures


def _best(call: Callable[[], object], times: int = 3) -> float:
    """The shortest of a few runs, in seconds."""
    best = float("inf")
    for _ in range(times):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best
