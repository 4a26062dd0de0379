"""The registry over HTTP, in the words of the Confluent Schema Registry: what it serves, and how another one is asked."""
