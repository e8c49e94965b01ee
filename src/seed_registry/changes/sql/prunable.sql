-- The runs whose last set of changes ended so long ago, the oldest first; and those whose pruning was cut short. A run that
-- the same command would resume is left, and one that is being taken back.
select
  run.run_id,
  ended.ended_at,
  case
    when run.outcome in ('running', 'failed', 'interrupted') and not exists (
      select from seed_registry.runs as later where later.key = run.key and later.started_at > run.started_at
    ) then 'it can be resumed'
    when exists (
      select from seed_registry.runs as undo
      where undo.undoes = run.run_id and undo.outcome in ('running', 'failed', 'interrupted') and not exists (
        select from seed_registry.runs as later where later.key = undo.key and later.started_at > undo.started_at
      )
    ) then 'a run that takes it back has not ended'
  end as obstacle
from seed_registry.runs as run
left join lateral (
  select pg_catalog.max(ended_at) as ended_at from seed_registry.change_sets where run_id = run.run_id
) as ended on true
where case run.history
  when 'kept' then ended.ended_at < pg_catalog.now() - $1::pg_catalog.interval
  when 'pruned' then
    exists (select from seed_registry.changes where run_id = run.run_id)
    or exists (select from seed_registry.created where run_id = run.run_id)
  else false
end
order by coalesce(ended.ended_at, run.started_at), run.run_id;
