-- A resumed run notes its sources again: the row is then as new as its attempt.
insert into seed_registry.run_sources (run_id, source)
select $1, source from pg_catalog.unnest($2::pg_catalog.text[]) as source
on conflict (run_id, source) do update set seen_at = pg_catalog.now();
