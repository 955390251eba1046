"""Documents as one row of token ids: each between end marks, so that a model learns where a text begins and ends."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from underhood.text.special import END_OF_TEXT
from underhood.text.tokenizer import Tokenizer


def end_id(tokenizer: Tokenizer) -> int | None:
    """The id of the end mark: ``<|endoftext|>`` where the tokenizer has it, else the new line; None where it has neither."""
    special = getattr(tokenizer, "special", {})
    if END_OF_TEXT in special:
        return int(special[END_OF_TEXT])
    newline = getattr(tokenizer, "ids", {}).get("\n")
    return None if newline is None else int(newline)


def join(documents: Iterable[str], tokenizer: Tokenizer) -> Int64[ndarray, "N"]:
    """end, document, end, document, …, end. Without an end mark the documents follow each other bare."""
    end = end_id(tokenizer)
    mark = [] if end is None else [end]
    ids = [*mark]
    for text in documents:
        ids += tokenizer.encode(text)
        ids += mark
    return np.array(ids, dtype=np.int64)
