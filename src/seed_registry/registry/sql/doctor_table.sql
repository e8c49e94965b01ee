-- What of a table makes a load slow, or its rows less than they seem.
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
  array(
    select trigger.tgname::text from pg_catalog.pg_trigger as trigger
    where trigger.tgrelid = class.oid and not trigger.tgisinternal and trigger.tgenabled <> 'D'
    order by trigger.tgname
  ) as triggers,
  class.relpersistence = 'u' as is_unlogged,
  class.relrowsecurity
    and (class.relforcerowsecurity or not pg_catalog.pg_has_role(class.relowner, 'usage'))
    and not exists (
      select from pg_catalog.pg_roles as role
      where role.rolname = current_user and (role.rolsuper or role.rolbypassrls)
    ) as hides_rows
from pg_catalog.pg_class as class
where class.oid = pg_catalog.to_regclass($1);
