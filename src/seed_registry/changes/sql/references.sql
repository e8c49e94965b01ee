-- references
-- The foreign keys of tables that refer to a table or a partition of it; whether this role may read them, and whether it is
-- that of the assets.
select
  pg_catalog.format('%I.%I', namespace.nspname, relation.relname) as name,
  array(
    select attribute.attname::pg_catalog.text
    from pg_catalog.unnest(link.conkey) with ordinality as part (number, position)
    join pg_catalog.pg_attribute as attribute on attribute.attrelid = link.conrelid and attribute.attnum = part.number
    order by part.position
  ) as columns,
  array(
    select attribute.attname::pg_catalog.text
    from pg_catalog.unnest(link.confkey) with ordinality as part (number, position)
    join pg_catalog.pg_attribute as attribute on attribute.attrelid = link.confrelid and attribute.attnum = part.number
    order by part.position
  ) as referenced,
  pg_catalog.has_schema_privilege(namespace.oid, 'usage')
    and pg_catalog.has_table_privilege(relation.oid, 'select') as is_readable,
  (
    link.conrelid = pg_catalog.to_regclass($2)
    or link.conrelid in (select relid from pg_catalog.pg_partition_tree(pg_catalog.to_regclass($2)))
  ) as is_link
from pg_catalog.pg_constraint as link
join pg_catalog.pg_class as relation on relation.oid = link.conrelid
join pg_catalog.pg_namespace as namespace on namespace.oid = relation.relnamespace
where link.contype = 'f'
  and link.conparentid = 0
  and (
    link.confrelid = pg_catalog.to_regclass($1)
    or link.confrelid in (select relid from pg_catalog.pg_partition_tree(pg_catalog.to_regclass($1)))
  );
