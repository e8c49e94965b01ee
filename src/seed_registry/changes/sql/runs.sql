-- The newest runs with history, or one run: by the moment when its last set ended, or it began.
select
  run.run_id,
  run.started_at,
  run.outcome,
  run.history,
  run.undoes,
  ended.ended_at,
  (run.report -> 'changes')::pg_catalog.text as summary
from seed_registry.runs as run
left join lateral (
  select pg_catalog.max(ended_at) as ended_at from seed_registry.change_sets where run_id = run.run_id
) as ended on true
where case when $1::pg_catalog.text is null then ended.ended_at is not null else run.run_id = $1 end
order by coalesce(ended.ended_at, run.started_at) desc
limit $2;
