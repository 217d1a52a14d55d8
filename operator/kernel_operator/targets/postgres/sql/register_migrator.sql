-- $1 slug, $2 login, $3 run. The row is there from the module's first run on.
INSERT INTO kernel.module_migrators (slug, login, run) VALUES ($1, $2, $3) ON CONFLICT (slug) DO NOTHING
