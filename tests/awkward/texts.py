"""Texts that have broken pipelines: as keys, titles, tags, and names of files."""

CODES = (
    "7",
    "007",
    "0x7",
    "1e3",
    "1.0",
    "1.00",
    "NA",
    "na",
    "null",
    "NULL",
    "None",
    "nan",
    "true",
    "t",
    r"\N",
    r"\.",
    "\\",
    " ",
    " lead",
    "trail ",
    "two  words",
    "a,b",
    'quo"te',
    '"',
    "it's",
    "sla/sh",
    "../up",
    "%41",
    "100%",
    "%s",
    "a;b",
    "{a}",
    "{}",
    "[1]",
    '["a", "b"]',
    "*",
    "#?&=+",
    "café",
    "cafe\u0301",
    "Å",
    "A\u030a",
    "\u212b",
    "İ",
    "ß",
    "日本",
    "🎬",
    "\u200b",
    "\u00a0",
    "tab\tbed",
    "line\nbreak",
    "return\rhere",
    "\x01\x1f\x7f",
    "\u2028",
    "-0",
    "A",
    "a",
)
# no id of a document: nothing at all, and more than 512 bytes
NO_DOCUMENT = ("", "long " + "é" * 300)

WORDS = (*CODES, "plain", "<b>bold</b>", "\x02 stx \x1b esc", "back\\slash \\u0041", "\ufeffbom", "🏳️‍🌈", "")

PATHS = (
    "café/cover.jpg",
    "cafe\u0301/cover.jpg",
    "with space + plus.png",
    "100% (final).mp4",
    "ünïcode/日本/🎬.webm",
    "no extension",
    "dots...jpg",
    "quote'\"s.png",
    "a&b=c;d.gif",
    "UPPER/lower.JPG",
    "upper/lower.jpg",
)


def body(size: int, seed: str) -> str:
    """A long text with control characters in it."""
    line = f'{seed}: \x01\x0b\x1f\t"quoted", \\N\r\n\\.\n{{}} \u2028 é e\u0301 🎬\n'
    return (line * (size // len(line.encode()) + 1))[:size]
