-- The records that the registry does not hold as they are, in the order of the index.
select part, line, "offset", asset_key, source, differs
from pg_temp.seed_registry_audit
where differs is not null
order by part, "offset"
limit $1;
