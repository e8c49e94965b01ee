-- The records of a batch that are older than their rows, by the portal's own moment. Locks and writes nothing.
select batch.position::int
from unnest({arrays}) with ordinality as batch ({names}, position)
join {table} as existing on {same_key}
where {is_older};
