-- undo_restore
-- Give the rows of these keys, which are locked, the values that they had before the run, and record that.
with before as materialized (
  select existing.*, existing.xmin as seed_registry_xid
  from unnest({arrays}) as batch ({names})
  join {table} as existing on {same_key}
),
{alias} as (
  update {table} as existing
  set {assignments}
  from unnest({arrays}) as batch ({names})
  cross join lateral (
{values_before}
  ) as former (was)
  where {same_key}
  returning existing.*
),
{recorded}
select {key} as key from {alias};
