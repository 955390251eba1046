"""Attention of a learner's own, without a kernel that could be replaced: every text gets what it gets alone."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.infer.small import CONFIGS, TOKENIZER, alone, generations
from tests.serve.server import running
from underhood.nn.attention import AttentionConfig, MultiHeadAttention, attend, causal_mask, merge_heads, split_heads
from underhood.nn.gpt import GPT, build_gpt


class Mine(MultiHeadAttention):
    """As a learner writes it: it mixes by itself."""

    def __init__(self, config: AttentionConfig) -> None:
        super().__init__(config)
        del self.kernel

    def look(self, x: Any, *, context: Any = None, mask: Any = None, rotate: Any = None, cache: Any = None) -> Any:
        q, k, v = (split_heads(p, self.config.n_head) for p in self._project(x, context))
        if rotate is not None:
            q, k = rotate(q), rotate(k)
        if cache is not None:
            k, v = cache.extend(k, v)
        mixed, weights = attend(q, k, v, causal_mask(q.shape[-2], k.shape[-2]))
        return self.output(merge_heads(mixed)), weights


def mine(name: str) -> GPT:
    made = build_gpt(CONFIGS[name], 0).eval()
    for block in made.blocks:
        layer = Mine(block.attention.config)  # type: ignore[union-attr, arg-type]
        layer.load_state_dict(block.attention.state_dict())
        block.attention = layer
    return made.eval()


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_each_text_gets_what_it_gets_alone(name: str) -> None:
    asked = generations(10, most=20)
    made = build_gpt(CONFIGS[name], 0).eval()
    with running(mine(name)) as served, ThreadPoolExecutor(10) as threads:

        def ask(g: Any) -> str:
            fields = {"temperature": g.sample.temperature, "top_p": g.sample.top_p, "max_tokens": g.sample.max_tokens, "seed": g.seed}
            return str(served.complete(prompt=list(g.prompt), **fields).json()["choices"][0]["text"])

        for g, text in zip(asked, threads.map(ask, asked), strict=True):
            ids = alone(made, g)
            assert text == TOKENIZER.decode(ids[: ids.index(256)] if 256 in ids else ids)
        assert served.post("/v1/underhood/attention", {"model": "tiny", "text": "a"}).json()["error"]["code"] == "no_attention"
