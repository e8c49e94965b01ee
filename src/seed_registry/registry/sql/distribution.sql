-- How Citus keeps a table: https://docs.citusdata.com/en/v13.0/develop/api_metadata.html
select
  placed.partmethod::pg_catalog.text <> 'n' as is_divided,
  placed.repmodel::pg_catalog.text = 't' as is_reference,
  pg_catalog.column_to_column_name(placed.logicalrelid, placed.partkey) as key,
  (
    select pg_catalog.count(*) from pg_catalog.pg_dist_shard as shard where shard.logicalrelid = placed.logicalrelid
  ) as shards
from pg_catalog.pg_dist_partition as placed
where placed.logicalrelid = pg_catalog.to_regclass($1);
