-- create_first
-- A part of the statements that upsert, for servers which do not say what one has inserted: before Postgres 18 they have no
-- xmax of rows that go to a partition. This inserts the rows that are missing, and the upsert writes the others: also a row
-- that another session has inserted meanwhile.
created as (
  insert into {table} as existing ({columns})
  select {values}
  from {locked}{staging} as staged
  -- with a limit, each is looked up in the index
  where (select true from {table} as existing where {same_key} limit 1) is null
  order by {order}
  on conflict ({key}) do nothing
  returning {created_columns}, true as seed_registry_is_new
),
