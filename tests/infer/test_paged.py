"""Pages hold what a plain cache holds."""

import pytest
import torch

from tests.infer.small import CONFIGS, V, model
from underhood.base.errors import ConfigError
from underhood.infer.paged import PagedCache, Reach, Step, hidden_of, read_pages
from underhood.nn.attention import LatentConfig
from underhood.nn.gpt import GPT
from underhood.nn.llama import llama

SIZE = 4


def whole(cache: PagedCache, made: GPT, texts: list[torch.Tensor], chunks: list[int]) -> list[torch.Tensor]:
    """Hidden states of ``texts``, computed together chunk by chunk, each text in its own scattered blocks."""
    free = torch.randperm(len(cache.pools[0][0]), generator=torch.Generator().manual_seed(5)).tolist()
    tables = [torch.tensor([free.pop() for _ in range(-(-len(t) // SIZE))]) for t in texts]
    found: list[list[torch.Tensor]] = [[] for _ in texts]
    done = 0
    for n in chunks:
        ids, at, slots, reaches, rows = [], [], [], [], []
        for i, (t, table) in enumerate(zip(texts, tables, strict=True)):
            part = torch.arange(min(done, len(t)), min(done + n, len(t)))
            if len(part):
                begin = sum(map(len, ids))
                ids.append(t[part])
                at.append(part)
                slots.append(table[part // SIZE] * SIZE + part % SIZE)
                reaches.append(Reach(begin, begin + len(part), table, int(part[-1]) + 1))
                rows.append(i)
        if ids:
            hidden = hidden_of(made, cache, Step(torch.cat(ids), torch.cat(at), torch.cat(slots), reaches))
            for i, reach in zip(rows, reaches, strict=True):
                found[i].append(hidden[reach.begin : reach.end])
        done += n
    return [torch.cat(f) for f in found]


@torch.no_grad()
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("chunks", [[40], [7] * 6, [13, *[1] * 27]])
def test_paged_is_naive_for_every_text(name: str, chunks: list[int]) -> None:
    made = read_pages(model(name))
    texts = [torch.randint(V - 1, (n,), generator=torch.Generator().manual_seed(n)) for n in (40, 3, 17)]
    for text, hidden in zip(texts, whole(PagedCache(made.config, 24, SIZE), made, texts, chunks), strict=True):
        torch.testing.assert_close(hidden, made.hidden(text[None])[0], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_pages_that_are_not_one_s_own_do_not_matter() -> None:
    made = read_pages(model())
    text = torch.arange(10)
    clean, dirty = PagedCache(made.config, 24, SIZE), PagedCache(made.config, 24, SIZE)
    for keys, values in dirty.pools:
        keys.fill_(7)
        values.fill_(-7)
    assert torch.equal(whole(clean, made, [text], [10])[0], whole(dirty, made, [text], [10])[0])


def test_blocks_are_copied_in_order() -> None:
    cache = PagedCache(CONFIGS["llama"], 3, SIZE)
    cache.pools[1][0][0] = 1
    cache.copy([(0, 1), (1, 2)])
    assert bool((cache.pools[1][0][2] == 1).all())


@torch.no_grad()
def test_a_model_that_reads_pages_is_the_same_without() -> None:
    plain, other = model(), read_pages(read_pages(model()))
    ids = torch.arange(12)[None]
    assert torch.equal(plain(ids), other(ids))


def test_latent_attention_has_no_pages() -> None:
    wide = LatentConfig(kv_rank=4, rope_width=4, nope_width=4, value_width=4)
    with pytest.raises(ConfigError, match="latent"):
        PagedCache(llama(vocab_size=9, attention="underhood.nn.latent:LatentAttention", latent=wide), 2, 2)
