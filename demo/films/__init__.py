"""A film catalogue of ten tables in CockroachDB, judged by its own rows. `make demo-cockroach` runs it; start at run.py."""
