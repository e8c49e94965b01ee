-- clear_marks
-- Rows of these keys are listed again: take the mark from those that were retired. In key order, as every batch locks.
with before as materialized (
  select existing.*, existing.xmin as seed_registry_xid
  from unnest({arrays}) as batch ({names})
  join {table} as existing on {same_key}
  where {is_retired}
  order by {order}
  for no key update of existing
),
asset as (
  update {table} as existing
  set {retired_column} = null
  from before
  where {same_before} and {is_retired}
  returning existing.*
){recorded}
select pg_catalog.count(*) from asset;
