"""Steps of a batch at which a row can be refused."""

from enum import StrEnum


class BatchStep(StrEnum):
    """Says where a dead letter was refused. For example: `adapt`, the entity's adapter raised an error for the row."""

    READ = "read"
    ADAPT = "adapt"
    MEDIA = "media"
    ROW = "row"
    DOCUMENT = "document"
    BATCH = "batch"  # an error that belongs to none of the other steps
