"""What one transaction of a writer does to the awkward monolith; each function is one change on an open transaction."""

import json
import uuid
from collections.abc import Callable
from typing import Any

from tests.awkward import loans
from tests.awkward.desk import FILM, Desk
from tests.awkward.load import BIG, GIANT, NOWHERE
from tests.awkward.texts import CODES, WORDS, body

NO_FILE = "gone/nowhere.jpg"
_DISC = '"Old Vault"."Disc"'
_AIRING = "WHERE (channel, slot, hd) = (%s, %s, %s)"


def edit_film(desk: Desk) -> None:
    """Other words and numbers."""
    words = desk.rng.choice(WORDS), body(90_000 if desk.rng.random() < 0.05 else 100, "edited")
    numbers = desk.rng.choice((None, BIG, 3)), desk.rng.choice((None, "1.0", "1.00", "0.30"))
    desk.run(
        f'UPDATE {FILM} SET "Title" = %s, "Body" = %s, "Gross" = %s, "Budget" = %s WHERE "Id" = %s',
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
    desk.run(f'UPDATE {FILM} SET "Title" = "Title" WHERE "Id" IN {some.format(chr(34) + "Id" + chr(34), FILM)}')
    desk.run(f"UPDATE label SET name = name WHERE code IN {some.format('code', 'label')}")
    desk.run("UPDATE place SET city = city WHERE mod(id, 10) = 1")


def create_film(desk: Desk) -> None:
    """With tags and places."""
    key = str(uuid.UUID(int=desk.rng.getrandbits(128), version=4))
    desk.run(f"INSERT INTO {FILM} VALUES ({', '.join(['%s'] * 9)})", *desk.loader.film(key))
    for tag in desk.loader.tags():
        desk.run("INSERT INTO tag VALUES (%s, %s)", key, tag)
    for at in desk.loader.places():
        desk.run("INSERT INTO place (title, rank, city) VALUES (%s, %s, %s)", key, *at)


def delete_title(desk: Desk) -> None:
    """For good; its tags and places stay behind, for nobody told them."""
    desk.run(f'DELETE FROM {FILM} WHERE "Id" = %s', desk.film())
    desk.run("DELETE FROM clip WHERE id = %s", desk.one("id", "clip"))


def cut_down(desk: Desk) -> None:
    """A film becomes a clip, or a clip a film, under the same id."""
    if desk.rng.random() < 0.5:
        desk.run(
            f'WITH f AS (DELETE FROM {FILM} WHERE "Id" = %s RETURNING *)'
            ' INSERT INTO clip SELECT "Id", "Title", "Body", "Label", "State", "Extra" FROM f',
            desk.film(),
        )
    else:
        desk.run(
            f"WITH c AS (DELETE FROM clip WHERE id = %s RETURNING *) INSERT INTO {FILM} SELECT * FROM c",
            desk.one("id", "clip"),
        )


def other_id(desk: Desk) -> None:
    """A film under another key; half of its tags go with it."""
    old, new = desk.film(), str(uuid.UUID(int=desk.rng.getrandbits(128), version=4))
    desk.run(f'UPDATE {FILM} SET "Id" = %s WHERE "Id" = %s', new, old)
    desk.run("UPDATE place SET title = %s WHERE title = %s", new, old)
    desk.run("UPDATE tag SET title = %s WHERE title = %s AND tag < 'm'", new, old)


def publish_and_not(desk: Desk) -> None:
    """Draft and published, back and forth, at times twice in a transaction."""
    film, clip = desk.film(), desk.one("id", "clip")
    for _ in range(desk.rng.choice((1, 2, 3))):
        desk.run(f'UPDATE {FILM} SET "State" = %s WHERE "Id" = %s', desk.rng.choice("PPDDX"), film)
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


def _asset(desk: Desk) -> int:
    """A file, more often than not one of the four that all labels have as logos."""
    assets = desk.loader.assets
    return desk.rng.choice(assets[:4] if desk.rng.random() < 0.5 else assets)


def other_files(desk: Desk) -> None:
    """Other ids in JSON; some lead nowhere."""
    extra = desk.loader.extra()
    desk.run(f'UPDATE {FILM} SET "Extra" = %s WHERE "Id" = %s', extra, desk.film())
    stills = json.dumps([desk.rng.choice((NOWHERE, *desk.loader.assets))])
    desk.run(
        "UPDATE clip SET extra = jsonb_build_object('stills', %s::jsonb) WHERE id = %s", stills, desk.one("id", "clip")
    )
    logo = desk.rng.choice((None, NOWHERE, *desk.loader.assets))
    desk.run("UPDATE label SET logo = %s WHERE code = %s", logo, desk.one("code", "label"))


def move_file(desk: Desk) -> None:
    """A shared file's path becomes another one, or one that leads nowhere, and back."""
    asset, other = _asset(desk), desk.rng.choice(desk.loader.assets)
    path = NO_FILE if desk.rng.random() < 0.3 else desk.loader.path(other)
    desk.run("UPDATE asset SET path = %s, revised = DEFAULT WHERE id = %s", path, asset)


def drop_file(desk: Desk) -> None:
    """An asset is gone while rows name it, and comes back."""
    asset = _asset(desk)
    if not desk.run("DELETE FROM asset WHERE id = %s", asset):
        desk.run("INSERT INTO asset (id, path) VALUES (%s, %s)", asset, desk.loader.path(asset))


def overwrite_file(desk: Desk) -> None:
    """Other bytes under the same key, and under the row's lock."""
    asset = _asset(desk)
    path = desk.loader.path(asset)
    desk.run("SELECT FROM asset WHERE path = %s ORDER BY id FOR UPDATE", path)
    desk.client.put_object(
        Bucket=desk.bucket, Key=path, Body=desk.rng.randbytes(300), ContentType="image/png", Metadata={"by": "writer"}
    )
    desk.run("UPDATE asset SET revised = DEFAULT WHERE path = %s", path)


def _airing(desk: Desk) -> Any:
    """Some airing's key."""
    desk.run("SELECT channel, slot, hd FROM airing ORDER BY md5(slot::text || %s) LIMIT 1", str(desk.rng.random()))
    return desk.cursor.fetchone() or ("nowhere", "2000-01-01", True)


def annotate(desk: Desk) -> None:
    """An airing is changed, and stamped."""
    note = desk.rng.choice(WORDS)
    setting = "note = %s, price = price / 3, touched = localtimestamp"
    desk.run(f"UPDATE airing SET {setting} {_AIRING}", note, *_airing(desk))


def play_back(desk: Desk) -> None:
    """An airing is changed, and its stamp goes back."""
    note = desk.rng.choice(WORDS)
    desk.run(f"UPDATE airing SET note = %s, touched = timestamp '2001-01-01' {_AIRING}", note, *_airing(desk))


def put_off(desk: Desk) -> None:
    """An airing under another key, and stamped."""
    other = desk.rng.choice(("slot = slot + interval '1 us'", "hd = NOT hd"))
    desk.run(f"UPDATE airing SET {other}, touched = localtimestamp {_AIRING}", *_airing(desk))


def call_off(desk: Desk) -> None:
    """An airing is deleted."""
    desk.run(f"DELETE FROM airing {_AIRING}", *_airing(desk))


def air_again(desk: Desk) -> None:
    """An airing is made, without a stamp."""
    again = (
        f"INSERT INTO airing SELECT channel || ',', slot, hd, title, note FROM airing {_AIRING} ON CONFLICT DO NOTHING"
    )
    desk.run(again, *_airing(desk))


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
    """A book under another number, and numbered anew; its scenes go with it."""
    desk.run(
        "UPDATE book SET no = %s, changed = DEFAULT WHERE no = %s",
        desk.rng.randrange(1000, 9999),
        desk.one("no", "book"),
    )


def rename_disc(desk: Desk) -> None:
    """Another name, and another number of its change."""
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
        desk.run(f'UPDATE {FILM} SET "Title" = %s WHERE "Id" = %s', desk.rng.choice(WORDS), film)
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
    annotate: 3,
    play_back: 2,
    put_off: 2,
    call_off: 1,
    air_again: 1,
    opposite_orders: 5,
    shelve: 5,
    take_off_the_shelf: 4,
    renumber: 2,
    rename_disc: 2,
    move_scene: 3,
    loans.lend: 4,
    loans.prolong: 3,
    loans.bring_back: 3,
    loans.waive: 2,
    loans.strike_off: 2,
    loans.rewrite: 2,
    loans.remind: 3,
    loans.word_otherwise: 2,
    loans.take_back: 2,
    loans.mistake: 2,
    loans.rename_branch: 1,
    loans.say_again: 2,
}
