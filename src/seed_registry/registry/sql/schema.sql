-- The registry's own tables. Creates what is missing; what is there stays as it is. By their comments `schema upgrade`
-- knows which tables it may alter.

create schema if not exists {schema};

do {tag} begin
  if pg_catalog.to_regclass('{schema_text}.sources') is null then
    create table {schema}.sources (
{source_columns}
    );
    comment on table {schema}.sources is '{comment}';
  end if;
end {tag};

-- In one statement with how its rows are stored, which a table that was here before does not get.
do {tag} begin
  if pg_catalog.to_regclass('{schema_text}.assets') is null then
    create table {schema}.assets (
      id           bigint generated always as identity primary key,
      asset_key    text not null unique,
      source_id    bigint not null references {schema}.sources,
{asset_columns}
    );{storage}
    comment on table {schema}.assets is '{comment}';
  end if;
end {tag};

-- A table that was here before may call this column otherwise; its indexes are its owner's business then.
-- `create index if not exists` waits for everybody who writes, and then does nothing.
do {tag} begin
  if pg_catalog.to_regclass('{schema_text}.assets_source_id_idx') is null then
    create index assets_source_id_idx on {schema}.assets (source_id);
  end if;
exception when undefined_column then null;
end {tag};
