-- Which process a worker is and how it gets on, without the help of any clock: the kernel's start tick of the process
-- within one boot, a counter of beats, the seconds it has worked by its own monotonic clock, and entities that hang.
ALTER TABLE sync.heartbeat
    ADD COLUMN started_ticks bigint,
    ADD COLUMN beats bigint NOT NULL DEFAULT 0,
    ADD COLUMN worked_seconds double precision,
    ADD COLUMN hanging text[] NOT NULL DEFAULT '{}';
