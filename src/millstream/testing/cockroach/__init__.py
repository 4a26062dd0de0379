"""A stand-in for a CockroachDB server, to test with where no server can be run."""
