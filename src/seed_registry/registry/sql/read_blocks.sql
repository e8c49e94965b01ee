-- Read the rows of some blocks of a table, from $1 to before $2.
select pg_catalog.count(*) from only {table} where ctid >= $1::pg_catalog.tid and ctid < $2::pg_catalog.tid;
