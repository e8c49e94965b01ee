-- Keep the columns of a table as they are until the transaction ends, and fail where their types, given as oids, are
-- others now: the division is by zero then.
lock table {table} in row exclusive mode;
select 1 / case when array[{types}]::pg_catalog.int8[] = (
  select pg_catalog.array_agg(attribute.atttypid::pg_catalog.int8 order by wanted.position)
  from pg_catalog.unnest(array[{columns}]) with ordinality as wanted (name, position)
  left join pg_catalog.pg_attribute as attribute
    on attribute.attrelid = pg_catalog.to_regclass({name})
    and attribute.attname = wanted.name
    and not attribute.attisdropped
) then 1 else 0 end
