-- undo_counts
-- What an undo did, in all its attempts.
select relation,
  pg_catalog.count(*) filter (where kind = 'undone' and hash is null) as deleted,
  pg_catalog.count(*) filter (where kind = 'undone' and before is null) as inserted,
  pg_catalog.count(*) filter (where kind = 'undone' and before is not null and hash is not null) as restored,
  pg_catalog.count(*) filter (where kind = 'retired') as retired
from seed_registry.changes
where run_id = $1
group by relation;
