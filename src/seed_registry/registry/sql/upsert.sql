-- Upsert the staged batch, in key order, so that concurrent loads wait for each other and never deadlock.
with {created}written as (
  insert into {table} as existing ({columns})
  select {values}
  from {staging} as staged
  {not_created}
  order by {order}
  on conflict ({key}) do update
  set {assignments}
  -- an equal row is not written, nor one that is newer, if so asked; they are locked all the same
  where {differs}
  returning {is_new} as inserted, {returned}
)
select
  pg_catalog.count(*) filter (where inserted) {and_created} as inserted,
  pg_catalog.count(*) filter (where not inserted) as updated,
  -- a moment never goes backwards: where it is greater now than in the batch, it was so before
  (
    select pg_catalog.count(*)
    from written as existing
    join {staging} as staged on {same_key}
    where not inserted and {is_older}
  ) as updated_by_older
from written;
