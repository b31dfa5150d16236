"""Event files written from their formats' definitions, event by event: what the readers are held against."""

import struct

HEADER_2 = b"#!AER-DAT2.0\r\n# This is a raw AE data file - do not edit\r\n# Timestamps tick is 1 us\r\n"
HEADER_3 = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DVS128\r\n#Start-Time: 2016-10-04 14:03:29\r\n#!END-HEADER\r\n"


def bin_record(t, x, y, p):
    """Return a record of 40 bits: x, y, polarity in the highest of 24 bits, time in the others, big-endian."""
    return struct.pack(">BB", x, y) + struct.pack(">I", (p << 23) | t)[1:]


def bin_file(events):
    """Return the .bin file of (t, x, y, p), y from the top."""
    return b"".join(bin_record(*event) for event in events)


def dvs128_record(t, x, y, p):
    """Return an AEDAT 2.0 record: address with x from the right and y from the bottom, 0 for on, then the time."""
    return struct.pack(">II", (127 - y) << 8 | (127 - x) << 1 | (0 if p else 1), t)


def davis_record(t, x, y, p, height, width):
    """Return an AEDAT 2.0 record of a DAVIS: y from bit 22, x from bit 12, 1 for on in bit 11."""
    return struct.pack(">II", (height - 1 - y) << 22 | (width - 1 - x) << 12 | p << 11, t)


def aedat2_file(records, header=HEADER_2):
    """Return an AEDAT 2.0 file of records."""
    return header + b"".join(records)


def polarity_packet(events, overflows=0, invalid=(), **changes):
    """Return an AEDAT 3.1 packet of polarity events (t, x, y, p); those numbered in ``invalid`` are marked so."""
    head = {"kind": 1, "source": 1, "size": 8, "time_at": 4, "overflows": overflows}
    head |= {"room": len(events), "count": len(events), "valid": len(events) - len(invalid)} | changes
    body = b"".join(
        struct.pack("<Ii", x << 17 | y << 2 | p << 1 | (number not in invalid), t)
        for number, (t, x, y, p) in enumerate(events)
    )
    return struct.pack("<hhiiiiii", *head.values()) + body


def other_packet(kind=0, size=8, count=2):
    """Return a packet of another type."""
    return struct.pack("<hhiiiiii", kind, 1, size, 4, 0, count, count, count) + bytes(size * count)


def aedat3_file(*packets, header=HEADER_3):
    """Return an AEDAT 3.1 file of packets."""
    return header + b"".join(packets)
