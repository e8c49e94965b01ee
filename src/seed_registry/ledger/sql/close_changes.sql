-- close_changes
-- The changes of a run since its last set are shown from now on. Under a lock, so that the order of these moments is that
-- of the commits, and each is later than the one before, whatever the clock says.
insert into seed_registry.change_sets (run_id, first_id, last_id, ended_at)
select $1, pg_catalog.min(id), pg_catalog.max(id),
  greatest(
    pg_catalog.clock_timestamp(),
    (select pg_catalog.max(ended_at) + interval '1 microsecond' from seed_registry.change_sets)
  )
from seed_registry.changes
where run_id = $1
  and id > coalesce((select pg_catalog.max(last_id) from seed_registry.change_sets where run_id = $1), 0)
having pg_catalog.count(*) > 0;
