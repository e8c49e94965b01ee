-- The positions of the records of a batch that the table holds with this source and content hash, of those that it holds
-- otherwise, and of these the ones with another source. The table lacks the remaining ones.
select
  pg_catalog.array_agg(batch.position::int) filter (where not ({differs})) as equal,
  pg_catalog.array_agg(batch.position::int) filter (where {differs}) as other,
  pg_catalog.array_agg(batch.position::int) filter (where {is_of_another}) as of_another
from unnest({arrays}) with ordinality as batch ({names}, position)
join {table} as existing on {same_key};
