-- Which records of a batch the table does not hold already, byte for byte. Reads the index, locks and writes nothing.
select batch.position::int
from unnest({arrays}) with ordinality as batch ({names}, position)
where not exists (select from {table} as existing where {same_row});
