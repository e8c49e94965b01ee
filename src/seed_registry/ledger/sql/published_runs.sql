-- The other runs that have noted sources since a run began, or were at work then, and that show their keys.
select shown.run_id
from (select distinct run_id from seed_registry.listed_keys) as shown
where shown.run_id <> $1
  and exists (
    select from seed_registry.run_sources as noted
    where noted.run_id = shown.run_id
      and (
        pg_catalog.age(noted.xmin) <= pg_catalog.age($2::pg_catalog.text::pg_catalog.xid)
        or noted.run_id = any($3::pg_catalog.text[])
      )
  );
