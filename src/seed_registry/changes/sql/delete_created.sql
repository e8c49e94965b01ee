-- Delete some entries of assets that a run created.
delete from seed_registry.created as entry
using (
  select at, xid from seed_registry.created where run_id = $1 order by at, xid limit $2
) as some
where entry.at = some.at and entry.xid = some.xid;
