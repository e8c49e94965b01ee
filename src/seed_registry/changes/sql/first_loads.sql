-- The entries that stand for all assets which runs created, in the sets that ended behind one moment, up to another.
select sets.run_id, pg_catalog.sum(change.rows)::pg_catalog.int8 as rows
from seed_registry.change_sets as sets
join seed_registry.changes as change
  on change.run_id = sets.run_id and change.relation = 'assets' and change.key = '{}'
  and change.id >= sets.first_id and change.id <= sets.last_id
where sets.ended_at > $1 and sets.ended_at <= $2
group by sets.run_id;
