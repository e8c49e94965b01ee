-- If an index lists sources, a load does not write assets of others.
delete from pg_temp.seed_registry_audit where part = $1 and source = any($2::int[]);
