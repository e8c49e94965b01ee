-- undo_state
-- The rows of these keys, as they are: the hash of each, whether nothing has changed it since a run created it, the id of
-- its source, and whether it would go back to another one.
select batch.position::pg_catalog.int4, {hash} as hash, {is_intact} as is_intact, {source_id}::pg_catalog.text as source_id,
  {is_moved} as is_moved
from unnest({arrays}) with ordinality as batch ({names}, position)
join {table} as existing on {same_key}
{source}
order by {order}
{lock};
