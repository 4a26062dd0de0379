"""A year of flights in Postgres, judged by Postgres. `make demo` runs it; start at run.py."""
