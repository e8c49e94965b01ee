-- Some assets of these sources that the index does not have and that are not retired.
select existing.{key_column}::text as asset_key, wanted.source
from {assets} as existing
join pg_temp.seed_registry_audit_sources as wanted on wanted.source_id = existing.{source_column}
where not {is_retired} and not exists (
  select 1 from pg_temp.seed_registry_audit as record
  where record.asset_key = existing.{key_column} and record.scope = wanted.scope
)
order by existing.{key_column}::text collate pg_catalog."C"
limit $1;
