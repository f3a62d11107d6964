-- A periodic sweep lists the legacy bucket only as often as SYNC_LISTING_SHARE allows. `swept_from` and `listed_at` speak of
-- sweeps that have also looked at the files, `compared_from` and `swept_at` of all sweeps that have compared all keys.
ALTER TABLE sync.cursor ADD COLUMN compared_from timestamptz; -- legacy time before which the last sweep began
ALTER TABLE sync.cursor ADD COLUMN listed_at timestamptz;     -- end of the last sweep that has also looked at the files
UPDATE sync.cursor SET compared_from = swept_from, listed_at = swept_at;

-- FALSE: the walk leaves the bucket out, so files that were overwritten under their key wait for a later one.
ALTER TABLE sync.sweep ADD COLUMN covers_files boolean NOT NULL DEFAULT true;
ALTER TABLE sync.sweep ADD COLUMN listing_seconds float8 NOT NULL DEFAULT 0; -- time that the last whole listing took
ALTER TABLE sync.sweep ADD COLUMN listing_so_far float8 NOT NULL DEFAULT 0;  -- and the one that has not ended
ALTER TABLE sync.sweep ADD COLUMN listing_at timestamptz;                    -- when the last page was listed
