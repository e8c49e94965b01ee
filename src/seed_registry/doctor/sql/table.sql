-- Properties of a table that slow a load down.
select
  (
    select pg_catalog.count(*) from pg_catalog.pg_index as index where index.indrelid = class.oid
  ) as indexes,
  exists (
    select from pg_catalog.pg_index as index
    join pg_catalog.pg_attribute as attribute
      on attribute.attrelid = index.indrelid and attribute.attnum = index.indkey[0]
    where index.indrelid = class.oid and index.indisvalid and index.indpred is null and attribute.attname = $2
  ) as has_index,
  -- besides those that may change rows: each load warns about them
  array(
    select trigger.tgname::text from pg_catalog.pg_trigger as trigger
    where trigger.tgrelid = class.oid and not trigger.tgisinternal and trigger.tgenabled <> 'D'
      and trigger.tgtype & 3 <> 3
    order by trigger.tgname
  ) as triggers
from pg_catalog.pg_class as class
where class.oid = pg_catalog.to_regclass($1);
