-- The source of the row of each of these keys. Reads the index, locks and writes nothing.
select batch.position::int, existing.{source_column} as source_id
from unnest({arrays}) with ordinality as batch ({names}, position)
join {table} as existing on {same_key};
