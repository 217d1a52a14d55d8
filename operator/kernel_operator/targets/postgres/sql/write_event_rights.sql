-- Makes what the login $1 may publish exactly the types $2, from the source $3.
WITH gone AS (
  DELETE FROM kernel.event_rights WHERE login = $1 AND type <> ALL ($2::text[])
)
INSERT INTO kernel.event_rights (login, type, source) SELECT $1, type, $3 FROM unnest($2::text[]) AS type
ON CONFLICT (login, type) DO UPDATE SET source = excluded.source
