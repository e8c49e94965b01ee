-- Delete some entries of assets that a run created.
delete from seed_registry.created as entry
using (
  select at, xid from seed_registry.created where run_id = $1 order by at, xid limit $2
) as batch
where entry.at = batch.at and entry.xid = batch.xid;
