-- count_assets
-- How many assets each of these sources has.
select batch.position::pg_catalog.int4, existing.{id}::pg_catalog.text as source_id, counted.assets
from unnest({arrays}) with ordinality as batch ({names}, position)
join {table} as existing on {same_key}
cross join lateral (
  select pg_catalog.count(*) as assets from {assets} as asset where asset.{source_column} = existing.{id}
) as counted;
