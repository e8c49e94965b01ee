-- blocks
-- How many blocks a table has, if a run created rows of it that are not recorded one by one; of a partitioned table its
-- largest partition, and how many there are.
select
  case
    when exists (select 1 from seed_registry.created where run_id = $2) then
      pg_catalog.max(pg_catalog.pg_relation_size(class.oid)) / pg_catalog.current_setting('block_size')::pg_catalog.int8
    else 0
  end::pg_catalog.int8 as blocks,
  pg_catalog.count(*) as parts
from pg_catalog.pg_class as class
where (class.oid = pg_catalog.to_regclass($1) and class.relkind <> 'p')
  or class.oid in (select relid from pg_catalog.pg_partition_tree(pg_catalog.to_regclass($1)) where isleaf);
