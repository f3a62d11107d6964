"""What one transaction of a writer does to the awkward monolith; each function is one change on an open transaction."""

import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from tests.awkward.load import BIG, GIANT, NOWHERE, Loader
from tests.awkward.texts import CODES, WORDS, body

NO_FILE = "gone/nowhere.jpg"
_DISC = '"Old Vault"."Disc"'
_FILM, _TITLE = '"Old Vault"."Film"', '(SELECT "Id" AS id FROM "Old Vault"."Film" UNION ALL SELECT id FROM clip) t'


@dataclass
class Desk:
    """What a writer works with."""

    cursor: Any
    rng: Random
    client: Any
    bucket: str
    loader: Loader

    def run(self, statement: str, *values: object) -> int:
        """How many rows it changed."""
        self.cursor.execute(statement, values)
        return int(self.cursor.rowcount)

    def one(self, column: str, source: str) -> Any:
        """Some value of a column; None where there is none."""
        salt = self.rng.getrandbits(32)
        self.run(f"SELECT {column} FROM {source} ORDER BY md5({column}::text || %s) LIMIT 1", str(salt))
        return (self.cursor.fetchone() or (None,))[0]

    def film(self) -> Any:
        """A film's id."""
        return self.one('"Id"', _FILM)

    def title(self) -> Any:
        """A film's or clip's id."""
        return self.one("id", _TITLE)


def edit_film(desk: Desk) -> None:
    """Other words and numbers."""
    words = desk.rng.choice(WORDS), body(90_000 if desk.rng.random() < 0.05 else 100, "edited")
    numbers = desk.rng.choice((None, BIG, 3)), desk.rng.choice((None, "1.0", "1.00", "0.30"))
    desk.run(
        f'UPDATE {_FILM} SET "Title" = %s, "Body" = %s, "Gross" = %s, "Budget" = %s WHERE "Id" = %s',
        *words,
        *numbers,
        desk.film(),
    )


def edit_clip(desk: Desk) -> None:
    """Other words."""
    desk.run("UPDATE clip SET caption = %s WHERE id = %s", desk.rng.choice(WORDS), desk.one("id", "clip"))


def rewrite_the_same(desk: Desk) -> None:
    """Twenty rows of each table, as they are."""
    some = "(SELECT {0} FROM {1} ORDER BY {0} LIMIT 20)"
    desk.run(f'UPDATE {_FILM} SET "Title" = "Title" WHERE "Id" IN {some.format(chr(34) + "Id" + chr(34), _FILM)}')
    desk.run(f"UPDATE label SET name = name WHERE code IN {some.format('code', 'label')}")
    desk.run("UPDATE place SET city = city WHERE mod(id, 10) = 1")


def create_film(desk: Desk) -> None:
    """With tags and places."""
    key = str(uuid.UUID(int=desk.rng.getrandbits(128), version=4))
    desk.run(f"INSERT INTO {_FILM} VALUES ({', '.join(['%s'] * 9)})", *desk.loader.film(key))
    for tag in desk.loader.tags():
        desk.run("INSERT INTO tag VALUES (%s, %s)", key, tag)
    for at in desk.loader.places():
        desk.run("INSERT INTO place (title, rank, city) VALUES (%s, %s, %s)", key, *at)


def delete_title(desk: Desk) -> None:
    """For good; its tags and places stay behind, for nobody told them."""
    desk.run(f'DELETE FROM {_FILM} WHERE "Id" = %s', desk.film())
    desk.run("DELETE FROM clip WHERE id = %s", desk.one("id", "clip"))


def cut_down(desk: Desk) -> None:
    """A film becomes a clip, or a clip a film, under the same id."""
    if desk.rng.random() < 0.5:
        desk.run(
            f'WITH f AS (DELETE FROM {_FILM} WHERE "Id" = %s RETURNING *)'
            ' INSERT INTO clip SELECT "Id", "Title", "Body", "Label", "State", "Extra" FROM f',
            desk.film(),
        )
    else:
        desk.run(
            f"WITH c AS (DELETE FROM clip WHERE id = %s RETURNING *) INSERT INTO {_FILM} SELECT * FROM c",
            desk.one("id", "clip"),
        )


def other_id(desk: Desk) -> None:
    """A film under another key; half of its tags go with it."""
    old, new = desk.film(), str(uuid.UUID(int=desk.rng.getrandbits(128), version=4))
    desk.run(f'UPDATE {_FILM} SET "Id" = %s WHERE "Id" = %s', new, old)
    desk.run("UPDATE place SET title = %s WHERE title = %s", new, old)
    desk.run("UPDATE tag SET title = %s WHERE title = %s AND tag < 'm'", new, old)


def publish_and_not(desk: Desk) -> None:
    """Draft and published, back and forth, at times twice in a transaction."""
    film, clip = desk.film(), desk.one("id", "clip")
    for _ in range(desk.rng.choice((1, 2, 3))):
        desk.run(f'UPDATE {_FILM} SET "State" = %s WHERE "Id" = %s', desk.rng.choice("PPDDX"), film)
        desk.run("UPDATE clip SET state = %s WHERE id = %s", desk.rng.choice("PPDDX"), clip)


def publish_label(desk: Desk) -> None:
    """Draft and published."""
    code = desk.one("code", "label")
    desk.run("UPDATE label SET state = %s WHERE code = %s", desk.rng.choice("PPD"), code)


def retag(desk: Desk) -> None:
    """All tags off, others on."""
    title = desk.title()
    desk.run("DELETE FROM tag WHERE title = %s", title)
    for tag in desk.loader.tags():
        desk.run("INSERT INTO tag VALUES (%s, %s)", title, tag)


def move_children(desk: Desk) -> None:
    """All tags and one place of a title go to another one."""
    one, other = desk.title(), desk.title()
    desk.run("UPDATE tag SET title = %s WHERE title = %s", other, one)
    desk.run("UPDATE place SET title = %s WHERE id = %s", other, desk.one("id", "place"))


def delete_place(desk: Desk) -> None:
    """The first address becomes another one."""
    desk.run("DELETE FROM place WHERE id = %s", desk.one("id", "place"))


def rename_label(desk: Desk) -> None:
    """A name that many titles bear."""
    code = desk.rng.choice((GIANT, *CODES))
    desk.run("UPDATE label SET name = %s WHERE code = %s", desk.rng.choice(WORDS), code)


def recode_label(desk: Desk) -> None:
    """A text key becomes another one, and back; the titles' references go with it."""
    code = desk.rng.choice([code for code in CODES if code != GIANT])
    if not desk.run("UPDATE label SET code = %s WHERE code = %s", f"{code}'", code):
        desk.run("UPDATE label SET code = %s WHERE code = %s", code, f"{code}'")


def drop_label(desk: Desk) -> None:
    """Gone, and there again; meanwhile titles have lost it."""
    code = desk.rng.choice([code for code in CODES if code != GIANT])
    if not desk.run("DELETE FROM label WHERE code = %s", code):
        desk.run("INSERT INTO label (code, name, state) VALUES (%s, 'again', 'P')", code)


def rename_country(desk: Desk) -> None:
    """What is two tables away from the titles."""
    name, code = f"land {desk.rng.getrandbits(16)}", desk.one("code", "country")
    desk.run("UPDATE country SET name = %s WHERE code = %s", name, code)


def other_files(desk: Desk) -> None:
    """Other ids in JSON; some lead nowhere."""
    extra = desk.loader.extra()
    desk.run(f'UPDATE {_FILM} SET "Extra" = %s WHERE "Id" = %s', extra, desk.film())
    stills = json.dumps([desk.rng.choice((NOWHERE, *desk.loader.assets))])
    desk.run(
        "UPDATE clip SET extra = jsonb_build_object('stills', %s::jsonb) WHERE id = %s", stills, desk.one("id", "clip")
    )
    logo = desk.rng.choice((None, NOWHERE, *desk.loader.assets))
    desk.run("UPDATE label SET logo = %s WHERE code = %s", logo, desk.one("code", "label"))


def move_file(desk: Desk) -> None:
    """A shared file's path becomes another one, or one that leads nowhere, and back."""
    asset, other = desk.rng.choice(desk.loader.assets), desk.rng.choice(desk.loader.assets)
    path = NO_FILE if desk.rng.random() < 0.3 else desk.loader.path(other)
    desk.run("UPDATE asset SET path = %s, revised = DEFAULT WHERE id = %s", path, asset)


def drop_file(desk: Desk) -> None:
    """An asset is gone while rows name it, and comes back."""
    asset = desk.rng.choice(desk.loader.assets)
    if not desk.run("DELETE FROM asset WHERE id = %s", asset):
        desk.run("INSERT INTO asset (id, path) VALUES (%s, %s)", asset, desk.loader.path(asset))


def overwrite_file(desk: Desk) -> None:
    """Other bytes under the same key, and under the row's lock."""
    asset = desk.rng.choice(desk.loader.assets)
    path = desk.loader.path(asset)
    desk.run("SELECT FROM asset WHERE path = %s ORDER BY id FOR UPDATE", path)
    desk.client.put_object(
        Bucket=desk.bucket, Key=path, Body=desk.rng.randbytes(300), ContentType="image/png", Metadata={"by": "writer"}
    )
    desk.run("UPDATE asset SET revised = DEFAULT WHERE path = %s", path)


def air(desk: Desk) -> None:
    """Airings come, go, and are put off; their stamp goes back now and then."""
    desk.run("SELECT channel, slot, hd FROM airing ORDER BY md5(slot::text || %s) LIMIT 2", str(desk.rng.random()))
    keys = desk.cursor.fetchall()
    stamp = "timestamp '2001-01-01'" if desk.rng.random() < 0.3 else "localtimestamp"
    which = "WHERE (channel, slot, hd) = (%s, %s, %s)"
    for key in keys[:1]:
        note = desk.rng.choice(WORDS)
        desk.run(f"UPDATE airing SET note = %s, price = price / 3, touched = {stamp} {which}", note, *key)
    for key in keys[1:]:
        act = desk.rng.choice(
            (
                f"DELETE FROM airing {which}",
                f"UPDATE airing SET slot = slot + interval '1 us', touched = {stamp} {which}",
                f"UPDATE airing SET hd = NOT hd {which}",
                f"INSERT INTO airing SELECT channel || ',', slot, hd, title, note FROM airing {which}",
            )
        )
        desk.run(act, *key)


def shelve(desk: Desk) -> None:
    """A book and a disc of one number, with scenes of both."""
    no, note = desk.rng.randrange(1000), desk.rng.choice(WORDS)
    desk.run("INSERT INTO book VALUES (%s, %s) ON CONFLICT DO NOTHING", no, note)
    desk.run(f"INSERT INTO {_DISC} VALUES (%s, %s) ON CONFLICT DO NOTHING", no, note)
    desk.run("INSERT INTO scene (book, note) VALUES (%s, %s)", no, note)
    desk.run("INSERT INTO scene (disc, note) VALUES (%s, %s)", no, note)


def take_off_the_shelf(desk: Desk) -> None:
    """With all its scenes."""
    desk.run("DELETE FROM book WHERE no = %s", desk.one("no", "book"))
    desk.run(f'DELETE FROM {_DISC} WHERE "No" = %s', desk.one('"No"', _DISC))


def renumber(desk: Desk) -> None:
    """A book under another number, its scenes go with it; another one is renamed."""
    desk.run(
        "UPDATE book SET no = %s, changed = DEFAULT WHERE no = %s",
        desk.rng.randrange(1000, 9999),
        desk.one("no", "book"),
    )
    name = desk.rng.choice(WORDS)
    desk.run(f'UPDATE {_DISC} SET "Name" = %s, "Changed" = DEFAULT WHERE "No" = %s', name, desk.one('"No"', _DISC))


def move_scene(desk: Desk) -> None:
    """From whatever it is of to a disc, or to nothing."""
    disc = desk.rng.choice((None, desk.one('"No"', _DISC)))
    desk.run("UPDATE scene SET book = NULL, disc = %s WHERE id = %s", disc, desk.one("id", "scene"))


def opposite_orders(desk: Desk) -> None:
    """Two rows of one table and two of another, in any order: some of these end in a deadlock."""
    films = [desk.film(), desk.film()]
    labels = [(desk.rng.choice(CODES)) for _ in range(2)]
    for film, label in zip(films, labels, strict=True):
        desk.run(f'UPDATE {_FILM} SET "Title" = %s WHERE "Id" = %s', desk.rng.choice(WORDS), film)
        desk.run("UPDATE label SET story = %s WHERE code = %s", desk.rng.choice(WORDS), label)


Change = Callable[[Desk], None]
WEIGHTS: dict[Change, int] = {
    edit_film: 10,
    edit_clip: 4,
    rewrite_the_same: 3,
    create_film: 5,
    delete_title: 2,
    cut_down: 4,
    other_id: 3,
    publish_and_not: 8,
    publish_label: 3,
    retag: 5,
    move_children: 5,
    delete_place: 3,
    rename_label: 3,
    recode_label: 2,
    drop_label: 2,
    rename_country: 1,
    other_files: 6,
    move_file: 3,
    drop_file: 2,
    overwrite_file: 2,
    air: 8,
    opposite_orders: 5,
    shelve: 5,
    take_off_the_shelf: 4,
    renumber: 3,
    move_scene: 3,
}
