-- undo_done
-- The positions of those keys that this undo has dealt with. With a limit, each is looked up in the index: the planner knows
-- nothing of the rows of a run at work, and would compare all with all.
select batch.position::pg_catalog.int4
from unnest({arrays}) with ordinality as batch ({names}, position)
cross join lateral (
  select from seed_registry.changes as done
  where done.run_id = {run} and done.relation = {relation} and done.key = {batch_key}
  limit 1
) as found;
