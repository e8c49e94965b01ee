-- The version of Citus, and how many of its nodes keep shards.
select
  (select extversion from pg_catalog.pg_extension where extname = 'citus') as version,
  (
    select pg_catalog.count(*) from pg_catalog.pg_dist_node as node
    where node.isactive and node.shouldhaveshards and node.noderole::pg_catalog.text = 'primary'
  ) as nodes;
