-- has_key
-- Whether a table has the row of a key.
select exists (select from {table} where {same_key});
