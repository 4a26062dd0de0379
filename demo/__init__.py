"""The whole of Millstream, as a user runs it, judged by the databases themselves: flights (`make demo`), films (`make demo-cockroach`)."""
