-- Take the records out of the staged batch, just upserted, that would change rows which are newer. The upsert locked these.
with older as (
  delete from {staging} as staged
  using {table} as existing
  where {same_key} and {differs} and {is_older}
  returning 1
)
select pg_catalog.count(*) from older;
