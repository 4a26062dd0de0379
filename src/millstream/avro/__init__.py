"""Avro: the bytes. A vectorised codec between Avro data and Arrow columns."""

from millstream.avro.codec import Codec, Datums

__all__ = ["Codec", "Datums"]
