-- retire
-- Mark the rows of these keys as retired, in key order, unless they were created or changed since the run began. Of a row
-- that another transaction has locked, its new version counts.
with before as materialized (
  select existing.*, existing.xmin as seed_registry_xid
  from unnest({arrays}) as batch ({names})
  join {table} as existing on {same_key}
  where not {is_retired}
    and pg_catalog.age(existing.xmin) > pg_catalog.age({xid}::pg_catalog.text::pg_catalog.xid)
    and existing.{source_column} = any({sources}::pg_catalog.{id_type}[])
  order by {order}
  for no key update of existing
),
asset as (
  update {table} as existing
  set {retired_column} = {now}
  from before
  where {same_before}
  returning existing.*
){recorded}
select pg_catalog.count(*) from asset;
