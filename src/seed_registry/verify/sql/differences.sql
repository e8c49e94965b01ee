-- The first records that are missing in the registry, and the first that differ, in the order of the index.
select part, line, "offset", asset_key, source, differs
from (
  select *, pg_catalog.row_number() over (partition by differs = '{}' order by part, "offset") as number
  from pg_temp.seed_registry_audit
  where differs is not null
) as record
order by number, part, "offset"
limit $1;
