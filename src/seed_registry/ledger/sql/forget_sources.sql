-- What ended runs noted of sources and keys; no run that began before their end is at work for so long.
with ended as (
  select run_id from seed_registry.runs
  where outcome <> 'running' and finished_at < pg_catalog.now() - interval '7 days'
),
forgotten as (
  delete from seed_registry.listed_keys where run_id in (select run_id from ended)
)
delete from seed_registry.run_sources where run_id in (select run_id from ended);
