-- Settings of the server, sizes in bytes.
select
  name,
  case when unit in ('8kB', 'MB', 'kB') then pg_catalog.pg_size_bytes(pg_catalog.current_setting(name))::text
    else setting end as value
from pg_catalog.pg_settings
where name = any($1::text[]);
