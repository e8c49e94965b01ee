-- The next changes of a set, in the order of their ids: no more than so many, and so many bytes; one at least.
select
  id, run_id, relation, kind, rows, provider, source_key, asset_key, fields, before::pg_catalog.text as before
from (
  select change.*, pg_catalog.sum(size) over (order by id) - size as bytes_before
  from (
    select
      change.*,
      -- What is stored may be compressed; what is short cannot become long.
      case
        when pg_catalog.pg_column_size(before) > 256 then pg_catalog.octet_length(before::pg_catalog.text)
        else coalesce(pg_catalog.pg_column_size(before), 0)
      end as size
    from seed_registry.changes as change
    -- By the ids: the index that begins with the run would have to be sorted for each page, so it is left no choice.
    where run_id || '' = $1 and id > $2 and id <= $3
      and ($4::pg_catalog.text is null or source_key = $4 or key = '{}')
      and ($5::pg_catalog.text[] is null or kind = any($5))
    order by id
    limit $6
  ) as change
) as page
where bytes_before < $7
order by id;
