
    -- Rows over 2 KB that are longer than toast_tuple_target have their values compressed, external ones aside, and moved
    -- out of line. The largest target is one row a page; how large its pages are is known to the server alone.
    execute pg_catalog.format(
      'alter table %s alter column raw set storage external, alter column description set storage external, '
      'set (toast_tuple_target = %s)',
      '{schema_text}.assets', pg_catalog.current_setting('block_size')::int - 32
    );
