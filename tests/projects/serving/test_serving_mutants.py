"""Wrong pages and schedulers that look right: each fails the check that is about its fault."""

import pytest

from tests.projects.mutants import Mutant, failing

CUT = "self.length, self.published = length, min(self.published, length // self.pool.size)"

MUTANTS = [
    # ── what a block holds ──
    Mutant("salt_left_out_of_the_hash", "hash((previous, tokens, salt))", "hash((previous, tokens))", "the_hash_is_a_chain"),
    Mutant("order_left_out_of_the_hash", "hash((previous, tokens, salt))", "hash((previous, tuple(sorted(tokens)), salt))", "the_hash_is_a_chain"),
    Mutant("tokens_summed_in_the_hash", "hash((previous, tokens, salt))", "hash((previous, sum(tokens), salt))", "the_hash_is_a_chain"),
    Mutant(
        "search_goes_on_after_a_gap", "                break\n            found", "                continue\n            found", "a_prompt_finds_its_beginning"
    ),
    Mutant("search_stops_early", "len(tokens) - size, size)", "len(tokens) - 2 * size, size)", "a_prompt_finds_its_beginning"),
    Mutant(
        "tokens_not_compared",
        "(entry.parent, entry.tokens, entry.salt) == (parent, tokens, salt)",
        "(entry.parent, entry.salt) == (parent, salt)",
        "the_tokens_decide",
    ),
    Mutant(
        "salt_not_compared",
        "(entry.parent, entry.tokens, entry.salt) == (parent, tokens, salt)",
        "(entry.parent, entry.tokens) == (parent, tokens)",
        "the_tokens_decide",
    ),
    Mutant("entry_overwritten", "        if key not in self.by_hash:\n            self", "        if True:\n            self", "the_tokens_decide"),
    Mutant("entered_after_an_unknown_block", "if before is not None and parent is None:", "if False:", "entries_come_and_go"),
    Mutant("forgotten_by_half", "            del self.by_hash[entry.hash]", "            pass", "entries_come_and_go"),
    # ── who uses a block ──
    Mutant(
        "never_free_again",
        "            self.free[block] = None\n            self.free.move_to_end(block, last=block in self.index)",
        "            pass",
        "users_are_counted",
    ),
    Mutant("shared_and_still_free", "        self.free.pop(block, None)\n", "", "content_outlives_its_users"),
    Mutant("a_block_begun_does_not_count", "-(-n_tokens // self.size)", "n_tokens // self.size", "users_are_counted"),
    Mutant("oldest_content_goes_last", "last=block in self.index", "last=False", "content_outlives_its_users"),
    Mutant("known_blocks_are_writable", "self.users[block] == 1 and block not in self.index", "self.users[block] == 1", "content_outlives_its_users"),
    # ── where a token goes ──
    Mutant("slots_one_early", "for t in range(self.length, end)]", "for t in range(self.length - 1, end - 1)]", "slots_follow_the_table"),
    Mutant("one_block_too_few_given_back", "reversed(self.blocks[keep:])", "reversed(self.blocks[keep + 1 :])", "what_is_cut_is_given_back"),
    Mutant("first_block_given_back_first", "reversed(self.blocks[keep:])", "self.blocks[keep:]", "slots_follow_the_table"),
    Mutant("cut_anywhere", "if not 0 <= length <= self.length:", "if length < 0:", "what_is_cut_is_given_back"),
    # ── one page, two readers ──
    Mutant("adopted_and_not_counted", "            self.pool.share(block)\n", "            pass\n", "equal_pages_are_kept_once"),
    Mutant(
        "published_when_half_full",
        "range(self.published, self.length // size)",
        "range(self.published, self.pool.blocks_of(self.length))",
        "equal_pages_are_kept_once",
    ),
    Mutant("superfluous_block_kept", "                self.pool.release(mine)\n", "", "equal_pages_are_kept_once"),
    Mutant("published_stays_after_a_cut", CUT, "self.length = length", "equal_pages_are_kept_once"),
    Mutant("published_stays_in_a_life", CUT, "self.length = length", "a_random_life"),
    Mutant("one_list_for_twins", "list(blocks), length, length // self.pool.size", "blocks, length, length // self.pool.size", "who_writes_copies"),
    Mutant("original_kept", "            self.pool.release(old)\n", "", "who_writes_copies"),
    Mutant("copy_not_counted", "if fresh + torn > len(self.pool.free):", "if fresh > len(self.pool.free):", "who_writes_copies"),
    # ── the next step ──
    Mutant("static_is_ignored", 'self.config.policy == "continuous" or not batch.running', "True", "requests_join_between_steps"),
    Mutant("too_many_run", "len(batch.running) < self.config.max_running", "True", "requests_join_between_steps"),
    Mutant("prompts_first", "r.pending > 1)", "r.pending == 1)", "decodes_go_first"),
    Mutant("nothing_is_found", "batch.join(batch.queue.pop(), known)", "batch.join(batch.queue.pop(), [])", "what_is_known_is_not_computed"),
    Mutant("strangers_share", "self.pool.size, request.salt)", 'self.pool.size, "")', "what_is_known_is_not_computed"),
    # ── room, turns and making way ──
    Mutant("no_reserve", "math.ceil(self.config.watermark * self.pool.n_blocks)", "0", "nobody_joins_without_room"),
    Mutant("shared_blocks_cost", " - sum(block in self.pool.users for block in known)", "", "nobody_joins_without_room"),
    Mutant("free_known_blocks_cost_nothing", "sum(block in self.pool.users for block in known)", "len(known)", "nobody_joins_without_room"),
    Mutant("nobody_may_be_alone", "not self.batch.running or", "False or", "nobody_joins_without_room"),
    Mutant("joins_after_making_way", "batch.queue and not plan.preempted", "batch.queue", "whoever_came_last_makes_way"),
    Mutant("cancel_does_nothing", "        self.batch.cancel(request)", "        pass", "clients_take_turns"),
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_a_wrong_file_fails_by_its_check(mutant: Mutant) -> None:
    assert mutant.check in failing("serving", mutant)


def test_an_equal_hash_is_told_as_such() -> None:
    summed = next(mutant for mutant in MUTANTS if mutant.name == "tokens_summed_in_the_hash")
    assert failing("serving", summed)[summed.check].endswith("expected: another hash\n  found: the same")
