-- The assets with a key that have changed, each as its last change names it.
select distinct on (key) key, provider, source_key
from seed_registry.changes
where asset_key = $1 and relation = 'assets'
order by key, id desc;
