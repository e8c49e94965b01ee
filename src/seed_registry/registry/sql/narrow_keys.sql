-- The statements that drop the unique indexes by which two sources cannot both have a row with one key.
select case
  when made.conname is null then pg_catalog.format('drop index %I.%I;', namespace.nspname, relation.relname)
  else pg_catalog.format('alter table %I.%I drop constraint %I;', $1::text, $2::text, made.conname)
end as statement
from pg_catalog.pg_index as index
join pg_catalog.pg_class as relation on relation.oid = index.indexrelid
join pg_catalog.pg_namespace as namespace on namespace.oid = relation.relnamespace
left join pg_catalog.pg_constraint as made
  on made.conindid = index.indexrelid and made.conrelid = index.indrelid and made.contype in ('u', 'p')
cross join lateral (
  select pg_catalog.array_agg(attribute.attname::pg_catalog.text) as columns
  from pg_catalog.unnest(index.indkey[0 : index.indnkeyatts - 1]) as part (number)
  join pg_catalog.pg_attribute as attribute
    on attribute.attrelid = index.indrelid and attribute.attnum = part.number
) as key
where index.indrelid = pg_catalog.format('%I.%I', $1::text, $2::text)::pg_catalog.regclass
  and index.indisunique
  and index.indexprs is null
  and $3::text = any(key.columns)
  -- the key, or the key and its provider
  and key.columns <@ $4::text[]
order by statement;
