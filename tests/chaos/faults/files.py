"""Files: overwritten while they are copied, cut in their bodies, and listings that fail."""

from collections.abc import Iterator
from random import Random
from urllib.parse import unquote

import psycopg2

from tests.chaos.faults.fault import ALL, DEMO, fault
from tests.chaos.interposer import Answer, Forward, Request
from tests.chaos.ledger import note
from tests.chaos.scene import SOUND, Scene
from tests.stores_at_fault import ByKey
from tests.wrong_answers import AFTER_TRIES, AT_ONCE

_ANSWERS = AT_ONCE | AFTER_TRIES
_SOME = "SELECT bucket_key FROM media_files ORDER BY hashint8(id # %s) LIMIT 12"
_OF = "SELECT content_id FROM media_files m WHERE bucket_key = %s"
_LOCK = f"SELECT FROM content WHERE id = %s AND {SOUND} FOR UPDATE NOWAIT"
_SAY = "UPDATE media_files SET size = %s, updated_at = now() WHERE bucket_key = %s"


@fault(weight=2, grounds=DEMO)
def overwritten_in_mid_copy(scene: Scene, dice: Random) -> Iterator[None]:
    """Other bytes under the same key, between the look at a file and its copy, or before the copy has ended."""

    def rule(request: Request, forward: Forward) -> Answer:
        key = _object(scene, request)
        if not key or dice.random() < 0.4:
            return forward(request)
        if dice.random() < 0.5:
            overwrite(scene, dice, key)
            return forward(request)
        answer = forward(request)
        overwrite(scene, dice, key)
        return answer

    yield from _ruled(scene, dice, rule)


@fault(weight=2, grounds=DEMO)
def body_cut(scene: Scene, dice: Random) -> Iterator[None]:
    """A file's body ends too soon."""

    def rule(request: Request, forward: Forward) -> Answer:
        answer = forward(request)
        if not _object(scene, request) or answer.status != 200 or dice.random() < 0.3:
            return answer
        return Answer(answer.status, answer.body, answer.headers, cut=dice.randrange(len(answer.body) or 1))

    yield from _ruled(scene, dice, rule)


@fault(weight=1.5, grounds=DEMO)
def bucket_busy(scene: Scene, dice: Random) -> Iterator[None]:
    """503 or 500 to whatever is asked of the legacy bucket, more often than not."""

    def rule(request: Request, forward: Forward) -> Answer:
        return Answer(dice.choice((500, 503))) if dice.random() < 0.6 else forward(request)

    yield from _ruled(scene, dice, rule)


@fault(weight=2, swept=ALL, grounds=DEMO)
def listing_fails(scene: Scene, dice: Random) -> Iterator[None]:
    """As a whole, or in its middle; or it is cut short."""

    def rule(request: Request, forward: Forward) -> Answer:
        if "list-type" not in request.path or dice.random() < 0.2:
            return forward(request)
        if dice.random() < 0.5:
            return Answer(500)
        answer = forward(request)
        return Answer(answer.status, answer.body, answer.headers, cut=dice.randrange(len(answer.body) or 1))

    yield from _ruled(scene, dice, rule)


@fault(weight=2, grounds=DEMO)
def files_answered_wrongly(scene: Scene, dice: Random) -> Iterator[None]:
    """Each of some files has its own wrong answer, whatever the store says of all others."""
    rule = ByKey()
    for (key,) in scene.world.legacy(_SOME, (dice.getrandbits(31),)):
        name = dice.choice(list(_ANSWERS))
        rule.faults[key] = _ANSWERS[name][0]
        scene.done[name] += 1
    with scene.network.ruled("SYNC_LEGACY_S3_ENDPOINT", rule):
        for key in rule.faults:
            overwrite(scene, dice, key)
        yield


def _ruled(scene: Scene, dice: Random, rule: object) -> Iterator[None]:
    """Behind the rule, some files are to be copied anew."""
    with scene.network.ruled("SYNC_LEGACY_S3_ENDPOINT", rule):
        overwrite_some(scene, dice)
        yield


def overwrite_some(scene: Scene, dice: Random) -> None:
    """So that there are files to be copied."""
    for (key,) in scene.world.legacy(_SOME, (dice.getrandbits(31),)):
        overwrite(scene, dice, key)


def _object(scene: Scene, request: Request) -> str:
    """The key of a file that is read; "" for any other request."""
    path, _, query = request.path.partition("?")
    bucket = f"/{scene.world.legacy_bucket}/"
    return (
        unquote(path.removeprefix(bucket)) if request.method == "GET" and path.startswith(bucket) and not query else ""
    )


def overwrite(scene: Scene, dice: Random, key: str) -> None:
    """Under the row's lock, as editors do it; where somebody is at the row, or no adapter takes it, not at all."""
    with scene.writer() as connection:
        cursor = connection.cursor()
        cursor.execute(_OF, (key,))
        contents = [content for (content,) in cursor.fetchall()]
        try:
            for content in contents:
                cursor.execute(_LOCK, (content,))
                if not cursor.rowcount:
                    return
        except psycopg2.errors.LockNotAvailable:
            return
        size = dice.randrange(1, 60_000)
        found = scene.world.client.head_object(Bucket=scene.world.legacy_bucket, Key=key)
        scene.world.client.put_object(
            Bucket=scene.world.legacy_bucket, Key=key, Body=dice.randbytes(size), ContentType=found["ContentType"]
        )
        cursor.execute(_SAY, (size, key))
        note(cursor, "overwritten", contents)
        connection.commit()
        scene.done["files overwritten"] += 1
