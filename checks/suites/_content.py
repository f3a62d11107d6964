"""What text, video and audio share: all three live in the monolith's table `content`."""

from checks.expect import Between, Expectation, Holds, NotNull, OneOf, RefersTo
from checks.suite import LegacyRows

KINDS = ("text", "video", "audio")
STATUSES = ("draft", "published", "archived")


def new(kind: str, seconds: str) -> tuple[Expectation, ...]:
    """What a reader of the catalogue counts on; `seconds` is the column of its length."""
    return (
        NotNull("header", mostly=0.95),
        NotNull("created_at", mostly=0.99),
        NotNull("author", mostly=0.9),
        Between("price", at_least=0),
        Between("rating", at_least=0, at_most=5),
        Between(seconds, at_least=0),
        Between("version", at_least=1),
        Holds("cover is one file at most", "cardinality(cover) <= 1", show=("cover",)),
        Holds(
            f"files lie under {kind}/",
            f"NOT EXISTS (SELECT FROM unnest(t.cover || t.files) f WHERE f NOT LIKE '{kind}/%')",
            show=("cover", "files"),
        ),
    )


def legacy(kind: str) -> LegacyRows:
    """What the adapters rely on in rows of one kind, and in rows of a kind that no entity takes."""
    known = ", ".join(f"'{kind}'" for kind in KINDS)
    return LegacyRows(
        "content",
        where=f"deleted_at IS NULL AND (kind = '{kind}' OR kind IS NULL OR kind NOT IN ({known}))",
        expectations=(
            NotNull("kind"),
            OneOf("kind", KINDS),
            NotNull("status"),
            OneOf("status", STATUSES),
            Between("price", at_least=0),
            Between("rating", at_least=0, at_most=5),
            RefersTo("author_id", "authors"),
            Holds(
                "a duration is a whole number",
                r"t.attrs ->> 'duration' ~ '^-?\d{1,18}$'",
                show=("attrs",),
            ),
            Holds(
                "every file of it has a key in the bucket",
                "NOT EXISTS (SELECT FROM media_files m WHERE m.content_id = t.id AND coalesce(m.bucket_key, '') = '')",
            ),
            # a row without it is found by the sweep alone, and later
            NotNull("updated_at", mostly=0.95),
            # of application servers whose clocks run ahead
            Holds("updated_at is not in the future", "updated_at <= now() + interval '1 minute'", show=("updated_at",)),
        ),
    )
