-- The last run that ended after a moment, and whose changes were deleted since.
select run_id, coalesce(finished_at, started_at) as ended_at
from seed_registry.runs
where history = 'pruned' and coalesce(finished_at, started_at) > $1
order by 2 desc
limit 1;
