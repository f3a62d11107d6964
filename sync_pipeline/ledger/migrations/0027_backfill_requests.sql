-- What asked for the partition last: a request that is made again goes on with its partitions that are not done.
ALTER TABLE sync.backfill ADD COLUMN request text;
