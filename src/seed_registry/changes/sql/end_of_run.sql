-- When a run ended: its last set, or it itself.
select
  run.history,
  coalesce(
    (select pg_catalog.max(ended_at) from seed_registry.change_sets where run_id = run.run_id), run.finished_at
  ) as ended_at
from seed_registry.runs as run
where run.run_id = $1;
