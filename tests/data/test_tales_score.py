"""The scorer on texts written by hand, right in everything but one skill at a time, and on garbage."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from underhood.data.tales import generate
from underhood.data.tales_score import FAR, MAX_SENTENCE, SKILLS, Share, score, sentences

RIGHT = (
    "On Monday, Mia and Tom went to the park. Mia put her red ball under the bench. "
    "The dogs near the tree were wet. Mia had three apples. Then Mia found two more apples. Now Mia had five apples. "
    '"Where is the ball?" asked Tom. "It is under the bench," said Mia. '
    "First Tom took a nap, then he sang a song, and last of all he told a story. What did Tom do first? He took a nap. "
    "Tom (who was very tired) sat down on the grass. In the end, they went home. It was a good day."
)
WRONG = {  # skill: (what stands in RIGHT, what to put there)
    "agreement": ("tree were wet", "tree was wet"),
    "recall": ('"It is under the bench,"', '"It is on the swing,"'),
    "counting": ("had five apples", "had four apples"),
    "order": ("He took a nap", "He told a story"),
    "quotes": ('bench," said', "bench, said"),
    "brackets": ("tired) sat", "tired sat"),
    "names": ("Tom (who", "Leo (who"),
    "pronouns": ("then he sang", "then she sang"),
    "parsed": ("It was a good day.", "It was a day good."),
}


def test_the_sentences_of_a_text() -> None:
    assert sentences('A b. "Is it?" asked Tom. (No.) It is! "Yes!" said Mia. half a') == [
        "A b.",
        '"Is it?" asked Tom.',
        "(No.)",
        "It is!",
        '"Yes!" said Mia. half a',
    ]


def test_a_right_text_is_right_in_every_skill() -> None:
    scores = score(RIGHT)
    assert scores.sentences == 14
    assert {skill: scores[skill].total > 0 and scores[skill].right == scores[skill].total for skill in SKILLS} == dict.fromkeys(SKILLS, True)


@pytest.mark.parametrize("skill", SKILLS)
def test_one_wrong_word_costs_one_skill_one_point(skill: str) -> None:
    right, wrong = WRONG[skill]
    assert RIGHT.count(right) == 1
    before, after = score(RIGHT), score(RIGHT.replace(right, wrong))
    assert after[skill] == Share(before[skill].right - 1, before[skill].total)
    assert {s: after[s] for s in SKILLS if s != skill} == {s: before[s] for s in SKILLS if s != skill}


def test_recall_is_counted_by_how_many_sentences_ago_the_fact_was_said() -> None:
    """Three sentences lie between the putting and the question: the fourth after it asks."""
    text = "After lunch, Leo went to the park. Leo hid the red key on the swing. A bell rang. The sky was blue. {} Where was the key? It was on the swing."
    for between, distance in (("", 3), ("The sun was warm.", 4)):
        scores = score(text.format(between))
        assert [d for d, share in scores.recall_at.items() if share.total] == [distance]
        assert scores.recall_at[distance] == Share(1, 1)


def test_recall_of_what_was_never_said_is_wrong_and_has_no_distance() -> None:
    scores = score("After lunch, Leo went to the park. Where was the key? It was on the swing.")
    assert scores["recall"] == Share(0, 1)
    assert not any(share.total for share in scores.recall_at.values())


def test_a_moved_thing_is_where_it_was_put_last() -> None:
    text = "After lunch, Leo went to the park. Leo hid the red key on the swing. Then he took the key and put it by the pond. The key was still {}."
    assert score(text.format("by the pond"))["recall"] == Share(1, 1)
    assert score(text.format("on the swing"))["recall"] == Share(0, 1)


def test_an_answer_without_a_question_parses_and_shows_nothing() -> None:
    scores = score("After lunch, Leo went to the park. It was on the swing.")
    assert scores["parsed"] == Share(2, 2)
    assert scores["recall"].total == 0


def test_a_line_or_an_end_mark_ends_what_is_known() -> None:
    first, second = "After lunch, Leo went to the park. Leo hid the red key on the swing.", "The key was still on the swing."
    assert score(f"{first} {second}")["recall"] == Share(1, 1)
    for mark in ("\n", "\n\n", "<|endoftext|>"):
        assert score(f"{first}{mark}{second}")["recall"] == Share(0, 1)


def test_the_prompt_is_read_and_not_counted() -> None:
    prompt, text = "After lunch, Leo went to the park. Leo hid the red key on the swing.", " The key was still on the swing."
    assert score(text, prompts=[prompt])["parsed"] == Share(1, 1)
    assert score(text, prompts=[prompt])["recall"] == Share(1, 1)
    assert score(["", "garbage", text], prompts=[prompt] * 3)["parsed"] == Share(1, 2)
    assert score(f"\n{text}", prompts=[prompt])["recall"] == Share(0, 1)


def test_several_texts_add_up() -> None:
    texts = [s.text for s in generate(20, 5)]
    total = score(texts)
    assert total["names"].total == sum(score(text)["names"].total for text in texts)
    assert score(texts[:10]) + score(texts[10:]) == total


def test_what_the_grammar_writes_is_right_throughout() -> None:
    scores = score(s.text for s in generate(300, 21))
    assert all(scores[skill].right == scores[skill].total > 0 for skill in SKILLS)
    assert all(scores.recall_at[d].total > 10 for d in range(1, FAR + 1))


def test_unbalanced_marks_count_in_sentences_that_do_not_parse_too() -> None:
    scores = score('Blah "blah. Blah (blah. Blah) blah (. Blah "x" (y).')
    assert scores["parsed"] == Share(0, 4)
    assert scores["quotes"] == Share(1, 2)
    assert scores["brackets"] == Share(1, 3)


def test_shuffled_words_do_not_parse() -> None:
    rng = random.Random(0)
    words = [" ".join(rng.sample(w, len(w))) for s in generate(50, 1) for w in [s.text.split()]]
    scores = score(words)
    assert (scores["parsed"].share or 0) < 0.05


@pytest.mark.parametrize(
    "text", ["", " ", "\n", ".", '"', "((((", "))", "Mia", "Mia put", "It was in the", "…", "\x00", "a" * 100_000, "A. " * 2000, "(" * 100_000]
)
def test_garbage_is_scored_and_nothing_breaks(text: str) -> None:
    scores = score(text)
    assert scores["parsed"].right == 0


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300) | st.binary(max_size=300).map(lambda b: b.decode("latin-1")))
def test_any_text_can_be_scored(text: str) -> None:
    scores = score(text)
    assert 0 <= scores["parsed"].right <= scores["parsed"].total


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.data())
def test_half_a_story_can_be_scored(seed: int, data: st.DataObject) -> None:
    text = generate(1, seed)[0].text
    cut = data.draw(st.integers(0, len(text)))
    scores = score(text[:cut])
    assert scores["parsed"].total - scores["parsed"].right <= 1


def test_a_sentence_beyond_all_templates_is_not_tried() -> None:
    longest = max(len(sentence) for s in generate(1000, 2) for sentence in sentences(s.text))
    assert longest < MAX_SENTENCE


def test_plain_values_and_text() -> None:
    scores = score(RIGHT)
    assert scores.to_plain()["recall"] == {"right": 1, "total": 1, "share": 1.0}
    assert scores.to_plain()["recall_at_6"] == {"right": 0, "total": 0, "share": None}
    assert "parsed     14/14 = 100.0 %" in str(scores)
