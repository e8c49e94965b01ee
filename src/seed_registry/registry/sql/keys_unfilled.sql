-- Whether a constraint covers only columns that no record fills: then no record is to blame for violating it.
select not pg_catalog.bool_or(index.indexprs is not null or attribute.attname = any($3::pg_catalog.text[]))
from pg_catalog.pg_index as index
join pg_catalog.pg_class as class on class.oid = index.indexrelid
left join pg_catalog.pg_attribute as attribute
  on attribute.attrelid = index.indrelid and attribute.attnum = any(index.indkey)
where index.indrelid = pg_catalog.to_regclass($1) and class.relname = $2;
