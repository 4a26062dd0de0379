"""The whole of Millstream on real data, judged by Postgres. `make demo` runs it; start at run.py."""
