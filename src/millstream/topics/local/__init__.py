"""Local topics: one SQLite file that several processes may read and write."""

from millstream.topics.local.topics import LocalTopics

__all__ = ["LocalTopics"]
