-- Whether a table has the row of a key.
select exists (select from {table} as existing where {same_key});
