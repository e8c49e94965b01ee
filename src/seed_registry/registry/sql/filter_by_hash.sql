-- Which records of a batch the table does not hold already, byte for byte. Reads the index, locks and writes nothing.
-- $1 are the hashes of the batch, each of $2 bytes; $3 is what separates the values of the other columns.
select batch.position::int
from unnest({arrays}) with ordinality as batch ({names}, position)
where not exists (
  select from {table} as existing
  where {same_row}
    and existing.{hash_column} = pg_catalog.substring(
      $1::pg_catalog.bytea, ((batch.position - 1) * $2::pg_catalog.int4 + 1)::pg_catalog.int4, $2::pg_catalog.int4
    )
);
