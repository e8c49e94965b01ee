-- Those of these runs whose lock is taken; none of them is kept.
select run.run_id
from unnest($1::pg_catalog.text[], $2::pg_catalog.int8[]) as run (run_id, number)
where not pg_catalog.pg_try_advisory_xact_lock(run.number);
