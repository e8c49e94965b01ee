-- The column lists that ON CONFLICT can infer: unique, valid, immediate, without expressions, over all rows.
select array(
  select attribute.attname::pg_catalog.text
  from pg_catalog.unnest(index.indkey[0 : index.indnkeyatts - 1]) with ordinality as part (number, position)
  join pg_catalog.pg_attribute as attribute
    on attribute.attrelid = index.indrelid and attribute.attnum = part.number
  order by part.position
) as columns
from pg_catalog.pg_index as index
join pg_catalog.pg_class as relation on relation.oid = index.indrelid
join pg_catalog.pg_namespace as namespace on namespace.oid = relation.relnamespace
where namespace.nspname = $1
  and relation.relname = $2
  and index.indisunique
  and index.indisvalid
  and index.indimmediate
  and index.indpred is null
  and index.indexprs is null;
