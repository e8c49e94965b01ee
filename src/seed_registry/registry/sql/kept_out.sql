-- How many staged rows, just upserted in this transaction, the table does not seem to hold.
-- A trigger that returns no row keeps one out without an error. What a trigger changed was still written by this transaction,
-- or was equal before.
select (select pg_catalog.count(*) from {staging}) - pg_catalog.count(*)
from {staging} as staged
join {table} as existing on {same_key}
where not {differs}
  or pg_catalog.age(existing.xmin) <= pg_catalog.age(pg_catalog.pg_current_xact_id()::pg_catalog.xid);
