-- The records that the registry does not hold as they are, the first of those missing and of those different alike, in
-- the order of the index.
select part, line, "offset", asset_key, source, differs
from (
  select *, pg_catalog.row_number() over (partition by differs = '{}' order by part, "offset") as number
  from pg_temp.seed_registry_audit
  where differs is not null
) as record
order by number, part, "offset"
limit $1;
