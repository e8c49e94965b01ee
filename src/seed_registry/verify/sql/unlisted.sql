-- The assets of these sources that the index does not have, and whether they are retired.
select existing.{key_column}::text as asset_key, wanted.source, {is_retired} as is_retired
from {assets} as existing
join pg_temp.seed_registry_audit_sources as wanted on wanted.source_id = existing.{source_column}
where not exists (
  select 1 from pg_temp.seed_registry_audit as record
  where record.asset_key = existing.{key_column} and record.scope = wanted.scope
);
