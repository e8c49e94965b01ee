-- summarize_created
-- One change stands for all rows that the run has created into the empty table since the last such change.
insert into seed_registry.changes (run_id, relation, kind, rows, key, fields)
select created.run_id, 'assets', 'inserted', created.rows - coalesce(told.rows, 0), '{}', '{}'
from (
  select run_id, pg_catalog.sum(rows)::pg_catalog.int8 as rows
  from seed_registry.created
  where run_id = $1
  group by run_id
) as created
cross join (
  select pg_catalog.sum(rows)::pg_catalog.int8 as rows
  from seed_registry.changes
  where run_id = $1 and relation = 'assets' and key = '{}'
) as told
where created.rows > coalesce(told.rows, 0);
