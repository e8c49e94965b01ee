-- Schemas of benchmarks that ended without dropping them: a running benchmark holds a lock.
select namespace.nspname::text as name
from pg_catalog.pg_namespace as namespace
where pg_catalog.starts_with(namespace.nspname::text, 'seed_registry_bench_')
  and not exists (
    select from pg_catalog.pg_locks as lock
    where lock.locktype = 'advisory'
      and lock.classid::bigint = pg_catalog.hashtext('seed_registry.bench')::bigint & 4294967295
      and lock.objid::bigint = pg_catalog.hashtext(namespace.nspname::text)::bigint & 4294967295
  )
order by namespace.nspname;
