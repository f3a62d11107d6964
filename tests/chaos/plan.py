"""What a round is to be: all that is drawn of it, before anything is started."""

from dataclasses import asdict, dataclass

WRITERS = 8
COMMITS = 200
RATE = 60.0  # transactions a second, of all writers


@dataclass(frozen=True)
class Strike:
    """One fault: when it begins after the writers have (s), how long it lasts (s), and its own source of chance."""

    fault: str
    at: float
    lasts: float
    seed: int


@dataclass(frozen=True)
class Plan:
    """Everything that is drawn of a round."""

    seed: str
    number: int
    source: str
    ground: str
    swept: bool  # every second, or never unless a source asks for it
    followers: int
    filled_beside: str | None  # whose history is filled while the faults strike
    contents: int
    files: int
    poison: int
    writers_seed: int
    without: tuple[str, ...]  # what writers leave out
    grace_seconds: int  # of garbage
    ends_fresh: bool  # whether another follower settles what the last one left
    strikes: tuple[Strike, ...]
    margin: float  # seconds that a watermark looks back

    @property
    def name(self) -> str:
        """What the round is called where a name is needed: databases, buckets, folders."""
        return f"chaos_{self.number}"

    def lines(self) -> list[str]:
        """The plan, to be printed before it is carried out."""
        facts = {name: value for name, value in asdict(self).items() if name not in {"strikes", "seed", "number"}}
        strikes = [f"  {s.fault} at {s.at:.2f} s for {s.lasts:.2f} s (dice {s.seed})" for s in self.strikes]
        said = ", ".join(f"{name} {value}" for name, value in facts.items())
        return [f"round {self.number} of seed {self.seed}: {said}", *strikes]
