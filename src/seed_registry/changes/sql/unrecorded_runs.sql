-- The runs that ended behind one moment, up to another, and whose changes are not there: recorded nothing, or were pruned.
-- One that its report says changed nothing is left out; of one that was killed nothing is known.
select run_id, coalesce(finished_at, started_at) as ended_at, coalesce(history, 'none') as history
from seed_registry.runs
where coalesce(finished_at, started_at) > $1 and coalesce(finished_at, started_at) <= $2
  and (history is null or history = 'pruned')
  and (
    report is null
    or exists (
      select
      from (values ('sources'), ('assets')) as relation (name)
      cross join (values ('inserted'), ('updated'), ('retired'), ('returned'), ('resumed')) as outcome (name)
      where coalesce((report -> relation.name ->> outcome.name)::pg_catalog.int8, 0) > 0
    )
  )
order by 2;
