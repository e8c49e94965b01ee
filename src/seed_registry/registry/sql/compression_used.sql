-- How new values of columns are compressed: as the column says, or by the default of the session that writes them.
select
  attribute.attname::text as column_name,
  case
    when attribute.attstorage in ('p', 'e') then 'none'
    -- pg_attribute has no such column before Postgres 14
    else case pg_catalog.to_jsonb(attribute) ->> 'attcompression'
      when 'l' then 'lz4'
      when 'p' then 'pglz'
      else coalesce(pg_catalog.current_setting('default_toast_compression', true), 'pglz')
    end
  end as method
from pg_catalog.pg_attribute as attribute
where attribute.attrelid = pg_catalog.to_regclass($1) and attribute.attname = any($2::text[])
order by attribute.attnum;
