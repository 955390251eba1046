"""The formulas of a page, ``$…$`` and ``$$…$$`` outside code: MathML for the site, plain Unicode for the terminal.

Only the commands listed here are known; another one, or a brace without its partner, is a ``ChapterError`` with file and line.
"""

import functools
import re
from collections.abc import Callable

from underhood.workbench.macros import ChapterError

PAGE = re.compile(
    r"^(?P<fence>`{3,})[^\n]*\n.*?^(?P=fence)[ \t]*$|(?P<ticks>`+)[^`].*?(?P=ticks)|\{\{.*?\}\}|<svg.*?</svg>"
    r"|\$\$(?P<display>.+?)\$\$|(?<!\\)\$(?=\S)(?P<inline>[^$\n]+?)(?<=\S)\$(?!\d)",
    re.MULTILINE | re.DOTALL,
)
TOKEN = re.compile(r"\\[A-Za-z]+[ \t\n]*|\\.|\s+|.", re.DOTALL)

GREEK = "alpha beta gamma delta epsilon zeta eta theta kappa lambda mu nu xi pi rho sigma tau phi chi psi omega"
LETTERS = {
    **dict(zip(GREEK.split(), "αβγδεζηθκλμνξπρστφχψω", strict=True)),
    **{
        "Gamma": "Γ",
        "Delta": "Δ",
        "Theta": "Θ",
        "Lambda": "Λ",
        "Pi": "Π",
        "Sigma": "Σ",
        "Phi": "Φ",
        "Psi": "Ψ",
        "Omega": "Ω",
        "varepsilon": "ε",
        "varphi": "φ",
    },
    **{"partial": "∂", "nabla": "∇", "infty": "∞", "ell": "ℓ", "pm": "±", "dots": "… ", "ldots": "… ", "cdots": "⋯ ", "prime": "′", "top": "⊤"},
    **{"|": "‖", "{": "{", "}": "}", "%": "%", "_": "_", "lfloor": "⌊", "rfloor": "⌋", "lceil": "⌈", "rceil": "⌉", "langle": "⟨", "rangle": "⟩", "mid": " | "},
}
SPACED = {
    **{"cdot": "·", "times": "×", "approx": "≈", "ne": "≠", "neq": "≠", "le": "≤", "leq": "≤", "ge": "≥", "geq": "≥", "ll": "≪", "gg": "≫", "sim": "∼"},
    **{"to": "→", "rightarrow": "→", "leftarrow": "←", "in": "∈", "notin": "∉", "odot": "⊙", "oplus": "⊕", "otimes": "⊗", "propto": "∝", "equiv": "≡"},
    **{"Rightarrow": "⇒", "iff": "⇔", "mapsto": "↦", "subset": "⊂", "cup": "∪", "cap": "∩"},
}
LARGE = {"sum": "Σ", "prod": "Π", "int": "∫"}
FUNCTIONS = {"ln", "log", "exp", "tanh", "sinh", "cosh", "sin", "cos", "tan", "max", "min", "arg", "argmax", "argmin", "sup", "lim", "det", "Pr"}
ACCENTS = {"hat": "\u0302", "bar": "\u0304", "tilde": "\u0303", "vec": "\u20d7", "dot": "\u0307", "overline": "\u0305"}
STYLES = {"mathrm", "mathsf", "mathbf", "mathit", "mathcal", "mathbb", "text", "operatorname", "textbf", "boldsymbol"}
NOTHING = {"left", "right", "big", "Big", "bigg", "Bigg", "bigl", "bigr", "Bigl", "Bigr", "displaystyle", "limits", "!"}
BLANKS = {",": " ", ";": " ", ":": " ", " ": " ", "quad": "  ", "qquad": "    "}
RELATIONS = "=<>"
NO_PRODUCT = set("=<>+-,.;:)]}|/·≈ ")

NUMBERS, LATIN, CAPITALS = "0123456789+-−=()", "abcdefghijklmnoprstuvwxyz", "ABDEGHIJKLMNOPRTUVW"
RAISED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁼⁽⁾ᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻᴬᴮᴰᴱᴳᴴᴵᴶᴷᴸᴹᴺᴼᴾᴿᵀᵁⱽᵂᵝᵞᵟᶿᵠ"
UP = dict(zip(NUMBERS + LATIN + CAPITALS + "βγδθφ", RAISED, strict=True))
DOWN = dict(zip("0123456789+-−=()aehijklmnoprstuvxβγρφχ", "₀₁₂₃₄₅₆₇₈₉₊₋₋₌₍₎ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓᵦᵧᵨᵩᵪ", strict=True))
UP["′"] = "′"
SMALL = "".join({*UP.values(), *DOWN.values(), *ACCENTS.values()} - {"′"})


def replace(markdown: str, convert: Callable[[str, bool], str], *, where: str) -> str:
    """``markdown`` with every formula replaced by ``convert(tex, display)``; code, macros and drawings stay.

    Raises ``ChapterError`` naming ``where`` and the line of a formula that cannot be converted.
    """

    def one(found: re.Match[str]) -> str:
        tex = found["display"] or found["inline"]
        if tex is None:
            return found[0]
        try:
            return convert(tex.strip(), found["display"] is not None)
        except ChapterError as error:
            raise ChapterError(f"the formula {tex.strip()!r} {error.problem}", where=f"{where}:{markdown.count(chr(10), 0, found.start()) + 1}") from error

    return PAGE.sub(one, markdown)


def for_site(markdown: str, *, where: str) -> str:
    """Every formula as MathML."""
    return replace(markdown, lambda tex, display: f'\n<div class="formula">{to_mathml(tex, display=True)}</div>\n' if display else to_mathml(tex), where=where)


def for_terminal(markdown: str, *, where: str) -> str:
    """Every formula as text: a displayed one as a block of its own, the others within their sentence."""

    def convert(tex: str, display: bool) -> str:
        text = to_text(tex)
        return f"\n```formula\n{text}\n```\n" if display else re.sub(r"([\\*_|])", r"\\\1", text)

    return replace(markdown, convert, where=where)


# ── MathML ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@functools.cache
def to_mathml(tex: str, *, display: bool = False) -> str:
    """The formula as a ``<math>`` element. Raises ``ChapterError`` for what is not known."""
    from latex2mathml.converter import convert
    from latex2mathml.exceptions import (
        DenominatorNotFoundError,
        DoubleSubscriptsError,
        DoubleSuperscriptsError,
        ExtraLeftOrMissingRightError,
        MissingSuperScriptOrSubscriptError,
        NoAvailableTokensError,
    )

    to_text(tex)  # knows what is allowed
    try:
        drawn = convert(tex, display="block" if display else "inline")
    except (
        DenominatorNotFoundError,
        DoubleSubscriptsError,
        DoubleSuperscriptsError,
        ExtraLeftOrMissingRightError,
        MissingSuperScriptOrSubscriptError,
        NoAvailableTokensError,
    ) as error:
        raise ChapterError(f"cannot be drawn ({type(error).__name__})") from error
    drawn = drawn.replace(' xmlns="http://www.w3.org/1998/Math/MathML"', "")
    drawn = re.sub(r'<mi mathvariant="(?:sans-serif|bold-italic)">', '<mi mathvariant="normal">', drawn)
    return re.sub(r'(?:<mi mathvariant="normal">\w</mi>){2,}', lambda m: f"<mi>{re.sub('<[^>]*>', '', m[0])}</mi>", drawn)


# ── text ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@functools.cache
def to_text(tex: str) -> str:
    r"""The formula in one line of Unicode. Raises ``ChapterError`` for what is not known.

    >>> to_text(r"\frac{\partial L}{\partial q} = \frac{1}{\sqrt d} \sum_{j=1}^{n} w_j k_j^2")
    '∂L/∂q = (1/√d) Σⱼ₌₁ⁿ wⱼ kⱼ²'
    """
    reader = _Reader(tex)
    text = reader.row("")
    return re.sub(r" {2,}", lambda m: m[0] if len(m[0]) > 3 else " ", text).strip()


class _Reader:
    def __init__(self, tex: str) -> None:
        self.tokens = [t.strip() or " " for t in TOKEN.findall(tex)]

    def row(self, end: str) -> str:
        """The text up to the token ``end``; an empty ``end`` is the end of the formula."""
        out = ""
        while self.tokens:
            if self.tokens[0] == end:
                self.tokens.pop(0)
                return _tidy(out)
            out = self.more(out)
        if end:
            raise ChapterError(f"lacks a {end}")
        return _tidy(out)

    def more(self, out: str) -> str:
        token = self.tokens.pop(0)
        if token in "_^":
            return out.rstrip(" ") + self.script(token)
        if token == "}":
            raise ChapterError("has a } without its {")
        if token in RELATIONS:
            return f"{out.rstrip(' ')} {token} "
        if token == "&":
            raise ChapterError("has a & outside a table; write two formulas")
        return out + self.atom(token)

    def script(self, token: str) -> str:
        inner = self.argument().replace(" ", "") if self.tokens else ""
        if not inner:
            raise ChapterError(f"ends after {token}")
        small = UP if token == "^" else DOWN
        if all(c in small for c in inner):
            return "".join(small[c] for c in inner)
        return token + (inner if len(inner) == 1 else f"({inner})")

    def argument(self) -> str:
        """One token or one group."""
        while self.tokens and self.tokens[0] == " ":
            self.tokens.pop(0)
        if not self.tokens:
            raise ChapterError("ends where something should follow")
        return self.atom(self.tokens.pop(0)).strip()

    def atom(self, token: str) -> str:
        if token == "{":
            return self.row("}")
        if not token.startswith("\\"):
            return {"-": "−", "'": "′", "*": "∗"}.get(token, token)
        return self.command(token[1:] or " ")  # a backslash and a blank: a blank

    def command(self, name: str) -> str:
        if name in LETTERS:
            return LETTERS[name]
        if name in SPACED:
            return f" {SPACED[name]} "
        if name in LARGE:
            return LARGE[name] + ("" if self.tokens[:1] in (["_"], ["^"]) else " ")
        if name in FUNCTIONS:
            return f" {name} "
        if name in BLANKS:
            return BLANKS[name]
        if name in NOTHING:
            return ""
        if name in STYLES:
            return self.argument()
        if name in ACCENTS:
            inner = self.argument()
            return inner[:1] + ACCENTS[name] + inner[1:]
        if name == "sqrt":
            inner = self.argument()
            return "√" + (inner if _simple(inner) else f"({inner})")
        if name == "frac":
            return self.fraction()
        raise ChapterError(f"has \\{name}, which is not known")

    def fraction(self) -> str:
        over, under = self.argument(), self.argument()
        over = f"({over})" if re.search(r"[ +−]", over) else over
        text = f"{over}/{under if _simple(under) else f'({under})'}"
        following = next((t for t in self.tokens if t != " "), "")
        product = following and following not in NO_PRODUCT and following.lstrip("\\") not in {*SPACED, "quad", "qquad", "Big", "big", "right"}
        return f"({text})" if product else text


def _simple(text: str) -> bool:
    """Whether ``text`` needs no brackets under a root or a stroke."""
    bare = "".join(c for c in text if c not in SMALL)
    return bool(re.fullmatch(r"[∂√d]?\w|\d+(\.\d+)?|\w\(\w\)", bare))


def _tidy(text: str) -> str:
    names = "|".join(sorted(FUNCTIONS, key=len, reverse=True))
    text = re.sub(rf"\b({names})([^\s\w(]*) +(?=[(′])", r"\1\2", text)
    text = re.sub(rf"(^|[=(≈←,] *)− +(?=(?:{names})\b)", r"\1−", text)
    return re.sub(r"([(\[]) +", r"\1", re.sub(r" +([)\],])", r"\1", text))


__all__ = ["for_site", "for_terminal", "replace", "to_mathml", "to_text"]
