-- Whether there is a ledger, of this version, and whether this role may write to it. By oid: a name in a schema that the
-- role may not use is an error, not an answer.
select
  pg_catalog.count(*) = 2 as is_there,
  pg_catalog.bool_or(exists (
    select from pg_catalog.pg_attribute as attribute
    where attribute.attrelid = relation.oid and attribute.attname = 'batch' and not attribute.attisdropped
  )) as is_current,
  coalesce(pg_catalog.bool_and(
    pg_catalog.has_schema_privilege(namespace.oid, 'usage')
    and pg_catalog.has_table_privilege(relation.oid, 'select')
    and pg_catalog.has_table_privilege(relation.oid, 'insert')
    and pg_catalog.has_table_privilege(relation.oid, 'update')
    and (relation.relname = 'runs' or pg_catalog.has_table_privilege(relation.oid, 'delete'))
  ), false) as is_usable
from pg_catalog.pg_class as relation
join pg_catalog.pg_namespace as namespace on namespace.oid = relation.relnamespace
where namespace.nspname = 'seed_registry' and relation.relname in ('runs', 'checkpoints');
