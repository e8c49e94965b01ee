-- The records of a batch that the table lacks, does not hold byte for byte, or has marked as retired; of the latter
-- whether it holds them otherwise. Reads the index, locks and writes nothing.
-- $1 are the joined hashes of the batch, $2 bytes each; $3 separates the values of the other columns.
select batch.position::int, existing.{key_column} is null as is_new, {is_retired} as is_retired,
  {is_equal} as is_equal
from unnest({arrays}) with ordinality as batch ({names}, position)
left join {table} as existing on {same_key}
where existing.{key_column} is null
  {is_other}
  or existing.{hash_column} is distinct from pg_catalog.substring(
    $1::pg_catalog.bytea, ((batch.position - 1) * $2::pg_catalog.int4 + 1)::pg_catalog.int4, $2::pg_catalog.int4
  ) {or_retired};
