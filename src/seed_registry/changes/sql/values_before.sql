    -- the values before the first change count, of fields that were changed several times
    select pg_catalog.jsonb_object_agg(was.field, was.value order by change.id desc)
    from seed_registry.changes as change
    cross join pg_catalog.jsonb_each(change.before) as was (field, value)
    where change.run_id = {run} and change.relation = {relation} and change.key = {batch_key}
