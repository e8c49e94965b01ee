-- undo_created
-- The assets in some blocks of the table, or of each of its partitions, that a run created which began without any. Of one
-- that was changed since, what its hash was before that; null if nobody recorded it. Not those that the run changed itself,
-- nor those that this undo has dealt with. With limits, each is looked up in the index, see undo_done.
-- $1 the run, $2 the first block, $3 the one after the last, $4 the run of this undo.
select found.key,
  (
    select change.created_hash
    from seed_registry.changes as change
    where change.created_by = $1 and change.key = found.key
    order by change.id desc
    limit 1
  ) as hash
from (
  select {key} as key
  from {table} as existing
  cross join lateral (
    select from seed_registry.created as created
    where created.at = existing.created_at and created.run_id = $1
    limit 1
  ) as created
  where existing.ctid >= pg_catalog.format('(%s,0)', $2::pg_catalog.int8)::pg_catalog.tid
    and existing.ctid < pg_catalog.format('(%s,0)', $3::pg_catalog.int8)::pg_catalog.tid
) as found
left join lateral (
  select change.id
  from seed_registry.changes as change
  where change.run_id in ($1, $4) and change.relation = 'assets' and change.key = found.key
  limit 1
) as change on true
where change.id is null;
