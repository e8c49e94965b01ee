-- undo_page
-- The next keys, in order, of the rows that a run changed: the hash of each after its last change, and whether the run
-- created it. Not those that this undo has dealt with. Each is looked up in the index, see undo_done.
-- $1 the run, $2 its relation, $3 the last key of the page before, $4 how many, $5 the run of this undo.
with page as materialized (
  select distinct key
  from seed_registry.changes
  where run_id = $1 and relation = $2 and key > $3::pg_catalog.text[]
  order by key
  limit $4
)
select page.key, last.hash,
  -- if the run created it, what an earlier change was about is another row, which was lost meanwhile
  changed.is_created or first.created_by is not distinct from $1 as is_created,
  (
    select true
    from seed_registry.changes as done
    where done.run_id = $5 and done.relation = $2 and done.key = page.key
    limit 1
  ) is not null as is_done
from page
cross join lateral (
  select pg_catalog.bool_or(change.before is null) as is_created
  from seed_registry.changes as change
  where change.run_id = $1 and change.relation = $2 and change.key = page.key
) as changed
cross join lateral (
  select change.created_by
  from seed_registry.changes as change
  where change.run_id = $1 and change.relation = $2 and change.key = page.key
  order by change.id
  limit 1
) as first
cross join lateral (
  select change.hash
  from seed_registry.changes as change
  where change.run_id = $1 and change.relation = $2 and change.key = page.key
  order by change.id desc
  limit 1
) as last
order by page.key;
