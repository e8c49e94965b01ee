-- What a first load may drop from the assets ($1), and build again when all rows are there, in this order: the unique
-- index of the key ($3), the other indexes, the foreign keys to the sources ($2), and the constraint of the unique index,
-- which is the only one that keeps readers out. An index that something else depends on stays, and so does one whose
-- definition does not say all.
with loose as (
  select
    index.indexrelid as oid,
    index.indisunique as is_unique,
    class.relname::pg_catalog.text as name,
    pg_catalog.pg_get_indexdef(index.indexrelid) as definition,
    exists (
      select from pg_catalog.pg_constraint as owner
      where owner.conindid = index.indexrelid and owner.conrelid = index.indrelid and owner.contype = 'u'
    ) as is_constraint,
    array(
      select attribute.attname::pg_catalog.text
      from pg_catalog.unnest(index.indkey[0 : index.indnkeyatts - 1]) with ordinality as part (number, position)
      join pg_catalog.pg_attribute as attribute
        on attribute.attrelid = index.indrelid and attribute.attnum = part.number
      order by part.position
    ) as columns
  from pg_catalog.pg_index as index
  join pg_catalog.pg_class as class on class.oid = index.indexrelid
  where index.indrelid = pg_catalog.to_regclass($1)
    and index.indisvalid and index.indisready and index.indimmediate
    and not (index.indisprimary or index.indisexclusion or index.indisreplident or index.indisclustered)
    and class.reltablespace = 0
    and not exists (
      select from pg_catalog.pg_depend as needed
      where needed.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass and needed.refobjid = index.indexrelid
    )
    and (
      not index.indisunique
      or (index.indpred is null and index.indexprs is null and index.indnatts = index.indnkeyatts)
    )
),
dropped as (
  select * from loose
  where not is_unique or (columns @> $3::pg_catalog.text[] and columns <@ $3::pg_catalog.text[])
)
select 'index' as kind, name, definition, case when is_unique then columns end as key, case when is_unique then 1 else 2 end as rank
from dropped
union all
select 'constraint', link.conname::pg_catalog.text, pg_catalog.pg_get_constraintdef(link.oid), null, 3
from pg_catalog.pg_constraint as link
where link.contype = 'f' and link.convalidated
  and link.conrelid = pg_catalog.to_regclass($1) and link.confrelid = pg_catalog.to_regclass($2)
union all
select 'constraint', name, pg_catalog.format('unique using index %I', name), null, 4
from dropped where is_constraint
order by rank, name;
