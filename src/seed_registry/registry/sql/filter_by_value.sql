-- The positions of the records of a batch that the table holds with these values, of those that it holds with others, and of
-- those whose rows are marked as retired; the remaining ones as in `filter_by_hash`. Locks and writes nothing.
select
  pg_catalog.array_agg(batch.position::int) filter (where not {differs}) as equal,
  pg_catalog.array_agg(batch.position::int) filter (where {differs}) as other,
  pg_catalog.array_agg(batch.position::int) filter (where {is_retired}) as retired
from unnest({arrays}) with ordinality as batch ({names}, position)
join {table} as existing on {same_key};
