"""Formulas: read aloud by hand-made examples, drawn as well-formed MathML, refused by file and line."""

import re
from xml.etree import ElementTree

import pytest

from underhood.workbench import maths
from underhood.workbench.chapter import load_chapter
from underhood.workbench.macros import ChapterError
from underhood.workbench.site import written

EXAMPLES = {
    r"\mathrm{time\ per\ token} \ge 1": "time per token ≥ 1",
    r"x_0, x_1, \dots": "x₀, x₁, …",
    r"\frac{1}{t+1} \sum_{s=0}^{t} x_s": "(1/(t+1)) Σₛ₌₀ᵗ xₛ",
    r"\frac{\partial L}{\partial q}": "∂L/∂q",
    r"1/\sqrt{2L}": "1/√(2L)",
    r"\mathrm{softmax}(q K^{\mathsf T} / \sqrt{d})\,V": "softmax(q Kᵀ / √d) V",
    r"e^{s_i - s_j}": "e^(sᵢ−sⱼ)",
    r"W_Q\, x_t": "W_Q xₜ",
    r"k_s' = k_s + b": "kₛ′ = kₛ + b",
    r"-\ln p": "−ln p",
    r"\hat{m} / (\sqrt{\hat{v}} + \epsilon)": "m̂ / (√v̂ + ε)",
    r"\tanh^2 x": "tanh² x",
    r"-10^9": "−10⁹",
    r"x \leftarrow x + f(x), \quad y": "x ← x + f(x), y",
}


@pytest.mark.parametrize(("tex", "text"), EXAMPLES.items())
def test_a_formula_reads_as_a_person_would_write_it(tex: str, text: str) -> None:
    assert maths.to_text(tex) == text


@pytest.mark.parametrize("tex", EXAMPLES)
def test_a_formula_is_well_formed_mathml(tex: str) -> None:
    drawn = ElementTree.fromstring(maths.to_mathml(tex, display=True))
    assert (drawn.tag, drawn.get("display")) == ("math", "block")
    assert "\\" not in "".join(drawn.itertext())


def test_a_word_in_a_formula_is_one_upright_name() -> None:
    assert "<mi>softmax</mi>" in maths.to_mathml(r"\mathrm{softmax}(x)")


@pytest.mark.parametrize("tex", [r"\foo x", r"\frac{a}{", "x }", "x_", "a & b", r"\frac{1}", r"\sqrt"])
def test_what_is_not_known_is_refused_in_both_forms(tex: str) -> None:
    for convert in (maths.to_text, maths.to_mathml):
        with pytest.raises(ChapterError):
            convert(tex)


def test_a_formula_that_does_not_convert_is_named_with_file_and_line() -> None:
    with pytest.raises(ChapterError, match=r"attention/chapter.md:3: the formula '\\\\foo' has \\foo"):
        maths.for_site("one\n\n" + r"two $x$ and $\foo$", where="attention/chapter.md")


@pytest.mark.parametrize(
    "text",
    ["```console\n$ underhood list\n$ underhood map\n```", "`$x$`", "it costs $5 and $6", '{{ figure("a", "the mean, $x$") }}', "<svg>$x$</svg>", r"\$x\$"],
)
def test_code_macros_drawings_and_prices_stay(text: str) -> None:
    assert maths.for_site(text, where="p") == maths.for_terminal(text, where="p") == text


def test_in_a_sentence_and_by_itself() -> None:
    text = maths.for_terminal("the product $a_i * W_Q$:\n\n$$\\sum_i x_i$$\n", where="p")
    assert text == "the product aᵢ ∗ W\\_Q:\n\n\n```formula\nΣᵢ xᵢ\n```\n\n"
    assert maths.for_site("$$x$$", where="p").count('<div class="formula"><math display="block">') == 1


@pytest.mark.parametrize("slug", [p.slug for p in written()])
def test_every_formula_of_every_chapter_converts(slug: str) -> None:
    chapter = load_chapter(slug)
    for name, text in (("chapter.md", chapter.text), ("answers.md", chapter.answers)):
        drawn = maths.for_site(text, where=f"{slug}/{name}")
        for formula in re.findall(r"<math.*?</math>", drawn, re.DOTALL):
            ElementTree.fromstring(formula)
        maths.for_terminal(text, where=f"{slug}/{name}")
