-- The columns of a table, as far as writing to it is concerned.
select
  attribute.attname::pg_catalog.text as name,
  type.typname::pg_catalog.text as type,
  relation.relkind = 'r' as plain,
  -- a row cannot be inserted unless somebody gives this column a value
  attribute.attnotnull
    and not attribute.atthasdef
    and attribute.attidentity = '' as required
from pg_catalog.pg_attribute as attribute
join pg_catalog.pg_class as relation on relation.oid = attribute.attrelid
join pg_catalog.pg_namespace as namespace on namespace.oid = relation.relnamespace
join pg_catalog.pg_type as type on type.oid = attribute.atttypid
where namespace.nspname = $1
  and relation.relname = $2
  and relation.relkind in ('r', 'p', 'f', 'v')
  and attribute.attnum > 0
  and not attribute.attisdropped
  -- what the database computes nobody can write
  and attribute.attgenerated = ''
order by attribute.attnum;
