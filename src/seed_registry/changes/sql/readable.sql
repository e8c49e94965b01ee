-- Which tables of the ledger this program's commands on changes read, and whether this role may. By oid: a name in a schema
-- that the role may not use is an error, not an answer.
select
  coalesce(pg_catalog.bool_or(relation.relname = 'runs'), false) as has_ledger,
  pg_catalog.count(*) filter (where relation.relname <> 'runs') = 3
    and coalesce(
      pg_catalog.bool_and(
        exists (
          select from pg_catalog.pg_attribute as attribute
          where attribute.attrelid = relation.oid and attribute.attname = 'history' and not attribute.attisdropped
        )
      ) filter (where relation.relname = 'runs'),
      false
    ) as is_current,
  coalesce(
    pg_catalog.bool_and(
      pg_catalog.has_schema_privilege(namespace.oid, 'usage') and pg_catalog.has_table_privilege(relation.oid, 'select')
    ),
    false
  ) as is_readable,
  coalesce(
    pg_catalog.bool_and(
      pg_catalog.has_table_privilege(
        relation.oid, case when relation.relname = 'runs' then 'update' else 'delete' end
      )
    ),
    false
  ) as is_writable,
  current_user::pg_catalog.text as role
from pg_catalog.pg_class as relation
join pg_catalog.pg_namespace as namespace on namespace.oid = relation.relnamespace
where namespace.nspname = 'seed_registry' and relation.relname in ('runs', 'changes', 'created', 'change_sets');
