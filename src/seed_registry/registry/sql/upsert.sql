-- Upsert the staged batch, in key order, so that concurrent loads wait for each other and never deadlock.
with written as (
  insert into {table} as existing ({columns})
  select {values}
  from {staging} as staged
  order by {order}
  on conflict ({key}) do update
  set {assignments}
  -- an equal row is not written
  where {differs}
  -- xmax is 0 only for rows that this statement inserted
  returning xmax = 0 as inserted
)
select
  pg_catalog.count(*) filter (where inserted) as inserted,
  pg_catalog.count(*) filter (where not inserted) as updated
from written;
