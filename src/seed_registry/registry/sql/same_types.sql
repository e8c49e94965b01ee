-- Keep the columns of a table as they are until the transaction ends, and fail where their types, given as oids, are
-- others now: the division is by zero then.
lock table {table} in row exclusive mode;
select 1 / (pg_catalog.count(*) = {count})::pg_catalog.int4
from pg_catalog.pg_attribute
where attrelid = pg_catalog.to_regclass({name})
  and not attisdropped
  and (attname, atttypid) in ({columns})
