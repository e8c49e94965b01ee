-- undo_insert
-- Insert the rows of these keys again that the run deleted, with their ids, and record that. One that exists stays.
with before as materialized (
  select existing.*, existing.xmin as seed_registry_xid from {table} as existing where false
),
{alias} as (
  insert into {table} as existing ({columns})
  overriding system value
  select {values}
  from unnest({arrays}) as batch ({names})
  cross join lateral (
{values_before}
  ) as former (was)
  order by {order}
  on conflict ({key_columns}) do nothing
  returning existing.*
),
{recorded}
select {key} as key from {alias};
