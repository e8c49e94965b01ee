-- upsert_recorded
-- Upsert the staged batch like `upsert`, and record what changes. The rows that exist are locked and read first, in key
-- order: nothing changes them any more. A row that another session inserts meanwhile is `unseen`: what it was is not known,
-- and the batch has to be written again.
with before as materialized (
  select existing.*, existing.xmin as seed_registry_xid
  from {staging} as staged
  join {table} as existing on {same_key}
  order by {order}
  for no key update of existing
),
locked as materialized (
  select pg_catalog.count(*) as rows from before
),
{created}{written} as (
  insert into {table} as existing ({columns})
  select {values}
  from locked
  cross join {staging} as staged
  {not_created}
  order by {order}
  on conflict ({key}) do update
  set {assignments}
  -- an equal row is not written, nor one that is newer, if so asked
  where {differs}
  returning existing.*, {is_new} as seed_registry_is_new
),
{with_created}{recorded}
select
  pg_catalog.count(*) filter (where {alias}.seed_registry_is_new) as inserted,
  pg_catalog.count(*) filter (where not {alias}.seed_registry_is_new) as updated,
  -- a moment never goes backwards: where it is greater now than in the batch, it was so before
  (
    select pg_catalog.count(*)
    from {alias} as existing
    join {staging} as staged on {same_key}
    where not existing.seed_registry_is_new and {is_older}
  ) as updated_by_older,
  pg_catalog.count(*) filter (where not {alias}.seed_registry_is_new and before.{key_column} is null) as unseen
from {alias}
left join before on {same_before};
