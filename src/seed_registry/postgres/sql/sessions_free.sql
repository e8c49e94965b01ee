-- How many sessions the server, and this role, have room for.
select least(
  pg_catalog.current_setting('max_connections')::int
    - pg_catalog.current_setting('superuser_reserved_connections')::int
    - (select pg_catalog.count(*) from pg_catalog.pg_stat_activity where datid is not null),
  (
    select role.rolconnlimit - (select pg_catalog.count(*) from pg_catalog.pg_stat_activity where usename = session_user)
    from pg_catalog.pg_roles as role
    where role.rolname = session_user and not role.rolsuper and role.rolconnlimit >= 0
  )
)::int
