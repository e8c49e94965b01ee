-- The records of a batch whose key, source and content hash the table does not hold.
select batch.position::int, existing.{key_column} is null as is_missing, {is_of_another} as is_of_another
from unnest({arrays}) with ordinality as batch ({names}, position)
left join {table} as existing on {same_key}
where existing.{key_column} is null or {differs};
