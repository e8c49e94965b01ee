-- Rows of these keys are listed again: take the mark from those that were retired. In key order, as every batch locks.
with listed as (
  select {existing_key}
  from unnest({arrays}) as batch ({names})
  join {table} as existing on {same_key}
  where {is_retired}
  order by {order}
  for update of existing
)
update {table} as existing
set {retired_column} = null
from listed as batch
where {same_key} and {is_retired};
