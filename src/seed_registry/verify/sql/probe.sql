-- Which records of a batch the table does not hold under their key, with their source and, byte for byte, their content.
select batch.position::int, existing.{key_column} is null as is_missing, {is_of_another} as is_of_another
from unnest({arrays}) with ordinality as batch ({names}, position)
left join {table} as existing on {same_key}
where existing.{key_column} is null or {differs};
