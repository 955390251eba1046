"""What the tokenizer costs and what it saves, on this machine and on generated stories."""

import time
from typing import Any

from underhood.data.tales import generate
from underhood.lab.timing import best_of
from underhood.text.bpe_fast import FastBPE
from underhood.text.split import split

SECONDS = 5  # about, on one thread
SENTENCES = {  # the same sentence, written for this page
    "english": "The cat sleeps under the old table, and nobody wants to wake it.",
    "german": "Die Katze schläft unter dem alten Tisch, und niemand will sie wecken.",
    "russian": "Кошка спит под старым столом, и никто не хочет её будить.",
    "hindi": "बिल्ली पुरानी मेज़ के नीचे सोती है, और कोई उसे जगाना नहीं चाहता।",
    "chinese": "猫在旧桌子下面睡觉，没有人想叫醒它。",
    "python": "for cat in cats:\n    if cat.asleep and not cat.under(table):\n        wake(cat)\n",
}
STORIES, HELD_OUT, VOCAB = 3000, 300, 1024


def measure() -> dict[str, Any]:
    """Bytes per token, by language and code too, and the speed of training and encoding beside splitting alone by the regular expression (one thread)."""
    texts = [story.text for story in generate(STORIES, 0)]
    held_out = "\n".join(story.text for story in generate(HELD_OUT, 1))
    start = time.perf_counter()
    tokenizer = FastBPE.train(texts, VOCAB, "gpt4")
    train_seconds = time.perf_counter() - start
    ids, megabytes = tokenizer.encode(held_out), len(held_out.encode()) / 1e6
    return {
        "vocabulary": VOCAB,
        "bytes_per_token": len(held_out.encode()) / len(ids),
        "train_mb_per_s": sum(len(text.encode()) for text in texts) / 1e6 / train_seconds,
        "encode_mb_per_s": megabytes / best_of(lambda: tokenizer.encode(held_out)),
        "split_alone_mb_per_s": megabytes / best_of(lambda: split(held_out, "gpt4")),
        "decode_mb_per_s": megabytes / best_of(lambda: tokenizer.decode(ids)),
        **{language: _fertility(tokenizer, sentence) for language, sentence in SENTENCES.items()},
    }


def _fertility(tokenizer: FastBPE, sentence: str) -> dict[str, float]:
    """How many tokens a sentence takes; Chinese writes no spaces, so that its sentence is one word here."""
    tokens = len(tokenizer.encode(sentence))
    return {"tokens": tokens, "bytes_per_token": len(sentence.encode()) / tokens, "tokens_per_word": tokens / len(sentence.split())}
