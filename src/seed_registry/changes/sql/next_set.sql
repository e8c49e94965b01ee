-- The first set of changes that ended at a moment or later: of a run, or of any.
select
  found.run_id,
  found.last_id,
  found.ended_at,
  -- where the set before it in the same run ends
  coalesce(
    (
      select pg_catalog.max(before.last_id)
      from seed_registry.change_sets as before
      where before.run_id = found.run_id and before.last_id < found.last_id
    ),
    0
  ) as first_after
from seed_registry.change_sets as found
where found.ended_at >= $1 and ($2::pg_catalog.text is null or found.run_id = $2)
order by found.ended_at
limit 1;
