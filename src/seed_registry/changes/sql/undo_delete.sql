-- undo_delete
-- Delete the rows of these keys, which are locked, and record what they were.
with before as materialized (
  select existing.*, existing.xmin as seed_registry_xid
  from unnest({arrays}) as batch ({names})
  join {table} as existing on {same_key}
),
{alias} as (
  delete from {table} as existing
  using before
  where {same_before}
  returning existing.*
),
{recorded}
select {key} as key from {alias};
