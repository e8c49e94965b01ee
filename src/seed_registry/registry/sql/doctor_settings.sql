-- Settings of the server, sizes in bytes, and what else they could be.
select
  name,
  case when unit in ('8kB', 'MB', 'kB') then pg_catalog.pg_size_bytes(pg_catalog.current_setting(name))::text
    else setting end as value,
  coalesce(enumvals, '{}') as choices
from pg_catalog.pg_settings
where name = any($1::text[]);
