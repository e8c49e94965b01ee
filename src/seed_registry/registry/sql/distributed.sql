-- The registry's tables on Citus, which divides the assets by their keys. Run it on the coordinator, where there are no such
-- tables yet; then `seed-registry schema apply` creates the ledger. A row has no id: a primary key has to hold the column
-- by which rows are divided, and with an identity column Citus sends every row over the coordinator.
create schema if not exists registry;

create table registry.sources (
{source_columns}
);
comment on table registry.sources is '{comment}';

create table registry.assets (
  asset_key    text primary key,
  source_id    bigint not null,
{asset_columns}
);{storage}
comment on table registry.assets is '{comment}';
create index assets_source_id_idx on registry.assets (source_id);

-- A copy of all sources on every node.
select create_reference_table('registry.sources');
-- As many shards as citus.shard_count says: two for each core of the nodes are enough.
select create_distributed_table('registry.assets', 'asset_key');
-- Last: with it, the assets would become a table of the coordinator's when the sources are copied to all nodes.
alter table registry.assets add foreign key (source_id) references registry.sources;
