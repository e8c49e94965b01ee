-- The types of some columns as they are now, as oids, in order; null of a column that is gone.
select pg_catalog.array_agg(attribute.atttypid::pg_catalog.int8 order by wanted.position)
from pg_catalog.unnest($2::pg_catalog.text[]) with ordinality as wanted (name, position)
left join pg_catalog.pg_attribute as attribute
  on attribute.attrelid = pg_catalog.to_regclass($1)
  and attribute.attname = wanted.name
  and not attribute.attisdropped;
