-- The records of a batch that the table lacks, holds with other values, or has marked as retired, and their fields. Locks
-- and writes nothing.
select
  batch.position::int, existing.{key_column} is null as is_new, {is_retired} as is_retired, not {differs} as is_equal,
  {is_older} as is_older,
  {conditions}
from unnest({arrays}) with ordinality as batch ({names}, position)
left join {table} as existing on {same_key}
where existing.{key_column} is null or {differs} {or_retired}
order by batch.position;
