-- The changes of an asset, the newest first, before an id: no more than so many, and so many bytes; one at least.
select
  id, run_id, kind, fields, before::pg_catalog.text as before, hash, created_by,
  -- NULL: its attempt has not ended
  (
    select pg_catalog.min(ended_at) from seed_registry.change_sets as ended
    where ended.run_id = page.run_id and ended.last_id >= page.id
  ) as at
from (
  select change.*, pg_catalog.sum(size) over (order by id desc) - size as bytes_before
  from (
    select change.*, coalesce(pg_catalog.octet_length(before::pg_catalog.text), 0) as size
    from seed_registry.changes as change
    where asset_key = $1 and relation = 'assets' and key = $2 and id < $3
    order by id desc
    limit $4
  ) as change
) as page
where bytes_before < $5
order by id desc;
