-- How new values of columns are compressed: by the method of the column, or the default of the session that writes them;
-- and the row size above which values are compressed and moved out of line, with the largest one that can be set. Of a
-- partitioned table those of its partitions.
select
  case
    when class.oid = pg_catalog.to_regclass($1) then $1 else class.oid::pg_catalog.regclass::pg_catalog.text
  end as table_name,
  attribute.attname::text as column_name,
  case
    when attribute.attstorage in ('p', 'e') then 'none'
    -- pg_attribute has no such column before Postgres 14
    else case pg_catalog.to_jsonb(attribute) ->> 'attcompression'
      when 'l' then 'lz4'
      when 'p' then 'pglz'
      else coalesce(pg_catalog.current_setting('default_toast_compression', true), 'pglz')
    end
  end as method,
  coalesce(
    (
      select option.option_value::int from pg_catalog.pg_options_to_table(class.reloptions) as option
      where option.option_name = 'toast_tuple_target'
    ),
    -- four rows a page, without its header and their line pointers, as a multiple of 8
    (pg_catalog.current_setting('block_size')::int - 40) / 4 / 8 * 8
  ) as target_bytes,
  -- MaximumBytesPerTuple(1) in src/include/access/heaptoast.h of Postgres
  pg_catalog.current_setting('block_size')::int - 32 as largest_target_bytes
from pg_catalog.pg_attribute as attribute
join pg_catalog.pg_class as class on class.oid = attribute.attrelid
where attribute.attname = any($2::text[])
  and (
    (class.oid = pg_catalog.to_regclass($1) and class.relkind <> 'p')
    or class.oid in (select relid from pg_catalog.pg_partition_tree(pg_catalog.to_regclass($1)) where isleaf)
  )
order by class.oid, attribute.attnum;
