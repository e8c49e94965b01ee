-- How many rows, and the sums of the upper and the lower halves of the first 128 bits of their hashes; see digest.py.
-- The hash is a function in FROM, so that it is computed once per row, and by parallel workers.
select
  pg_catalog.count(*) as count,
  coalesce(pg_catalog.sum(('x' || pg_catalog.substr(hash, 1, 16))::pg_catalog.bit(64)::pg_catalog.int8), 0) as upper,
  coalesce(pg_catalog.sum(('x' || pg_catalog.substr(hash, 17, 16))::pg_catalog.bit(64)::pg_catalog.int8), 0) as lower,
  pg_catalog.count(*) filter (where pg_catalog.substr(hash, 17, 1) >= '8') as negative
from {rows}
cross join lateral pg_catalog.encode(
  pg_catalog.sha256(pg_catalog.array_send(array[{values}]::pg_catalog.text[])), 'hex'
) as hash
{condition};
