"""Corrupted files: every reader gives a clear error or the right answer, and never crashes, hangs or takes all memory.

Files are damaged at random, and on purpose: with sizes that are absurd, checksums that are valid all the same, links
and filters that lead elsewhere. A process of its own, with a limit on its memory, reads them one by one.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import random
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
from forked import Server, serving
from test_hdf5 import FLIPPED, GRIDS, add, frame, start, written

from glioma_pde.errors import GliomaError
from glioma_pde.io._vetting import _check_texts
from glioma_pde.io.checkpoint import load_checkpoint, save_checkpoint
from glioma_pde.io.export import _in_full_image
from glioma_pde.io.fit_file import FitFile, is_fit, write_fit
from glioma_pde.io.hdf5 import RunFile
from glioma_pde.io.nifti import read_image

MEMORY = 2**30
"""What reading may take beyond what the process has before it starts [bytes]; the files are of some kilobytes."""

SECONDS = 10
"""Longest processor time for one file, which other work on the machine does not lengthen; waiting may take 10 times that."""

READ = f"""
import faulthandler, warnings
faulthandler.enable()
faulthandler.register(signal.SIGPROF, chain=True)
warnings.simplefilter("ignore")
from pathlib import Path
from test_fuzz import outcome_of
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + {MEMORY}
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
log = open(sys.argv[1], "a")
for line in open(sys.argv[2]).read().splitlines()[int(sys.argv[3]):]:
    kind, path, expected = line.split("\\t")
    faulthandler.dump_traceback_later({10 * SECONDS}, exit=True)
    signal.setitimer(signal.ITIMER_PROF, {SECONDS})
    found = outcome_of(kind, Path(path), expected)
    signal.setitimer(signal.ITIMER_PROF, 0)
    faulthandler.cancel_dump_traceback_later()
    print(found.replace("\\n", " "), file=log, flush=True)
"""


# -- in the reading process -------------------------------------------------------------------------


def outcome_of(kind: str, path: Path, expected: str) -> str:
    """``"refused"``, ``"same"``, ``"other"`` (readable, another content) or, for a fault, its description.

    A reader that asked for more memory than there is and then called the file damaged is at fault too.
    """
    try:
        found = READERS[kind](path)
    except GliomaError as error:
        reason: BaseException | None = error
        while reason is not None:
            if isinstance(reason, MemoryError):
                return f"asked for too much memory: {error}"
            reason = reason.__cause__ or reason.__context__
        lines = str(error).splitlines()
        clear = len(lines) == 1 and str(path) in lines[0] and len(lines[0]) < 1000
        return "refused" if clear else f"unclear: {error}"
    except BaseException as error:
        return f"escaped: {error!r}"
    return "same" if found == expected else "other"


def everything_in(path: Path) -> str:
    """A digest of all that can be asked of a run file."""
    total = hashlib.sha256()

    def put(*values) -> None:
        for value in values:
            total.update(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())

    with RunFile(path) as file:
        put(
            file.grid, file.fields, file.observables, file.ledger_columns, file.days, file.observable_days, file.summary
        )
        put(*(f"{k}={np.asarray(v).tolist()}" for k, v in sorted(file.attrs.items())), file.config_text)
        put(*(file.field(name, index=i) for name in file.fields for i in range(len(file.days))))
        put(*map(file.observable, file.observables), *map(file.ledger, file.ledger_columns))
        put(*(v for name in file.tissue_names for v in (name, file.tissue(name))), file.anatomy())
        put(*(v for name in file.schedule_names for v in file.schedule(name).items()), file.parameters())
        for name in file.fields if len(file.days) else ():
            with contextlib.suppress(GliomaError):  # the whole image that an export would make
                put(*_in_full_image(file, file.field(name, index=0)))
    return total.hexdigest()


def image_in(path: Path) -> str:
    data, affine = read_image(path)
    assert np.isfinite(data).all()
    return hashlib.sha256(data.tobytes() + affine.tobytes()).hexdigest()


def state_in(path: Path) -> str:
    arrays, meta = load_checkpoint(path)
    values = [(k, v.dtype.str, v.shape, v.tobytes()) for k, v in arrays.items()]
    return hashlib.sha256(repr((values, meta)).encode()).hexdigest()


def fit_in(path: Path) -> str:
    file = FitFile(path)
    columns = [(g, k, v.dtype.str, v.tolist()) for g in file.groups for k, v in file[g].items()]
    return hashlib.sha256(repr((columns, file.units, file.attributes, is_fit(path))).encode()).hexdigest()


READERS: dict[str, Callable[[Path], str]] = {
    "run": everything_in,
    "image": image_in,
    "state": state_in,
    "fit": fit_in,
}


# -- damage -----------------------------------------------------------------------------------------

ODD = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1]


def damage(whole: bytes, chance: random.Random) -> bytes:
    """Bytes flipped, numbers replaced, blocks wiped, moved or doubled, the end cut off or added to."""
    data = bytearray(whole)
    for _ in range(chance.choice([1, 1, 1, 2, 5])):
        at = chance.randrange(len(data))
        size = chance.choice([1, 2, 4, 8, 64, 512])
        action = chance.randrange(7)
        if action == 0:
            data[at] ^= 1 << chance.randrange(8)
        elif action == 1:
            data[at] = chance.randrange(256)
        elif action == 2:
            width = chance.choice([2, 4, 8])
            at -= at % width
            data[at : at + width] = (chance.choice(ODD) % 256**width).to_bytes(width, "little")
        elif action == 3:
            data[at : at + size] = bytes([chance.choice([0, 255])]) * len(data[at : at + size])
        elif action == 4:
            other = chance.randrange(len(data))
            data[at : at + size] = data[other : other + size]
        elif action == 5 and len(data) > 16:
            del data[at + 1 :]
        else:
            data[at:at] = chance.randbytes(size)
    return bytes(data)


def run_files(folder: Path, count: int, chance: random.Random) -> Iterator[tuple[str, Path, str]]:
    """Of a finished run, of one that was killed, and in HDF5's old format, which has no checksums of its own."""
    grid = GRIDS["3-D"]
    more = {
        "tissue": {"white": frame(grid, 9)["drug"], "mask": frame(grid, 9)["drug"] > 0.5},
        "anatomy": (np.arange(60, dtype=np.uint8).reshape(3, 4, 5), FLIPPED),
        "schedule": {"injections": {"day": np.array([1.0]), "event": np.array([3])}},
        "parameters": [("a", 1.0, "1/day", "reference", None), ("b", 2.0, "mm", "assumption", 2.0)],
        "attributes": {"config_toml": "title = 'µ'\n" * 30, "config_json": "{}", "seed": 3, "label": "µ"},
    }
    finished, killed, old = folder / "finished.h5", folder / "killed.h5", folder / "old.h5"
    written(finished, grid, **more)
    with start(killed, grid, **more) as writer:
        for day in (0.0, 1.0):
            add(writer, grid, day)
        left = killed.read_bytes()
    killed.write_bytes(left)
    with h5py.File(finished) as a, h5py.File(old, "w", libver="earliest") as b:
        for name, value in a.attrs.items():
            if name != "content_sha256":
                b.attrs[name] = value
        for name in a:
            a.copy(name, b)
    bases = {p.stem: (p.read_bytes(), everything_in(p)) for p in (finished, killed, old)}
    for i in range(count):
        name = chance.choice([*bases])
        path = folder / f"{i}-{name}.h5"
        path.write_bytes(damage(bases[name][0], chance))
        yield "run", path, bases[name][1]


def images(folder: Path, count: int, chance: random.Random) -> Iterator[tuple[str, Path, str]]:
    """Plain and compressed; in half of the compressed ones the damage was done before."""
    data = np.random.default_rng(0).random((5, 6, 7)).astype(np.float32)
    for i in range(count):
        kind = chance.choice([nib.Nifti1Image, nib.Nifti2Image])
        raw = kind(data, FLIPPED).to_bytes()
        way = chance.choice(["plain", "inside", "outside"])
        # most damage shall be to the header
        spoilt = damage(raw[:560], chance) + raw[560:] if chance.random() < 0.7 else damage(raw, chance)
        path = folder / f"{i}-{way}.nii{'' if way == 'plain' else '.gz'}"
        if way == "plain":
            path.write_bytes(spoilt)
        elif way == "inside":
            path.write_bytes(gzip.compress(spoilt, compresslevel=1))
        else:
            path.write_bytes(damage(gzip.compress(raw, compresslevel=1), chance))
        reference = folder / f"whole{kind.__name__}.nii"
        reference.write_bytes(raw)
        yield "image", path, image_in(reference)


def states(folder: Path, count: int, chance: random.Random) -> Iterator[tuple[str, Path, str]]:
    """Damaged anywhere, or in a member whose checksum in the archive is then made right again."""
    whole = folder / "whole.checkpoint"
    arrays = {"a": np.arange(300, dtype=np.float32).reshape(20, 15), "b": np.array(1.5), "c": np.zeros((0, 3))}
    save_checkpoint(whole, arrays, {"day": 0.1, "box": [[1, 2]]})
    raw, expected = whole.read_bytes(), state_in(whole)
    for i in range(count):
        path = folder / f"{i}.checkpoint"
        if chance.random() < 0.5:
            path.write_bytes(damage(raw, chance))
        else:
            target = chance.choice(zipfile.ZipFile(whole).namelist())
            path.write_bytes(rezipped(raw, target, lambda data: damage(data, chance), chance.random() < 0.2))
        yield "state", path, expected


def rezipped(raw: bytes, target: str, change: Callable[[bytes], bytes], packed: bool = False) -> bytes:
    """The archive with one member changed, and valid."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(
                name, change(data) if name == target else data, zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
            )
    return out.getvalue()


def fits(folder: Path, count: int, chance: random.Random) -> Iterator[tuple[str, Path, str]]:
    """Calibrations."""
    groups = {
        "data": {"arm": ["control", "µ"], "value": np.array([1.5, 2.5]), "held_out": np.array([True, False])},
        "profiles/rho": {"cost": np.linspace(0.0, 1.0, 30).reshape(5, 6)},
    }
    whole = write_fit(folder / "whole.h5", groups, {"law": "logistic", "sigma": 0.1}, {"data/value": "mm3"})
    raw, expected = whole.read_bytes(), fit_in(whole)
    for i in range(count):
        path = folder / f"{i}.h5"
        path.write_bytes(damage(raw, chance))
        yield "fit", path, expected


MAKERS = {"run files": run_files, "images": images, "checkpoints": states, "fits": fits}


# -- tests --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server():
    with serving() as server:
        yield server


def read_all(server: Server, folder: Path, cases: list[tuple[str, Path, str]]) -> list[str]:
    """The outcome of every case; a process that dies is replaced after its case."""
    log, index = folder / "outcomes", folder / "cases"
    log.touch()
    index.write_text("".join(f"{kind}\t{path}\t{expected}\n" for kind, path, expected in cases))
    while (done := len(log.read_text().splitlines())) < len(cases):
        ended = server.start(READ, log, index, done).wait(1000)
        if ended.code:
            reached = len(log.read_text().splitlines())
            if (
                reached == done
                and ended.code == 1
                and "dump_traceback_later" not in ended.err
                and "Timeout" not in ended.err
            ):
                raise AssertionError(ended.err)
            with log.open("a") as file:
                print(f"died ({ended.code}): {ended.err.replace(chr(10), ' ')[:2000]}", file=file)
    return log.read_text().splitlines()


def faults(cases: list[tuple[str, Path, str]], outcomes: list[str], allowed: set[str]) -> list[str]:
    return [f"{path}: {found}" for (_, path, _), found in zip(cases, outcomes, strict=True) if found not in allowed]


def fuzz(server: Server, folder: Path, what: str, count: int, seed: int) -> list[str]:
    cases = list(MAKERS[what](folder, count, random.Random(seed)))
    outcomes = read_all(server, folder, cases)
    # What has no checksum may come out changed: plain images, unfinished runs, and the old format.
    guarded = [what in ("checkpoints", "fits") or "finished" in p.name or "outside" in p.name for _, p, _ in cases]
    wrong = [
        text
        for case, found, strict in zip(cases, outcomes, guarded, strict=True)
        for text in faults([case], [found], {"refused", "same"} if strict else {"refused", "same", "other"})
    ]
    assert not wrong, f"{len(wrong)} of {count}:\n" + "\n".join(wrong[:20])
    return outcomes


@pytest.mark.parametrize("what", MAKERS)
def test_a_hundred_corrupted(server, tmp_path, what):
    outcomes = fuzz(server, tmp_path, what, 100, 1)
    assert outcomes.count("refused") > 30


HEAD, FREE = struct.Struct("<4sB3xQ"), struct.Struct("<HH4xQ")


def texts_of(entries: list[tuple[int, int]], length: int = 4096) -> bytes:
    """A store of texts as HDF5 keeps it, of (number, length of the text) each."""
    out = HEAD.pack(b"GCOL", 1, length)
    for number, size in entries:
        out += FREE.pack(number, 1, size) + bytes(-(-size // 8) * 8 if number else max(size - 16, 0))
    return out[:length].ljust(length, b"\0")


ENDLESS = {
    "no length": texts_of([(1, 8), (0, 0)]),
    "a length of less than its head": texts_of([(1, 8), (0, 8)]),
    "a length that overflows": HEAD.pack(b"GCOL", 1, 4096) + FREE.pack(1, 1, 2**64 - 16) + bytes(4064),
    "longer than the store": texts_of([(1, 8000)]),
    "one within another": texts_of([(1, 100), (0, 3944)])[:1000] + texts_of([(0, 4080)]) + bytes(1000),
    "cut off": texts_of([(1, 8), (0, 4056)])[:40],
    "more than can be numbered": texts_of([(1, 0)] * (2**16 + 1), 16 * (2**16 + 2)),
}


@pytest.mark.parametrize("what", ENDLESS)
@pytest.mark.parametrize("start", [0, 2**20 - 2])
def test_stores_of_texts_that_do_not_end_are_refused(tmp_path, what, start):
    path = tmp_path / "a.h5"
    good = texts_of([(7, 13), (1, 0), (0, 4096 - 16 - 32 - 16)]) + texts_of([(3, 4096 - 40)]) + b"GCOL"
    path.write_bytes(bytes(start) + good)
    _check_texts(path, path.stat().st_size)
    path.write_bytes(bytes(start) + good + ENDLESS[what])
    with pytest.raises(GliomaError, match=f"texts are damaged .at byte {start + len(good)}|{start + len(good) + 1000}"):
        _check_texts(path, path.stat().st_size + 8192)


@pytest.mark.parametrize("kind", ["run", "fit"])
def test_a_text_without_length_does_not_hang_a_reader(server, tmp_path, kind):
    maker = {"run": run_files, "fit": fits}[kind]
    list(maker(tmp_path, 0, random.Random(0)))
    path = tmp_path / {"run": "killed.h5", "fit": "whole.h5"}[kind]
    raw = bytearray(path.read_bytes())
    start = raw.index(b"GCOL\x01")
    assert raw[start + 16 : start + 18] != b"\0\0"  # the first text
    raw[start + 16 : start + 32] = bytes(16)
    path.write_bytes(raw)
    assert read_all(server, tmp_path, [(kind, path, "")]) == ["refused"]


@pytest.mark.slow
@pytest.mark.parametrize("what", MAKERS)
def test_a_thousand_corrupted(server, tmp_path, what):
    outcomes = fuzz(server, tmp_path, what, 1000, 2)
    assert outcomes.count("refused") > 300
    assert outcomes.count("same") + outcomes.count("other") > 30
