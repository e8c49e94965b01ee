-- The records of a batch that the table lacks, or holds with other values, and their fields. Locks and writes nothing.
select batch.position::int, existing.{key_column} is null as is_new, {conditions}
from unnest({arrays}) with ordinality as batch ({names}, position)
left join {table} as existing on {same_key}
where existing.{key_column} is null or {differs}
order by batch.position;
