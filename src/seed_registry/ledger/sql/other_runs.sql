-- The sources that another run has noted since a run began, or had noted when it was at work then.
select source, pg_catalog.max(run_id) as run_id
from seed_registry.run_sources
where source = any($2::pg_catalog.text[])
  and run_id <> all($1::pg_catalog.text[])
  and (
    pg_catalog.age(xmin) <= pg_catalog.age($3::pg_catalog.text::pg_catalog.xid)
    or run_id = any($4::pg_catalog.text[])
  )
group by source;
