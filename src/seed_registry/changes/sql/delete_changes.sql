-- Delete some changes of a run, the oldest first.
delete from seed_registry.changes
where id = any(
  array(select id from seed_registry.changes where run_id = $1 order by id limit $2)
);
