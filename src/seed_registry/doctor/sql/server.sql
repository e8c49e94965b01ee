-- Properties of the server, the database and the role that matter to a load.
select
  pg_catalog.current_setting('server_version') as version,
  pg_catalog.current_setting('server_version_num')::int as version_number,
  pg_catalog.current_database()::text as database,
  current_user::text as role,
  pg_catalog.current_setting('server_encoding') as encoding,
  pg_catalog.pg_is_in_recovery() as is_standby,
  pg_catalog.current_setting('default_transaction_read_only') = 'on' as is_read_only,
  case
    when pg_catalog.has_database_privilege(pg_catalog.current_database(), 'connect')
    then pg_catalog.pg_database_size(pg_catalog.current_database())
  end as size_bytes,
  pg_catalog.current_setting('max_connections')::int
    - pg_catalog.current_setting('superuser_reserved_connections')::int as sessions_allowed,
  (select pg_catalog.count(*) from pg_catalog.pg_stat_activity where datid is not null) as sessions_used,
  (
    select role.rolconnlimit
    from pg_catalog.pg_roles as role
    where role.rolname = session_user and not role.rolsuper
  ) as role_limit,
  (
    select pg_catalog.count(*) from pg_catalog.pg_stat_activity
    where datname = pg_catalog.current_database()
      and state like 'idle in transaction%'
      and pg_catalog.now() - state_change > interval '5 minutes'
  ) as stuck_sessions;
