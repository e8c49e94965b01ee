-- Whether a table has the row of a key.
select exists (select 1 from {table} as existing where {same_key});
