-- undo_keep
-- Mark the rows of these keys, which are locked, as retired instead of deleting them, and record that.
with before as materialized (
  select existing.*, existing.xmin as seed_registry_xid
  from unnest({arrays}) as batch ({names})
  join {table} as existing on {same_key}
),
asset as (
  update {table} as existing
  set {retired_column} = {now}
  from unnest({arrays}) as batch ({names})
  where {same_key} and not {is_retired}
  returning existing.*
){recorded}
select {key} as key from asset;
