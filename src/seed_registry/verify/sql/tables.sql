-- The notes of an audit, for this transaction only: a row for each valid asset record of the indexes.
create temporary table pg_temp.seed_registry_audit (
  part      int not null,    -- which index, in the order in which they are loaded
  "offset"  bigint not null,
  line      bigint not null,
  scope     int not null,    -- what besides asset_key makes a key: a provider, a source, or nothing
  asset_key text not null,
  source    int not null,
  by_value  boolean not null,
  differs   text[]           -- null: the registry's row is equal; empty: there is none; else the fields that differ
) on commit drop;
create temporary table pg_temp.seed_registry_audit_sources (
  source    int not null,
  scope     int not null,
  source_id {id_type} not null
) on commit drop;
-- From here on only temporary tables can be written.
set transaction read only;
