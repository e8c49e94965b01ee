-- An index that lists its sources is trusted to list them all: what belongs to others is not loaded.
delete from pg_temp.seed_registry_audit where part = $1 and source = any($2::int[]);
