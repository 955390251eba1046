"""What goes wrong when a model reads further than it was trained. Nearly all of it is silent.

Shapes agree, short texts are right, and the model goes on writing.
"""

from underhood.lab.sabotage import Above, Claim, Crashes, Edit, Falls, Keeps, Rises, Sabotage, Set, Stays, Violates

ROPE = "underhood.nn.rope"
TURNS, TEMPERATURE, TURN = f"{ROPE}:kept_by_turns", f"{ROPE}:yarn_factor", f"{ROPE}:ScaledRotary.turn"
ROTATION = f"{ROPE}:ScaledRotary.rotation"
LATE = """    turn = self.turn(torch.arange(start, end), end, x)
    if self.rope.kind != "dynamic":
        return turn
    return LateTurn(turn.cos, turn.sin, self.turn(torch.arange(end), end, x))
"""
EARLY = """    return self.turn(torch.arange(start, end), end, x)
"""

BREAKS: tuple[Sabotage, ...] = (
    # ── no extension at all ──
    Sabotage(
        name="extension_off",
        says="Nothing is done: both models read 128 tokens with the rotation that they were trained with on 32.",
        kind="setup",
        patch=Set("extend.kind", "default"),
        baseline="long_context.read",
        expect=(
            Rises("last_loss", by=0.15),
            Falls("found_long", by=0.25),
            Rises("answer_loss", by=1.0),
            Stays("inside_loss", within=0.25),
            Stays("train_loss", within=1e-6),
            Keeps("causal"),
        ),
        probe=Above("answer_loss", 0.8),
        look="The first 32 positions are as good as ever. From there the loss climbs, and in a ledger of 128 tokens many answers are wrong.",
        claim=Claim(
            says="Beyond its trained length a model with rotary positions soon has a perplexity above 1,000, as high as an untrained one's.",
            source="Chen et al. 2023, arXiv 2306.15595: LLaMA, trained on 2,048 tokens and read beyond",
            untested="Two blocks trained on 32 tokens for 200 steps are not LLaMA 7B; here the loss climbs, and does not explode.",
        ),
    ),
    Sabotage(
        name="learned_past_length",
        says="Positions are a learned table of 32 rows, and the model is given 128 tokens.",
        kind="setup",
        patch=(Set("positions", "underhood.nn.positions:Learned"), Set("extend", None)),
        baseline="long_context.read",
        expect=(Crashes("ShapeError"),),
        probe=Above("last_loss", 4.0),
        look="ShapeError at the first text that is too long: there is no row for position 32. No formula makes one; this is why tables went out of use.",
    ),
    # ── frequencies ──
    Sabotage(
        name="stretched_the_wrong_way",
        says="Interpolation multiplies frequencies by the factor instead of dividing.",
        kind="part",
        patch=Edit(f"{ROPE}:interpolated", "f / factor", "f * factor"),
        baseline="long_context.exact",
        expect=(Violates("new_positions_fall_between"), Keeps("slowest_is_divided"), Keeps("fastest_is_kept")),
        look="Positions four times as far apart as in training, where they should lie four times as close.",
        silent=True,
    ),
    Sabotage(
        name="ntk_without_the_two",
        says="The base grows by factor^(D/D) instead of factor^(D/(D - 2)).",
        kind="part",
        patch=Edit(f"{ROPE}:ntk_base", "(width - 2)) if", "width) if"),
        baseline="long_context.exact",
        expect=(Violates("slowest_is_divided"), Keeps("fastest_is_kept"), Keeps("short_texts_are_plain")),
        look="At D = 32 and factor 4 the slowest pair is divided by 3.7 instead of 4: the last twelfth of the new length is beyond what was trained.",
        silent=True,
    ),
    Sabotage(
        name="dynamic_jumps",
        says="The dynamic factor is factor · length / original, without the subtraction that makes it begin at 1.",
        kind="part",
        patch=Edit(f"{ROPE}:dynamic_factor", "factor * length / original - (factor - 1)", "factor * length / original"),
        baseline="long_context.exact",
        expect=(Violates("dynamic_begins_gently"), Violates("short_texts_are_plain"), Keeps("slowest_is_divided")),
        look="Texts that were trained are turned by a larger base, from a quarter of the trained length on.",
        silent=True,
    ),
    Sabotage(
        name="long_waves_kept",
        says="Llama 3's rule is turned round: long waves are kept and short ones interpolated.",
        kind="part",
        patch=Edit(
            f"{ROPE}:kept_by_wavelength",
            "return ((waves - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)).clamp(0, 1)",
            "return 1 - ((waves - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)).clamp(0, 1)",
        ),
        baseline="long_context.exact",
        expect=(Violates("llama_keeps_short_waves"), Keeps("yarn_keeps_fast_pairs"), Keeps("new_positions_fall_between")),
        look="Neighbours blur, and distances that were never trained stay what they were: both faults at once.",
        silent=True,
    ),
    Sabotage(
        name="ramp_reversed",
        says="YaRN's ramp is turned round: fast pairs are interpolated and slow ones kept.",
        kind="part",
        patch=Edit(TURNS, "return 1 - ramp.clamp(0, 1)", "return ramp.clamp(0, 1)"),
        baseline="long_context.read",
        expect=(Rises("inside_loss", by=0.3), Rises("last_loss", by=0.5), Falls("found_long", by=0.3), Stays("train_loss", within=1e-6), Keeps("causal")),
        look="Short texts hardly tell. The slow pairs turn to angles that were never trained, as if nothing had been done, and most facts far back are lost.",
        silent=True,
    ),
    # ── the temperature ──
    Sabotage(
        name="temperature_inverted",
        says="YaRN's factor is divided by instead of multiplied with: scores become flatter, not sharper.",
        kind="part",
        patch=Edit(TEMPERATURE, "0.1 * math.log(factor) + 1 if", "1 / (0.1 * math.log(factor) + 1) if"),
        baseline="long_context.read",
        expect=(Rises("last_loss", by=0.1), Falls("found_long", by=0.04), Rises("answer_loss", by=0.15), Stays("train_loss", within=1e-6), Keeps("causal")),
        look="A number of 0.88 where 1.14 should stand. The model writes as before; with length its loss rises, and it misses more facts.",
        silent=True,
    ),
    Sabotage(
        name="temperature_forgotten",
        says="YaRN's factor is 1: frequencies are mixed, scores are left as they are.",
        kind="part",
        patch=Edit(TEMPERATURE, "0.1 * math.log(factor) + 1 if", "1.0 if"),
        baseline="long_context.read",
        expect=(Rises("last_loss", by=0.02), Falls("found_long", by=0.01), Stays("inside_loss", within=0.1), Stays("train_loss", within=1e-6), Keeps("causal")),
        look="Hardly to be seen in the loss. It has happened to published models: a factor that collapses to 1 gives fluent text that follows its prompt less.",
        silent=True,
        cites=("https://github.com/turboderp-org/exllamav3/issues/259", "https://github.com/vllm-project/vllm/pull/46280"),
    ),
    Sabotage(
        name="temperature_twice",
        says="Sines and cosines are multiplied by YaRN's factor squared, so that scores grow by its fourth power.",
        kind="part",
        patch=Edit(TURN, "sharper = self.attention_factor", "sharper = self.attention_factor**2"),
        baseline="long_context.exact",
        expect=(Violates("scores_grow_as_published"), Keeps("scores_get_sharper"), Keeps("cached_equals_whole_yarn")),
        look="Text that is a little too sure of itself. A config's final factor, taken for a weight of the formula, did this to a served model.",
        silent=True,
        cites=("https://github.com/sgl-project/sglang/pull/33558",),
    ),
    # ── turning ──
    Sabotage(
        name="turned_backwards",
        says="Queries and keys are turned the other way.",
        kind="part",
        patch=Edit(f"{ROPE}:Turn.__call__", "rotate(x, self.cos, self.sin)", "rotate(x, self.cos, -self.sin)"),
        baseline="long_context.exact",
        expect=(Violates("turns_as_trained"), Keeps("cached_equals_whole"), Keeps("rotation_starts_where_told")),
        look="A model that is trained so never knows. Weights that were trained the other way see every distance with the wrong sign.",
        silent=True,
    ),
    Sabotage(
        name="stale_cache",
        says="Under dynamic scaling keys are cached turned, by the frequencies of the length at which they came.",
        kind="part",
        patch=Edit(ROTATION, LATE, EARLY),
        baseline="long_context.exact",
        expect=(Violates("cached_equals_whole"), Keeps("cached_equals_whole_yarn"), Keeps("short_texts_are_plain"), Rises("two_layer_gap", by=0.005)),
        look="Exact for texts of the trained length, and for every text that is read at once. Written token by token, each key lies in a frame of its own.",
        silent=True,
        cites=(
            "https://github.com/huggingface/transformers/issues/25104",
            "https://github.com/huggingface/transformers/pull/27227",
        ),
    ),
    Sabotage(
        name="length_of_what_is_new",
        says="Dynamic scaling takes the number of new tokens for the length of the text.",
        kind="part",
        patch=Edit(ROTATION, "self.turn(torch.arange(start, end), end, x)", "self.turn(torch.arange(start, end), x.shape[1], x)"),
        baseline="long_context.exact",
        expect=(Violates("cached_equals_whole"), Keeps("cached_equals_whole_yarn"), Keeps("short_texts_are_plain")),
        look="One new token is a text of one token: with a cache the queries never leave the short frequencies, while all keys do.",
        silent=True,
    ),
    Sabotage(
        name="rotation_from_zero",
        says="Positions are counted from the first new token.",
        kind="part",
        patch=Edit(ROTATION, "torch.arange(start, end)", "torch.arange(end - start)"),
        baseline="long_context.exact",
        expect=(Violates("rotation_starts_where_told"), Violates("cached_equals_whole"), Violates("cached_equals_whole_yarn"), Keeps("short_texts_are_plain")),
        look="Training and scoring are untouched. When the model writes with a cache, every new token believes that it is the first.",
        silent=True,
    ),
    Sabotage(
        name="positions_in_half",
        says="Positions pass through the model's dtype, bfloat16, before they are multiplied.",
        kind="part",
        patch=Edit(TURN, "at.cpu().double()", "at.to(like).cpu().double()"),
        baseline="long_context.exact",
        expect=(Violates("half_precision_tells_neighbours"), Keeps("rotation_starts_where_told"), Keeps("cached_equals_whole")),
        look="Exact up to position 256. From there on two neighbours share one position, from 512 on four, and so on: the longer the text, the blurrier.",
        silent=True,
        cites=("https://github.com/huggingface/transformers/pull/29285",),
    ),
)
