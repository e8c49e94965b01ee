-- Whether a table ($2, $3) is a partition of another ($1), on any level.
select exists (
  select 1 from pg_catalog.pg_partition_tree(pg_catalog.to_regclass($1)) as part
  where part.relid = pg_catalog.to_regclass(pg_catalog.format('%I.%I', $2::pg_catalog.text, $3::pg_catalog.text))
);
