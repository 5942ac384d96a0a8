"""betterproto's messages to bytes and back, quickly: the same messages and the same bytes, by tables.

betterproto looks everything up anew for each field of each message, which costs more than all the rest of a call. Here
each class is looked at once, and what is found becomes one function a field. The metadata are betterproto's own, so a
field that is added to the contract needs nothing here. The encoding is https://protobuf.dev/programming-guides/encoding/;
property tests hold both directions against betterproto and google.protobuf.

Where betterproto departs from the guide, the guide wins: a message that is cut is refused, a field that comes with
another wire type than it has counts as unknown, durations below zero are written as what they are, and a number that
its field does not hold is refused and not cut. Fields that are
unknown are skipped and not kept: nobody here passes a message on.
"""

from api.protobuf.decode import MalformedMessageError, decode, read_varint
from api.protobuf.encode import UnfitValueError, encode, varint
from api.protobuf.make import new

__all__ = ["MalformedMessageError", "UnfitValueError", "decode", "encode", "new", "read_varint", "varint"]
