-- Fail if the types of a table's columns, given as oids, have changed: there is no setting of this name.
select case when pg_catalog.count(*) <> {count} then pg_catalog.current_setting('{failure}') end
from pg_catalog.pg_attribute
where attrelid = pg_catalog.to_regclass({name})
  and not attisdropped
  and (attname, atttypid) in ({columns})
