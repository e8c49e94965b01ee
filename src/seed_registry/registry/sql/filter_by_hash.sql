-- The records of a batch that the table does not hold byte for byte. Reads the index, locks and writes nothing.
-- $1 are the joined hashes of the batch, $2 bytes each; $3 separates the values of the other columns.
select batch.position::int
from unnest({arrays}) with ordinality as batch ({names}, position)
where not exists (
  select from {table} as existing
  where {same_row}
    and existing.{hash_column} = pg_catalog.substring(
      $1::pg_catalog.bytea, ((batch.position - 1) * $2::pg_catalog.int4 + 1)::pg_catalog.int4, $2::pg_catalog.int4
    )
);
