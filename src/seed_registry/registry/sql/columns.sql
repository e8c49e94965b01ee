-- The columns of a table, for writing to it; a domain counts as the type that it is over.
with recursive typed as (
  select
    attribute.attnum, attribute.atttypid as type_id, attribute.atttypmod as modifier,
    attribute.attnotnull as refuses_null, 0 as depth
  from pg_catalog.pg_attribute as attribute
  join pg_catalog.pg_class as relation on relation.oid = attribute.attrelid
  join pg_catalog.pg_namespace as namespace on namespace.oid = relation.relnamespace
  where namespace.nspname = $1
    and relation.relname = $2
    and relation.relkind in ('r', 'p', 'f', 'v', 'm')
    and attribute.attnum > 0
    and not attribute.attisdropped
  union all
  select typed.attnum, domain.typbasetype, domain.typtypmod, typed.refuses_null or domain.typnotnull, typed.depth + 1
  from typed
  join pg_catalog.pg_type as domain on domain.oid = typed.type_id
  where domain.typtype = 'd'
),
plain as (
  select distinct on (attnum) * from typed order by attnum, depth desc
),
defaulted as (
  select
    attribute.*,
    coalesce(own.adbin, domain.typdefaultbin)::pg_catalog.text as tree,
    coalesce(
      pg_catalog.pg_get_expr(own.adbin, own.adrelid),
      pg_catalog.pg_get_expr(domain.typdefaultbin, 'pg_catalog.pg_type'::pg_catalog.regclass)
    ) as expression
  from pg_catalog.pg_attribute as attribute
  join pg_catalog.pg_type as domain on domain.oid = attribute.atttypid
  left join pg_catalog.pg_attrdef as own on own.adrelid = attribute.attrelid and own.adnum = attribute.attnum
  where attribute.attrelid = pg_catalog.to_regclass(pg_catalog.format('%I.%I', $1::pg_catalog.text, $2::pg_catalog.text))
)
select
  attribute.attname::pg_catalog.text as name,
  type.typname::pg_catalog.text as type,
  attribute.atttypid::pg_catalog.int8 as type_id,
  plain.modifier,
  plain.depth > 0 as is_domain,
  -- generated columns cannot be written
  attribute.attgenerated <> '' as is_generated,
  attribute.attidentity <> '' as is_identity,
  plain.refuses_null,
  case when attribute.attgenerated = '' then attribute.expression end as default_expression,
  -- Whether the default is a constant, possibly cast to the type of the column.
  not exists (
    select from pg_catalog.regexp_matches(attribute.tree, '\{([A-Z]+)', 'g') as node
    where node[1] <> all (array['CONST', 'RELABELTYPE', 'COERCETODOMAIN', 'FUNCEXPR'])
  ) and not exists (
    select from pg_catalog.regexp_matches(attribute.tree, ':funcid ([0-9]+)', 'g') as called
    join pg_catalog.pg_proc as function on function.oid = called[1]::pg_catalog.oid
    where function.provolatile <> 'i' or function.pronamespace <> 'pg_catalog'::pg_catalog.regnamespace
  ) as is_constant,
  -- a collation or type that compares different spellings as equal
  type.typname = 'citext' or exists (
    select from pg_catalog.pg_collation as sorting
    where sorting.oid = attribute.attcollation and not sorting.collisdeterministic
  ) as is_folded
from plain
join defaulted as attribute on attribute.attnum = plain.attnum
join pg_catalog.pg_type as type on type.oid = plain.type_id
order by attribute.attnum;
