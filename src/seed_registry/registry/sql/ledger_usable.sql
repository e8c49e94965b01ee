-- Whether this role may write to the ledger.
select
  pg_catalog.has_schema_privilege('seed_registry', 'usage')
  and pg_catalog.has_table_privilege('seed_registry.runs', 'select')
  and pg_catalog.has_table_privilege('seed_registry.runs', 'insert')
  and pg_catalog.has_table_privilege('seed_registry.runs', 'update')
  and pg_catalog.has_table_privilege('seed_registry.checkpoints', 'select')
  and pg_catalog.has_table_privilege('seed_registry.checkpoints', 'insert')
  and pg_catalog.has_table_privilege('seed_registry.checkpoints', 'update')
  and pg_catalog.has_table_privilege('seed_registry.checkpoints', 'delete');
