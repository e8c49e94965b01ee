-- save_shard_checkpoint
-- Save the position of a lane and the outcomes of its records, if this attempt still has the shard. Otherwise reading a
-- setting that does not exist fails, and with it the transaction of the batch.
with saved as (
  update seed_registry.checkpoints set
    line = $5, "offset" = greatest("offset", $6), assets = $7, size = $8, modified = $9, consumed = $10, digest = $11,
    batch = $12,
    inserted = inserted + $13, updated = updated + $14, unchanged = unchanged + $15, duplicate = duplicate + $16,
    resumed = resumed + $17, returned = returned + $18, older = older + $19,
    updated_by_older = updated_by_older + $20,
    saved_at = pg_catalog.now()
  where run_id = $1 and index = $2 and lane = $3 and lanes = $4 and shard = $21 and attempt = $22
  returning 1
)
select case
  when not exists (select from saved) then pg_catalog.current_setting('seed_registry.shard_has_another_attempt')
end;
