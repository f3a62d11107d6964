"""Texts as people leave them in a content system: several scripts, and every value that has ever broken an import."""

from __future__ import annotations

from random import Random

TITLES = (
    "Лето в городе",
    "How to repair an old bicycle",
    "Зимние рецепты",
    "The quiet harbour",
    "Ночной эфир",
    "Сказки для взрослых",
    "Notes on slow cinema",
    "מסע אל הים",
    "رحلة في الصحراء",
    "Концерт на крыше 🎸",
    "Größe, Maße & Gewichte",
    "日本の朝",
    "Interview: «мы не спешим»",
    "👩‍💻 One day with a developer",
)
# What must arrive exactly as it is.
AWKWARD = (
    "NA",
    "null",
    "NULL",
    "None",
    "nan",
    "",
    " ",
    "  padded  ",
    "0",
    "007",
    "1e5",
    "true",
    "\\N",
    "\\",
    'a "quoted" word',
    "it's",
    "tab\there",
    "line\nbreak",
    "return\r\nand line",
    "comma, semicolon; pipe|",
    "{curly}",
    "<b>bold</b> & so on",
    "50 % off",
    "и\u0306 in two parts",
    "zero\u200bwidth",
    "\u202ereversed\u202c",
    "🏳️‍🌈🧑🏽‍🚀",
    "-",
    "2020-02-30",
    "9007199254740993",
)
PLACES = (
    ("France", "Paris", "12 Rue de la Paix", "75002"),
    ("Россия", "Санкт-Петербург", "Невский проспект, 28", "191186"),
    ("USA", "Holtsville", "1 Main St", "00501"),
    ("Deutschland", "Köln", "Große Straße 7", "50667"),
    ("ישראל", "תל אביב", "דיזנגוף 50", "6433222"),
    ("NA", "Windhoek", "Independence Ave", "NA"),
    ("日本", "東京", "丸の内1丁目", "100-0005"),
    ("España", "A Coruña", "C/ Real, 3º", "0"),
)
TAGS = (
    *("news", "кино", "музыка", "travel", "food", "история", "science", "kids", "лонгрид", "city", "art", "театр"),
    *("NA", "null", "two words", "comma,inside", 'quo"te', "back\\slash", "{brace}", "ё", "🎧", "שלום", "سفر"),
    *("007", "A", "a", "", " "),
)
NAMES = (
    *("Анна Ильина", "John O'Neill", "מרים כהן", "Łukasz Żak", "José Núñez", "李小龙", "محمد علي"),
    *("Zoë 'Z' Smith", "NULL"),
)

_ENGLISH = "the a of slowly morning river people who never asked for more than light and bread"
_RUSSIAN = "вечером мы снова шли по набережной и говорили о том что было раньше и чего не будет"
_REST = 'שלום ים שמש لقاء قمر 海 朝 🎬 🎧 — … «так» "so" \\slash 100% naïve façade'
_WORDS = f"{_ENGLISH} {_RUSSIAN} {_REST}".split()
_PROSE_WORDS = 60_000


class Words:
    """Draws texts from one source of chance."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        words = rng.choices(_WORDS, k=_PROSE_WORDS)
        words[::9] = [f"{word}.\n" for word in words[::9]]
        self._prose = " ".join(words)

    def title(self, number: int) -> str:
        """A title nobody else has."""
        return f"{self.rng.choice(TITLES)} № {number}"

    def prose(self, length: int) -> str:
        """Running text."""
        start = self.rng.randrange(len(self._prose) - length)
        return self._prose[start : start + length]

    def awkward(self) -> str:
        """A value that tends to break things."""
        return self.rng.choice(AWKWARD)

    def place(self) -> tuple[str, str, str, str]:
        """Country, city, street, postal code."""
        return self.rng.choice(PLACES)

    def tags(self) -> list[str]:
        """None to eight different tags."""
        return self.rng.sample(TAGS, self.rng.choice((0, 1, 1, 2, 2, 3, 4, 5, 8)))

    def name(self, number: int) -> str:
        """An author's name."""
        return f"{self.rng.choice(NAMES)} {number}"
