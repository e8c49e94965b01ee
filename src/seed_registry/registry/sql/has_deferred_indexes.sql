-- Whether this role may read which indexes are dropped; an older ledger has no such table.
select coalesce(pg_catalog.bool_or(
  pg_catalog.has_schema_privilege(namespace.oid, 'usage') and pg_catalog.has_table_privilege(relation.oid, 'select')
), false)
from pg_catalog.pg_class as relation
join pg_catalog.pg_namespace as namespace on namespace.oid = relation.relnamespace
where namespace.nspname = 'seed_registry' and relation.relname = 'deferred_indexes';
