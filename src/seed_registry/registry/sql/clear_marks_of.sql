-- clear_marks_of
-- Take the mark from the rows of these sources that have these asset keys and were retired.
with before as materialized (
  select existing.*, existing.xmin as seed_registry_xid
  from {table} as existing
  where existing.{key_column} = any($1::pg_catalog.text[])
    and existing.{source_column} = any($2::pg_catalog.{id_type}[])
    and {is_retired}
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
