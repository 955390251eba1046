"""What the engine wrote, in the words of OpenAI's API."""

import codecs
import time
import uuid
from collections.abc import Sequence
from typing import Any

from underhood.infer.generation import LATE, Generation, Piece, TokenInfo
from underhood.infer.spoken import Spoken
from underhood.serve.errors import COME_AGAIN, ApiError
from underhood.serve.house import House
from underhood.serve.worker import STOPPING


class Head:
    """The fields that the whole answer and each of its chunks begin with."""

    def __init__(self, house: House, kind: str, prefix: str) -> None:
        self.fields = {"id": f"{prefix}-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": house.name}
        self.fingerprint = house.fingerprint

    def __call__(self, choices: list[Any], **more: Any) -> dict[str, Any]:
        """With the choices."""
        return {**self.fields, "system_fingerprint": self.fingerprint, "choices": choices, **more}


class Usage:
    """Tokens of an answer: a prompt counts once, however many choices it has; a token counts when it was written, shown or not."""

    def __init__(self, generations: Sequence[Generation]) -> None:
        self.prompt = sum(len(g.prompt) for g in generations)
        self.completion = 0

    def add(self, piece: Piece) -> None:
        """Count a piece."""
        self.completion += len(piece.tokens)

    @property
    def fields(self) -> dict[str, int]:
        """As JSON."""
        return {"prompt_tokens": self.prompt, "completion_tokens": self.completion, "total_tokens": self.prompt + self.completion}


def require_fine(piece: Piece) -> None:
    """Raise ``ApiError`` for an answer that ended in an error: what came before it is not an answer."""
    if piece.finish not in ("error", "cancelled"):
        return
    status, code = {LATE: (504, "deadline_exceeded"), STOPPING: (503, "unavailable")}.get(piece.error, (500, "generation_failed"))
    raise ApiError(status, piece.error or "the answer was cancelled", code=code, retry_after=COME_AGAIN if status == 503 else None)


def chat_logprobs(spoken: Spoken, tokens: Sequence[TokenInfo]) -> dict[str, Any]:
    """``choices[].logprobs`` of a chat; the token that ends an answer is no part of it."""
    shown = [{**_likely(spoken, t.id, t.logprob), "top_logprobs": [_likely(spoken, i, p) for i, p in t.top]} for t in tokens if not t.ends]
    return {"content": shown, "refusal": None}


def _likely(spoken: Spoken, token: int, logprob: float | None) -> dict[str, Any]:
    data = spoken.bytes_of(token)
    return {"token": data.decode("utf-8", errors="replace"), "logprob": logprob, "bytes": list(data)}


class CompletionLogprobs:
    """``choices[].logprobs`` of completions: parallel lists, and where each token begins in the text.

    A token itself stands among its likeliest, so that there may be one more of them than was asked for, as with OpenAI.
    One that is not shown takes no room in the text; one that ends within a character begins where that character does, and so does the next.
    """

    def __init__(self, spoken: Spoken) -> None:
        self.spoken, self.offset = spoken, 0
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def of(self, tokens: Sequence[TokenInfo]) -> dict[str, Any]:
        """The lists for the next ``tokens``."""
        names = [self._name(t.id) for t in tokens]
        offsets = []
        for t in tokens:
            offsets.append(self.offset)
            self.offset += len(self.decoder.decode(self.spoken.decode_bytes([t.id])))
        top = [{self._name(i): p for i, p in (*t.top, (t.id, t.logprob))} if t.logprob is not None else None for t in tokens]
        return {"tokens": names, "token_logprobs": [t.logprob for t in tokens], "top_logprobs": top, "text_offset": offsets}

    def _name(self, token: int) -> str:
        """A token's text; bytes that are none are written out, or several tokens would have one name."""
        data = self.spoken.bytes_of(token)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def joined(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Several ``CompletionLogprobs.of`` as one."""
    return {field: [entry for part in parts for entry in part[field]] for field in ("tokens", "token_logprobs", "top_logprobs", "text_offset")}
