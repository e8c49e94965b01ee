-- The fields in which rows of the table differ from records; there is none for a record that the table lacks.
select batch.position::int, {is_older} as is_older, {conditions}
from unnest({arrays}) with ordinality as batch ({names}, position)
join {table} as existing on {same_key};
