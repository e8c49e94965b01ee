-- The comment of a table, and its columns.
select
  class.relkind = 'p' as is_partitioned,
  pg_catalog.obj_description(class.oid, 'pg_class') as comment,
  array(
    select attribute.attname::pg_catalog.text from pg_catalog.pg_attribute as attribute
    where attribute.attrelid = class.oid and attribute.attnum > 0 and not attribute.attisdropped
  ) as columns
from pg_catalog.pg_class as class
join pg_catalog.pg_namespace as namespace on namespace.oid = class.relnamespace
where namespace.nspname = $1 and class.relname = $2 and class.relkind in ('r', 'p');
