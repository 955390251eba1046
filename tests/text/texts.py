"""Texts that tokenizers get wrong, and random ones."""

import random
import unicodedata

STORY = (
    "The miller had a mill by the river. The miller's mill ground meal, and the miller's meal was the best meal by the river: 12 sacks a day, 84 a week.\n"
    "  \"More meal!\" said the miller. The river ran, the mill ran,\n\tand the miller ran too. They'll say I'VE seen 1234567 of them…\r\n\r\n"
)
CODE = "def f(self, x=10_000):\n    if x > 0:\n        return [self.g(i) for i in range(x)]  # ok?\n\n\n    raise ValueError('it''s')\n"
WORLD = "Zoë naïvely paid 3 € — «да!», 日本語 नमस्ते 👩‍🚀🏴‍☠️ e\u0301\u0323 ١٢٣٤ ⅷ² ｱ\u3000б\u00a0ß ſ'ſ 'S 'LL\u2028x"
SPACES = "a  b   c\n\n\n d \t\t e\r\n  f \n "
TEXTS = (STORY, CODE, WORLD, SPACES)

# Assigned since Unicode 3.2 and of the same kind ever since: every engine's tables agree on these, whatever its Unicode version.
OLD = [
    char
    for char in map(chr, range(0x110000))
    if unicodedata.ucd_3_2_0.category(char)[0] not in "C" and unicodedata.ucd_3_2_0.category(char)[0] == unicodedata.category(char)[0]
]
AWKWARD = list("  \n\n\r\t''sStTlLvVeErRdDmM..((09aé日👍ſ\u00a0\u2028\u0301\x85\x1c")


def random_text(rng: random.Random, length: int) -> str:
    """Half awkward characters in runs, half any."""
    text = ""
    while len(text) < length:
        text += rng.choice(AWKWARD) * rng.choice((1, 1, 1, 2, 3)) if rng.random() < 0.7 else rng.choice(OLD)
    return text
