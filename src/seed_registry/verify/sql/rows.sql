-- Counts of the rows of these sources, of those that the index does not have, and of these that are not retired.
select
  wanted.source,
  pg_catalog.count(*) as rows,
  pg_catalog.count(*) filter (where record.part is null and not {is_retired}) as extra,
  pg_catalog.count(*) filter (where record.part is null and {is_retired}) as retired
from {assets} as existing
join pg_temp.seed_registry_audit_sources as wanted on wanted.source_id = existing.{source_column}
left join pg_temp.seed_registry_audit as record
  on record.asset_key = existing.{key_column} and record.scope = wanted.scope
group by wanted.source;
