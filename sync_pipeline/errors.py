"""Errors, grouped by what to do next: mend a setting, mend a declaration, try again, or park a row."""

from collections.abc import Sequence


class SyncError(Exception):
    """Base of everything the engine raises on purpose; its text says what to do."""


class SettingError(SyncError):
    """A setting is missing or wrong. Stop; the operator mends the environment."""


class DeclarationError(SyncError):
    """An entity's file says something that cannot be. Stop; the entity's owner mends it."""


class LegacySchemaError(DeclarationError):
    """The legacy query no longer runs or has changed its columns. Stop this entity."""


class AccessError(LegacySchemaError):
    """The monolith does not show our role what is declared, or not all of it. Stop this entity until it does."""


class OwnershipError(DeclarationError):
    """An index or a prefix belongs to another deployment's ledger. Stop this entity; a person decides whose it is."""


class LeaseLostError(SyncError):
    """Another worker follows this entity now. Give way; nothing is lost."""


class UnreachableError(SyncError):
    """A store does not answer. Try again later; what is owed stays in `due`."""


class GapError(SyncError):
    """What a source had not reported yet is lost to it. Begin it anew, and sweep."""


class LogError(SyncError):
    """The log does not hold what is asked for. Fill the history again, or take a snapshot sooner."""


class StoppedError(SyncError):
    """Entities could not be followed, or a partition was left where it was. Their errors say why."""

    def __str__(self) -> str:
        return "\n".join(map(str, self.args))


class BrakeError(SyncError):
    """A sweep would delete more than the brake allows. Stop until a person has looked."""


class HiddenRowsError(BrakeError):
    """What hides rows of the monolith has changed since a person accepted it. Delete nothing until one has again."""


class SharedFaultError(SyncError):
    """Most rows of a batch fail alike, and others too. Stop this entity: its file or its table is to be corrected."""


class RowRejectedError(SyncError):
    """One row cannot be adapted or written. Park it; the others go on."""


class CompensationError(SyncError):
    """What a revision wrote cannot be undone now. It stays due, and is told."""


class MediaMissingError(RowRejectedError):
    """A row names a file that the legacy bucket does not hold."""


class MediaRefusedError(RowRejectedError):
    """A store refuses one file while it answers for others. Park the row; try again later."""


class MediaUnforeseenError(MediaRefusedError):
    """An error that no code foresaw has come up while one file was handled. Park its row with the traceback."""


class MediaDelayedError(RowRejectedError):
    """A file cannot be read or put now while its store answers for others. Try again soon, a few times."""


class IndexFaultError(UnreachableError):
    """A store answers, and an index, table or endpoint in it takes nothing. What it is sent stays in `due`.

    `suspects` are ids of documents that may have gone to another index before this was noticed.
    """

    suspects: Sequence[str] = ()


class FormerReleaseError(SyncError):
    """The ledger was migrated by a newer release, which refuses this one. Write nothing; a person upgrades."""


class OtherServerError(SyncError):
    """A database is another one than the ledger has recorded. Nothing is read there until a person accepts it."""
