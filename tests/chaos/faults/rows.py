"""Rows: such as no adapter takes, and such as change there and back."""

from collections.abc import Iterator
from random import Random

from tests.chaos.faults.fault import DEMO, fault
from tests.chaos.ledger import note
from tests.chaos.scene import Scene

_POISON = """
    INSERT INTO content (kind, title, status, attrs, created_at, updated_at)
    SELECT (ARRAY['text', 'video', 'audio'])[1 + n %% 3], 'poison', 'published', '{"duration": "no number"}', now(),
           now() FROM generate_series(1, %s) n RETURNING id"""
_MEND = "UPDATE content SET attrs = NULL, version = version + 1, updated_at = now() WHERE id = ANY(%s)"


@fault(weight=2, grounds=DEMO)
def poison(scene: Scene, dice: Random) -> Iterator[None]:
    """Several rows no adapter takes; half of them are mended, the others stay."""
    with scene.writer() as connection:
        cursor = connection.cursor()
        cursor.execute(_POISON, (dice.randrange(2, 20),))
        made = [key for (key,) in cursor.fetchall()]
        note(cursor, "poison", made)
        connection.commit()
        yield
        cursor.execute(_MEND, (made[::2],))
        note(cursor, "mended", made[::2])
        connection.commit()


@fault(weight=2, sources=("outbox", "wal"), grounds=DEMO, needs_history=True)
def there_and_back(scene: Scene, dice: Random) -> Iterator[None]:
    """Rows read otherwise for a moment, unstamped, and then as they did; each once, so that nothing comes after it."""
    contents = scene.contents(dice, 300)
    with scene.writer() as connection:
        cursor = connection.cursor()
        while contents:
            some, contents = contents[:10], contents[10:]
            for act in ("title || ' there'", "left(title, -6)"):
                cursor.execute(f"UPDATE content SET title = {act} WHERE id = ANY(%s) AND title IS NOT NULL", (some,))
                connection.commit()
                scene.over.wait(dice.random() / 5)
        yield


@fault(weight=1.5, grounds=DEMO)
def large_rows(scene: Scene, dice: Random) -> Iterator[None]:
    """Rows of a megabyte, many times what a page may hold; each is edited once more at the end."""
    keys = scene.contents(dice, dice.randrange(3, 12))
    with scene.writer() as connection:
        cursor = connection.cursor()
        for text in ("repeat(md5(id::text), 32768)", "repeat(md5(id::text), 16384)"):
            statement = (
                f"UPDATE content SET body = {text}, version = version + 1, updated_at = now() WHERE id = ANY(%s)"
            )
            cursor.execute(statement, (keys,))
            note(cursor, "large", keys)
            connection.commit()
            if text.endswith("32768)"):
                yield
