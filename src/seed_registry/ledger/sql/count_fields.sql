-- How many assets a run updated in each field.
select field, pg_catalog.count(*) as changes
from seed_registry.changes
cross join lateral unnest(fields) as field
where run_id = $1 and relation = 'assets' and kind = 'updated'
group by field
order by changes desc, field;
