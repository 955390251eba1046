"""What a text may go on with, looked up in itself: most texts repeat names, quotes, code and lists (prompt lookup: Saxena 2023)."""

from collections.abc import Sequence

MOST, LEAST = 3, 2  # tokens that must be alike


class Lookup:
    """Guesses for one text that grows: those of ``speculate.NGramDraft``, without searching the text anew each time, and always ``count`` of them.

    ``places`` has for each run of ``least`` to ``most`` tokens the position after the last place where it stood and something followed.
    """

    def __init__(self, most: int = MOST, least: int = LEAST) -> None:
        self.most, self.least, self.places, self.read = most, least, dict[tuple[int, ...], int](), 1

    def guesses(self, text: Sequence[int], count: int) -> list[int]:
        """``count`` tokens as they followed the longest known run that ``text`` ends with, or none; ``text`` is that of the last call, and more.

        Where what followed reaches the end of the text, it goes on as its own repetition.
        """
        for end in range(self.read, len(text)):
            for n in range(self.least, min(self.most, end) + 1):
                self.places[tuple(text[end - n : end])] = end
        self.read = max(self.read, len(text))
        for n in range(min(self.most, len(text) - 1), self.least - 1, -1):
            at = self.places.get(tuple(text[-n:]))
            if at is not None:
                found = list(text[at : at + count])
                while len(found) < count:
                    found.append(found[len(found) - (len(text) - at)])
                return found
        return []
