-- The first set of changes that ended at a moment or later: of a run, or of any.
select run_id, first_id, last_id, ended_at
from seed_registry.change_sets
where ended_at >= $1 and ($2::pg_catalog.text is null or run_id = $2)
order by ended_at
limit 1;
