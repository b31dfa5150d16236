"""Events a second: reading recordings of event cameras, framing them, and augmenting them on the way.

The files are written here, to the formats' definitions and of the sizes that the data sets' have; with N-MNIST in
``$SBP_DATA`` its real recordings are read too. They lie in the system's memory of files when they are timed. Timed is
processor time, which other work on the machine changes little.

    python benchmarks/event_frames.py
"""

import argparse
import os
import statistics
import struct
import tempfile
import time
from pathlib import Path

import numpy as np
from record import RESULTS, write

from sbp_lab.events import DVS128, EventDrop, EventFlip, EventRoll, Frames, read_aedat2, read_aedat3, read_bin
from sbp_lab.events.aedat3 import spans


def drawn(count, side, last, seed=0):
    """Return t, x, y and p of events anywhere at any time."""
    rng = np.random.default_rng(seed)
    columns = [rng.integers(0, side, count), rng.integers(0, side, count), rng.integers(0, 2, count)]
    return np.sort(rng.integers(0, last, count)), *columns


def bin_file(count):
    """Return a .bin file of a sensor of 34 x 34."""
    t, x, y, p = drawn(count, 34, 300_000)
    return np.stack([x, y, p << 7 | t >> 16, t >> 8 & 255, t & 255], 1).astype(np.uint8).tobytes()


def aedat2_file(count):
    """Return an AEDAT 2.0 file of a DVS128."""
    t, x, y, p = drawn(count, 128, 1_300_000)
    return b"#!AER-DAT2.0\r\n" + np.stack([y << 8 | x << 1 | p, t], 1).astype(">u4").tobytes()


def aedat3_file(count, packet=4000):
    """Return an AEDAT 3.1 file of a DVS128: a trial of 100 s in packets."""
    t, x, y, p = drawn(count, 128, 100_000_000)
    records = np.stack([x << 17 | y << 2 | p << 1 | 1, t], 1).astype("<u4")
    packets = [records[first : first + packet] for first in range(0, count, packet)]
    heads = [struct.pack("<hhiiiiii", 1, 1, 8, 4, 0, len(one), len(one), len(one)) for one in packets]
    body = b"".join(head + one.tobytes() for head, one in zip(heads, packets, strict=True))
    return b"#!AER-DAT3.1\r\n#Format: RAW\r\n#!END-HEADER\r\n" + body


def cases(folder, quick):
    """Yield what is read: a name, functions that read one recording each, and the data set's usual frames."""
    small = 20 if quick else 1
    data = Path(os.environ.get("SBP_DATA", "none"), "N-MNIST", "Train")
    if data.is_dir():
        paths = sorted(data.rglob("*.bin"))[: 300 // small]
        yield "N-MNIST, its files", [lambda p=p: read_bin(p, size=(34, 34)) for p in paths], Frames(steps=10)
    for number in range(300 // small):
        (folder / f"{number}.bin").write_bytes(bin_file(4100))
    paths = sorted(folder.glob("*.bin"))
    yield "like N-MNIST: .bin, 4,100 events", [lambda p=p: read_bin(p, size=(34, 34)) for p in paths], Frames(steps=10)
    for number in range(20 // small):
        (folder / f"{number}.aedat").write_bytes(aedat2_file(205_000))
    paths = sorted(folder.glob("*.aedat"))
    reads = [lambda p=p: read_aedat2(p, DVS128, order="sort") for p in paths]
    for size in (None, (48, 48)):
        yield "like CIFAR10-DVS: AEDAT 2.0, 205,000 events", reads, Frames(steps=10, size=size)
    trial = folder / "trial"
    trial.write_bytes(aedat3_file(5_000_000 // small))
    windows = [(start, start + 6_000_000) for start in range(1_000_000, 90_000_000, 8_000_000)]
    begin = time.process_time()
    found = spans(trial, windows)
    print(
        f"a trial of {5_000_000 // small:,} events is searched and checked once, in {time.process_time() - begin:.2f} s"
    )
    reads = [
        lambda w=w, s=s: read_aedat3(trial, start=w[0], stop=w[1], span=s) for w, s in zip(windows, found, strict=True)
    ]
    yield "like DVS128 Gesture: AEDAT 3.1, 6 s of a trial", reads, Frames(steps=16)


def timed(function, values):
    """Return seconds and results of a function called with each value."""
    begin = time.process_time()
    found = [function(value) for value in values]
    return time.process_time() - begin, found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few recordings: to see that it runs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "event_frames.json")
    options = parser.parse_args()
    rows, result = [], []
    with tempfile.TemporaryDirectory() as folder:
        for name, reads, frames in cases(Path(folder), options.quick):
            rng = np.random.default_rng(0)
            augments = [EventFlip(), EventRoll(), EventDrop()]

            def augmented(events, rng=rng, augments=augments):
                for augment in augments:
                    events = augment(events, rng)
                return events

            seconds = {"read": [], "augment": [], "frame": []}
            for _ in range(1 if options.quick else options.rounds):
                spent, recordings = timed(lambda read: read(), reads)
                seconds["read"].append(spent)
                seconds["augment"].append(timed(augmented, recordings)[0])
                seconds["frame"].append(timed(frames, recordings)[0])
            events = sum(len(recording) for recording in recordings)
            shape = frames.shape(recordings[0].size)
            result.append(
                {"case": name, "recordings": len(reads), "events": events, "frames": shape, "seconds": seconds}
            )
            middle = {part: statistics.median(values) for part, values in seconds.items()}
            speeds = [f"{events / value / 1e6:.1f}" for value in middle.values()]
            both = middle["read"] + middle["frame"]
            rows.append(
                [
                    name,
                    " x ".join(map(str, shape[:3])),
                    *speeds,
                    f"{events / both / 1e6:.1f}",
                    f"{1e3 * both / len(reads):.2f}",
                ]
            )
    print("| recordings | frames | read | augment | frame | read and frame | ms a recording |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print("\nmillions of events a second of processor time, one process, medians")
    write(options.out, {"cores": os.cpu_count(), "load": os.getloadavg()[0], "rows": result})


if __name__ == "__main__":
    main()
