-- The sources that another run has noted since a run began, or had noted when it was at work then. Not those of runs whose
-- keys are known, while they still show them: one that is resumed reads its indexes again.
select source, pg_catalog.max(run_id) as run_id
from seed_registry.run_sources as noted
where source = any($2::pg_catalog.text[])
  and run_id <> $1
  and (
    pg_catalog.age(xmin) <= pg_catalog.age($3::pg_catalog.text::pg_catalog.xid)
    or run_id = any($4::pg_catalog.text[])
  )
  and not (
    run_id = any($5::pg_catalog.text[])
    and exists (select from seed_registry.listed_keys as shown where shown.run_id = noted.run_id)
  )
group by source;
