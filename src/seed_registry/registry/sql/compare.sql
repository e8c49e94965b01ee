-- The fields in which rows of the table differ from records.
select batch.position::int, existing.{key_column} is null as is_missing, {is_older} as is_older,
  {conditions}
from unnest({arrays}) with ordinality as batch ({names}, position)
left join {table} as existing on {same_key};
