-- The records of a batch whose keys the table holds: whether their rows are marked as retired, equal or newer, and the fields
-- in which they differ. Locks and writes nothing.
select
  batch.position::int, {is_retired} as is_retired, not {differs} as is_equal, {is_older} as is_older, {conditions}
from unnest({arrays}) with ordinality as batch ({names}, position)
join {table} as existing on {same_key};
