-- Keep the last record of each key, as a load does.
delete from pg_temp.seed_registry_audit as record
using (
  select ctid, pg_catalog.row_number() over (partition by scope, asset_key order by part desc, "offset" desc) as age
  from pg_temp.seed_registry_audit
) as aged
where record.ctid = aged.ctid and aged.age > 1;
