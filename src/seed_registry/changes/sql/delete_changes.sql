-- Delete the changes of a run with these ids. By the ids, not by the index that begins with the run: it would find the
-- deleted ones again and again.
delete from seed_registry.changes
where run_id || '' = $1 and id >= $2 and id < $3;
