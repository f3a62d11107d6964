"""A round's plan, drawn from its seed and number alone."""

from dataclasses import replace
from random import Random

from tests.chaos.faults import FAULTS, Fault
from tests.chaos.plan import Plan, Strike
from tests.newsroom import UNSTAMPED
from tests.oracle import KINDS

SOURCES = ("watermark", "outbox", "wal")
# whose history may be filled while faults strike
ENTITIES = {"demo": KINDS, "awkward": ("aw_title", "aw_label", "aw_airing", "aw_edition")}
_FIRST, _LAST = 0.3, 3.0  # seconds after the writers began
_SHORTEST, _LONGEST = 0.8, 3.0
_AWKWARD_SHARE = 0.2
_SWEPT_SHARE = 0.35
_FRESH_SHARE = 0.5
# with a wide one much of what other guards are for is read again, and their absence would not show
_MARGINS = (0.1, 0.4)


def draw(seed: str, number: int, faults: tuple[str, ...] = (), source: str = "", ground: str = "") -> Plan:
    """A round's plan; `faults`, `source` and `ground` are those drawn unless they are given.

    A seed `7+index_rebuilt` names a fault that strikes beside the drawn ones.
    """
    rng = Random(f"{seed}/{number}")
    drawn = rng.choice(SOURCES)
    source = source or drawn
    drawn = "awkward" if rng.random() < _AWKWARD_SHARE else "demo"
    ground = ground or drawn
    # hardly a table of the awkward monolith has a stamp
    swept = rng.random() < _SWEPT_SHARE or (source, ground) == ("watermark", "awkward")
    chosen = _chosen(rng, source, ground, swept)
    chosen = [FAULTS[name] for name in faults] or chosen + [FAULTS[name] for name in seed.split("+")[1:]]
    swept = swept or any(source in fault.swept for fault in chosen)
    plan = Plan(
        seed=seed,
        number=number,
        source=source,
        ground=ground,
        swept=swept,
        followers=rng.choice((1, 1, 2)),
        filled_beside=rng.choice((None, *ENTITIES[ground])),
        contents=rng.randrange(200, 500),
        files=rng.randrange(10, 60),
        poison=rng.randrange(3),
        writers_seed=rng.getrandbits(20),
        without=(),
        grace_seconds=rng.choice((1, 86_400)),
        ends_fresh=rng.random() < _FRESH_SHARE,
        strikes=tuple(_strike(rng, fault) for fault in chosen),
        margin=rng.choice(_MARGINS),
    )
    if any(fault.needs_history for fault in chosen):
        plan = replace(plan, filled_beside=plan.filled_beside or rng.choice(ENTITIES[ground]))
    return replace(plan, without=tuple(sorted(_left_out(plan, chosen))))


def _chosen(rng: Random, source: str, ground: str, swept: bool) -> list[Fault]:
    """Two to four, some of them more than once."""
    fit = [
        fault
        for fault in FAULTS.values()
        if source in fault.sources and ground in fault.grounds and (swept or source not in fault.swept)
    ]
    return rng.choices(fit, [fault.weight for fault in fit], k=rng.choice((2, 2, 3, 3, 4)))


def _strike(rng: Random, fault: Fault) -> Strike:
    return Strike(fault.name, rng.uniform(_FIRST, _LAST), rng.uniform(_SHORTEST, _LONGEST), rng.getrandbits(32))


def _left_out(plan: Plan, faults: list[Fault]) -> set[str]:
    """What the source does not claim, where no sweep finds it."""
    if plan.swept:
        return set()
    unclaimed = set(UNSTAMPED) if plan.source == "watermark" else set()
    # bytes that were overwritten by a transaction that a fault ends are nobody's to tell
    return unclaimed | ({"overwrite_file"} if any(fault.ends_writers for fault in faults) else set())
