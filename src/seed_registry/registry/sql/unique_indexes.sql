-- The unique indexes of a table with their columns, and why ON CONFLICT cannot use one, null if it can.
select
  class.relname::pg_catalog.text as name,
  array(
    select attribute.attname::pg_catalog.text
    from pg_catalog.unnest(index.indkey[0 : index.indnkeyatts - 1]) with ordinality as part (number, position)
    join pg_catalog.pg_attribute as attribute
      on attribute.attrelid = index.indrelid and attribute.attnum = part.number
    order by part.position
  ) as columns,
  not index.indimmediate as is_deferrable,
  case
    when not index.indisvalid then 'is not valid'
    when not index.indimmediate then 'is deferrable'
    when index.indpred is not null then 'is partial'
    when index.indexprs is not null then 'is on an expression'
    when index.indisexclusion then 'is of a range'
    when exists (
      select from pg_catalog.pg_collation as sorting
      where sorting.oid = any(index.indcollation) and not sorting.collisdeterministic
    ) then 'takes keys that are spelt otherwise for equal'
  end as flaw
from pg_catalog.pg_index as index
join pg_catalog.pg_class as class on class.oid = index.indexrelid
join pg_catalog.pg_class as relation on relation.oid = index.indrelid
join pg_catalog.pg_namespace as namespace on namespace.oid = relation.relnamespace
where namespace.nspname = $1
  and relation.relname = $2
  and index.indisunique
order by class.relname;
