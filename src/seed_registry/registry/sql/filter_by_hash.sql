-- The positions of the records of a batch that the table holds byte for byte, of those that it holds otherwise, and of those
-- whose rows are marked as retired, which are in one of the others as well. The table lacks the remaining ones: an outer join
-- would tell them, but for it Citus copies a whole distributed table to one node. Reads the index, locks and writes nothing.
-- $1 are the joined hashes of the batch, $2 bytes each; $3 separates the values of the other columns.
select
  pg_catalog.array_agg(batch.position::int) filter (where {is_equal}) as equal,
  pg_catalog.array_agg(batch.position::int) filter (where not {is_equal}) as other,
  pg_catalog.array_agg(batch.position::int) filter (where {is_retired}) as retired
from unnest({arrays}) with ordinality as batch ({names}, position)
join {table} as existing on {same_key};
