-- The staged batch into its table. In key order, so that concurrent loads wait for each other and never deadlock.
with written as (
  insert into {table} as existing ({columns})
  select {values}
  from {staging} as staged
  order by {order}
  on conflict ({key}) do update
  set {assignments}
  -- a row that would become what it is already is not written
  where {differs}
  -- a row that this statement inserted has never been locked or deleted by anybody
  returning xmax = 0 as inserted
)
select
  pg_catalog.count(*) filter (where inserted) as inserted,
  pg_catalog.count(*) filter (where not inserted) as updated
from written;
