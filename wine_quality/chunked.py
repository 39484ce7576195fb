"""What `splits` does, for datasets larger than memory: duplicates, the gate set and leakage, part by part.

An engine checks and hashes each part. The keys go to disk, 16 bytes a row, into one of 256 files by the first byte of
the key. Equal rows therefore end up in the same file, and a few files at a time fit into memory. The result is one byte
per row, its role, which agrees with what `splits.distinct_rows` and `splits.train_gate_split` do in memory.
"""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.util import hash_array

from wine_quality.engines import Engine, run_all
from wine_quality.files import translate_disk_errors
from wine_quality.parts import is_synthetic, local_copy, read_batches
from wine_quality.schema import FEATURES, TARGET, to_matrix
from wine_quality.splits import STRATA, assert_balanced, in_gate_set, row_hashes, row_keys, row_strata

DROPPED, TRAIN, GATE, SAMPLED = 0, 1, 2, 4  # the role of a row; SAMPLED is a flag that marks the sample of each set
ROLE = TRAIN | GATE  # the bits of a role without that flag
LIMIT = 2_000_000  # keys in memory at once
PREFIXES, PLACE_BITS, STRATUM_BITS = 256, 32, 8
BITMAP = 20  # leading bits of a hash, enough to rule out most rows that have no twin

# a row with blanks: its position, its blank columns as bits, a hash of the others, its stratum
BLANK = np.dtype([("row", "uint64"), ("columns", "uint16"), ("hash", "uint64"), ("stratum", "uint8")])

Hashes = dict[int, np.ndarray]  # sorted hashes of rows that leave out some columns, by the bits of those columns


@dataclass(frozen=True)
class Scan:
    """A part that passed the checks: its number of rows, the rows with blanks, and a checksum of keys and targets.

    `blank` has the dtype `BLANK`; positions are those in the part, from 0.
    """

    rows: int
    blank: np.ndarray
    checksum: str
    synthetic: bool


@dataclass(frozen=True)
class Rows:
    """The rows of a dataset and the role of each, in the order of the parts; part n begins at `starts[n]`.

    `strata` counts the rows of the training set and the gate set by stratum, of shape (2, `STRATA`). `files` holds the
    keys of all rows, as long as their folder exists.
    """

    parts: list[str]
    scans: list[Scan]
    roles: np.ndarray
    strata: np.ndarray
    files: "KeyFiles"

    @cached_property
    def starts(self) -> np.ndarray:
        """The position of each part's first row, and the total number of rows."""
        return np.cumsum([0, *(one.rows for one in self.scans)])

    @property
    def checksum(self) -> str:
        """The SHA-256 of the keys and targets of all rows, in order."""
        return hashlib.sha256("\n".join(one.checksum for one in self.scans).encode()).hexdigest()

    @property
    def synthetic(self) -> bool:
        """Whether any part is synthetic."""
        return any(one.synthetic for one in self.scans)

    def count(self, role: int, bits: int = ROLE) -> int:
        """Return how many rows have a role, comparing only some `bits` of it."""
        return int(np.count_nonzero(self.roles & bits == role))

    def batches(self, role: int, bits: int = ROLE) -> Iterator[pd.DataFrame]:
        """Yield the rows with a role as tidy tables, in order, comparing only some `bits` of the role."""
        wanted = self.roles & bits == role
        for part, start, end in zip(self.parts, self.starts, self.starts[1:], strict=False):
            for table in read_batches(part, checked=True) if wanted[start:end].any() else ():
                yield table.loc[wanted[start : start + len(table)]]
                start += len(table)

    def table(self, role: int, bits: int = ROLE) -> pd.DataFrame:
        """Return the rows with a role as one table, with the row keys as its index."""
        whole = pd.concat(self.batches(role, bits))
        return whole.set_index(row_keys(whole))


class KeyFiles:
    """The keys of all rows on disk, in one file per first byte, each with the place and the stratum of its row."""

    def __init__(self, folder: Path) -> None:
        self.paths = [folder / f"keys-{number:02x}" for number in range(PREFIXES)]

    def __enter__(self) -> "KeyFiles":
        with ExitStack() as stack:
            self.files = [stack.enter_context(path.open("wb")) for path in self.paths]
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def add(self, part: int, keys: np.ndarray, strata: np.ndarray) -> None:
        """Append the keys and the strata of a part, uint64 and uint8 of shape (n rows,)."""
        places = np.arange(len(keys), dtype="uint64") + np.uint64(part << PLACE_BITS)
        records = np.column_stack([keys, places << STRATUM_BITS | strata])
        prefixes = (keys >> np.uint64(56)).astype("uint8")
        records = records[np.argsort(prefixes, kind="stable")]
        ends = np.cumsum(np.bincount(prefixes, minlength=PREFIXES))
        for file, piece in zip(self.files, np.split(records, ends[:-1]), strict=True):
            file.write(piece.tobytes())

    def groups(self, limit: int) -> Iterator[np.ndarray]:
        """Yield the records of groups of files, at most about `limit` at a time, of shape (n rows, 2)."""
        sizes, first = [path.stat().st_size // 16 for path in self.paths], 0
        for last in range(PREFIXES):
            if last == PREFIXES - 1 or sum(sizes[first : last + 2]) > limit:
                parts = [np.fromfile(path, dtype="uint64") for path in self.paths[first : last + 1]]
                yield np.concatenate(parts).reshape(-1, 2)
                first = last + 1

    def distinct(self, limit: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """Yield the distinct keys in order, with part, position and stratum of the first row of each."""
        for records in self.groups(limit):
            records = records[np.argsort(records[:, 0])]
            begins = np.flatnonzero(np.diff(records[:, 0], prepend=~records[:1, 0]))
            first = np.minimum.reduceat(records[:, 1], begins) if len(begins) else records[:, 1]
            yield records[begins, 0], *unpack(first)


def unpack(records: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the part, the position in the part, and the stratum of each row from the second column of its record."""
    rows = records >> STRATUM_BITS & (2**PLACE_BITS - 1)
    return records >> (PLACE_BITS + STRATUM_BITS), rows, records & (2**STRATUM_BITS - 1)


def scan(part: str) -> tuple[Scan, np.ndarray, np.ndarray]:
    """Check a part, and return its `Scan`, its keys and its strata; raise `DataError` if it has problems."""
    keys, strata, blank, checksum = [], [], [], hashlib.sha256()
    with local_copy(part) as path:
        for table in read_batches(part, path=path):
            keys.append(row_hashes(table))
            strata.append(row_strata(table))
            blank.append(rows_with_blanks(table, strata[-1]))
            checksum.update(keys[-1].tobytes() + table[TARGET].to_numpy("int64").tobytes())
        synthetic = is_synthetic(path)
    about = Scan(sum(map(len, keys)), np.concatenate(blank), checksum.hexdigest(), synthetic)
    return about, np.concatenate(keys), np.concatenate(strata)


def rows_with_blanks(table: pd.DataFrame, strata: np.ndarray) -> np.ndarray:
    """Return the rows with blanks of a table whose index is the row number, from 1, as records of the dtype `BLANK`."""
    matrix = to_matrix(table)
    places = np.flatnonzero(np.isnan(matrix).any(axis=1))
    empty, records = np.isnan(matrix[places]), np.empty(len(places), BLANK)
    records["row"] = table.index[places] - 1
    records["columns"] = empty @ (1 << np.arange(len(FEATURES)))
    records["hash"] = np.where(empty, np.uint64(0), column_hashes(matrix[places])).sum(axis=1)
    records["stratum"] = strata[places]
    return records


def split_parts(parts: list[str], folder: Path, engine: Engine, limit: int = LIMIT, sample: int = 0) -> Rows:
    """Check the parts of a dataset, and assign each row its role; the keys are written to `folder`.

    About `limit` keys are in memory at once. The `sample` rows with the lowest keys of each set are also marked
    `SAMPLED`. Raise `DataError` if a part has problems, if a set is empty, if the two sets differ in type and quality
    by more than chance explains, or if the disk is full.
    """
    scans: dict[int, Scan] = {}
    with translate_disk_errors(folder):
        with KeyFiles(folder) as files:
            for number, (about, keys, strata) in run_all(engine, scan, ((part,) for part in parts)):
                files.add(number, keys, strata)
                scans[number] = about
        ordered = [scans[number] for number in range(len(parts))]
        rows = first_appearances(parts, ordered, files, limit, sample)
    drop_twins(rows, engine)
    assert_balanced(rows.strata)
    return rows


def first_appearances(parts: list[str], scans: list[Scan], files: KeyFiles, limit: int, sample: int) -> Rows:
    """Return the rows of a dataset, where the first row of each distinct key has a role."""
    total = sum(one.rows for one in scans)
    strata, left = np.zeros((2, STRATA), dtype=int), {TRAIN: sample, GATE: sample}
    rows = Rows(parts, scans, np.zeros(total, dtype="uint8"), strata, files)
    for keys, part, row, of_key in files.distinct(limit):
        in_gate, places = in_gate_set(keys), rows.starts[part] + row.astype("int64")
        for role, mask in ((TRAIN, ~in_gate), (GATE, in_gate)):
            rows.roles[places[mask]] = role
            rows.roles[places[mask][: left[role]]] |= SAMPLED
            left[role] -= min(left[role], int(np.count_nonzero(mask)))
            strata[role - 1] += np.bincount(of_key[mask].astype(int), minlength=STRATA)
    return rows


def drop_twins(rows: Rows, engine: Engine) -> None:
    """Drop each row with blanks if a complete row has the same values elsewhere, compared by 64-bit hashes."""
    blank, starts = np.concatenate([one.blank for one in rows.scans]), rows.starts
    blank["row"] += np.repeat(starts[:-1], [len(one.blank) for one in rows.scans]).astype("uint64")
    blank = blank[rows.roles[blank["row"]] != DROPPED]
    groups = {int(columns): blank[blank["columns"] == columns] for columns in np.unique(blank["columns"])}
    wanted = {columns: np.unique(group["hash"]) for columns, group in groups.items()}
    spans = zip(rows.parts, starts, starts[1:], strict=False) if wanted else ()
    calls = ((part, rows.roles[start:end] != DROPPED, wanted) for part, start, end in spans)
    found: list[Any] = [hashes for _, hashes in run_all(engine, find_complete, calls)]
    for columns, group in groups.items():
        twins = group[np.isin(group["hash"], np.concatenate([one[columns] for one in found]))]
        for role in (TRAIN, GATE):
            gone = twins["stratum"][rows.roles[twins["row"]] & ROLE == role]
            rows.strata[role - 1] -= np.bincount(gone, minlength=STRATA)
        rows.roles[twins["row"]] = DROPPED


def column_hashes(matrix: np.ndarray) -> np.ndarray:
    """Return a hash of each cell, uint64 of shape (n rows, 12); the sum over any columns is a hash of those columns."""
    columns = (matrix + 0.0).T  # -0.0 is 0.0
    return np.column_stack([np.asarray(hash_array(one)) * np.uint64(2 * n + 1) for n, one in enumerate(columns)])


def find_complete(part: str, distinct: np.ndarray, wanted: Hashes) -> Hashes:
    """Return those of the wanted hashes that complete rows of a part have, among its `distinct` rows."""
    found: dict[int, list[np.ndarray]] = {columns: [] for columns in wanted}
    start = 0
    for table in read_batches(part, checked=True):
        matrix = to_matrix(table)
        hashes = column_hashes(matrix[distinct[start : start + len(table)] & ~np.isnan(matrix).any(axis=1)])
        whole = hashes.sum(axis=1)
        for columns, hashes_wanted in wanted.items():
            left_out = [n for n in range(len(FEATURES)) if columns >> n & 1]
            short = whole - hashes[:, left_out].sum(axis=1)
            found[columns].append(short[among(short, hashes_wanted)])
        start += len(table)
    return {columns: np.concatenate(hashes) for columns, hashes in found.items()}


def among(hashes: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the positions of the hashes that are in the sorted `wanted`; a bitmap of leading bits rules out most."""
    bitmap, shift = np.zeros(2**BITMAP, dtype=bool), np.uint64(64 - BITMAP)
    bitmap[wanted >> shift] = True
    likely = np.flatnonzero(bitmap[hashes >> shift])
    begins, ends = (np.searchsorted(wanted, hashes[likely], side) for side in ("left", "right"))
    return likely[begins < ends]


def leaked(rows: Rows, scored: pd.DataFrame, limit: int = LIMIT) -> np.ndarray:
    """Return for each scored row whether a row with the role `TRAIN` is an exact copy of it."""
    keys, found = row_hashes(scored), []
    wanted = np.unique(keys)
    for records in rows.files.groups(limit):
        near = records[among(records[:, 0], wanted)]
        part, row, _ = unpack(near[:, 1])
        found.append(near[rows.roles[rows.starts[part] + row.astype("int64")] & ROLE == TRAIN, 0])
    return np.isin(keys, np.concatenate(found))
