-- Counts of the records of the index, by source.
select
  source,
  pg_catalog.count(*) as records,
  pg_catalog.count(*) filter (where differs = '{}') as missing,
  pg_catalog.count(*) filter (where differs <> '{}') as different,
  pg_catalog.count(*) filter (where by_value) as by_value
from pg_temp.seed_registry_audit
group by source;
