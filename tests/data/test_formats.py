"""Files: what is written comes back; other programs agree; every mistake in a file is named."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from numpy.testing import assert_allclose, assert_array_equal

from msmlff.data.configuration import Configuration
from msmlff.data.extxyz import parse_comment
from msmlff.data.formats import LabelKeys, from_ase, read_frames, write_frames
from msmlff.data.runner import write_runner
from msmlff.errors import InputError

BOHR, HARTREE = 0.529177210903, 27.211386245988  # CODATA 2018


def _assert_close(a: Configuration, b: Configuration, atol: float = 1e-8) -> None:
    assert_array_equal(a.numbers, b.numbers)
    assert_array_equal(a.pbc, b.pbc)
    for name in ("positions", "cell", "energy", "forces", "stress"):
        x, y = getattr(a, name), getattr(b, name)
        assert (x is None) == (y is None), name
        if x is not None:
            assert_allclose(x, y, atol=atol, err_msg=name)
    assert a.weight == b.weight


@pytest.mark.parametrize("name", ["a.xyz", "a.extxyz", "a.extxyz.gz"])
def test_written_frames_come_back(name, make_frames, tmp_path) -> None:
    info = {
        "step": 3,
        "flag": True,
        "text": 'two "words" \\ here',
        "list": [1.5, 2.5],
        "ratio": 0.1,
        "none": "T",
    }
    frames = [replace(f, info=info) for f in make_frames(6)]
    assert write_frames(tmp_path / name, iter(frames)) == 6
    back = list(read_frames(tmp_path / name))
    for a, b in zip(frames, back, strict=True):
        _assert_close(a, b)
        assert b.group == a.group
        assert {k: b.info[k] for k in ("step", "flag", "text", "ratio")} == {
            k: info[k] for k in ("step", "flag", "text", "ratio")
        }
        assert list(b.info["list"]) == info["list"]
    assert [f.source for f in back] == [f"{tmp_path / name}:{i}" for i in range(6)]
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_equal_frames_make_equal_files(make_frames, tmp_path) -> None:
    for name in ("a.xyz.gz", "b.xyz.gz"):
        write_frames(tmp_path / name, make_frames(3))
    assert (tmp_path / "a.xyz.gz").read_bytes() == (tmp_path / "b.xyz.gz").read_bytes()


def test_a_failed_write_leaves_the_old_file(make_frames, tmp_path) -> None:
    path = tmp_path / "a.xyz"
    write_frames(path, make_frames(1))
    before = path.read_bytes()

    def broken():
        yield from make_frames(2)
        raise RuntimeError("engine died")

    with pytest.raises(RuntimeError):
        write_frames(path, broken())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_ase_reads_what_we_write(make_frames, tmp_path) -> None:
    frames = make_frames(4)
    write_frames(tmp_path / "a.xyz", frames)
    for frame, atoms in zip(frames, ase.io.read(tmp_path / "a.xyz", ":"), strict=True):
        _assert_close(frame, replace(from_ase(atoms), weight=frame.weight))


def test_we_read_what_ase_writes(make_frames, tmp_path) -> None:
    frames = make_frames(4)
    ase.io.write(tmp_path / "a.extxyz", [f.to_ase() for f in frames])
    for a, b in zip(frames, read_frames(tmp_path / "a.extxyz"), strict=True):
        _assert_close(a, replace(b, weight=a.weight))
        assert a.group == b.group


def test_reference_data_reads_as_with_ase(reference_data) -> None:
    path = reference_data / "organics_gfn2xtb" / "train_1000.extxyz.gz"
    ours = list(read_frames(path))
    assert len(ours) == 1003
    for frame, atoms in zip(ours, ase.io.read(path, ":5"), strict=False):
        _assert_close(frame, from_ase(atoms))
    assert ours[3].info["Comp"] == "VC(3)"
    keyed = next(
        read_frames(reference_data / "dense_hydrogen_pbe" / "val.extxyz.gz", LabelKeys(group="density_g_cm3"))
    )
    assert keyed.group == "1.026"
    assert "density_g_cm3" not in keyed.info


BODY = "H 0 0 0 1 2 3\nH 0 0 0.8 -1 -2 -3\n"
BODY_OF_NINE = "H 0 0 0 1 2 3 0 0 0\nH 0 0 0.8 -1 -2 -3 0 0 0\n"
HEADER = 'Lattice="4 0 0 0 5 0 0 0 6" Properties=species:S:1:pos:R:3:{} pbc="T T F" {}'


def _write(folder: Path, comment: str, body: str = BODY, count: int = 2) -> Path:
    path = folder / "x.xyz"
    path.write_text(f"{count}\n{comment}\n{body}")
    return path


def _one(
    folder: Path, columns: str, pairs: str, keys: LabelKeys | None = None, body: str = BODY
) -> Configuration:
    (frame,) = read_frames(_write(folder, HEADER.format(columns, pairs), body), keys)
    return frame


SYMMETRIC = np.array([[1.0, 6.0, 5.0], [6.0, 2.0, 4.0], [5.0, 4.0, 3.0]])


@pytest.mark.parametrize(
    ("pairs", "factor"),
    [
        ('stress="1 6 5 6 2 4 5 4 3"', 1.0),
        ('stress="1 2 3 4 5 6"', 1.0),
        ("stress=[[1,6,5],[6,2,4],[5,4,3]]", 1.0),
        ('virial="1 6 5 6 2 4 5 4 3"', -1 / 120),
        ('stress="1 6 5 6 2 4 5 4 3" virial="9 0 0 0 9 0 0 0 9"', 1.0),
    ],
)
def test_all_ways_to_write_a_stress(pairs, factor, tmp_path) -> None:
    frame = _one(tmp_path, "forces:R:3", f"energy=-1 {pairs}")
    assert_allclose(frame.stress, factor * SYMMETRIC)
    assert frame.pbc.tolist() == [True, True, False]
    assert_allclose(frame.cell, np.diag([4, 5, 6]))
    assert "stress" not in frame.info


def test_labels_under_other_names_by_their_keys(tmp_path) -> None:
    keys = LabelKeys("REF_energy", "dft_forces", "sigma", None, "phase", "w")
    frame = _one(
        tmp_path, "dft_forces:R:3", 'REF_energy=-2 sigma="1 2 3 4 5 6" phase=alpha w=3 energy=7', keys
    )
    assert frame.energy == -2.0
    assert_allclose(frame.forces, [[1, 2, 3], [-1, -2, -3]])
    assert_allclose(frame.stress, SYMMETRIC)
    assert (frame.group, frame.weight) == ("alpha", 3.0)
    assert frame.info == {"energy": 7}


@pytest.mark.parametrize(
    ("columns", "pairs", "message"),
    [
        (
            "forces:R:3",
            "REF_energy=-1",
            r"x\.xyz:0: no energy under the key 'energy'.*pool\.keys\.energy=REF_energy",
        ),
        ("forces:R:3", "E0=-1", r"pool\.keys\.energy=E0"),
        ("mace_forces:R:3", "energy=-1", r"pool\.keys\.forces=mace_forces"),
        ("forces:R:3", 'energy=-1 dft_stress="1 2 3 4 5 6"', r"pool\.keys\.stress=dft_stress"),
        ("forces:R:2", "energy=-1", r"forces 'forces' have shape \[2, 2\], not \[2, 3\]"),
        ("forces:R:4", "energy=-1", "atom line 0 has 7 columns.*asks for 8"),
        ("forces:R:3", 'energy="a b"', "energy is 'a b', not one number"),
        ("forces:R:3", 'energy=1 stress="1 2 3 4"', r"stress has shape \[4\]"),
        ("forces:R:3", 'energy=1 stress="1 0 0 5 1 0 0 0 1"', "stress is not symmetric"),
        ("forces:R", "energy=-1", "is not name:type:width"),
    ],
)
def test_mistaken_labels_are_named(columns, pairs, message, tmp_path) -> None:
    with pytest.raises(InputError, match=message):
        _one(tmp_path, columns, pairs)


@pytest.mark.parametrize(
    "pairs",
    [
        "config_stress_weight=0.5",
        "config_energy_weight=2",
        "energy_sigma=0.01",
        "stress_units=kbar",
        "virial_std=3",
        "energy_converged=T",
        "stress_trace=1.5",
        'energy_terms="1 2 3"',
    ],
)
def test_what_is_said_about_a_label_is_no_label(pairs, tmp_path) -> None:
    frame = _one(tmp_path, "forces:R:3:forces_error:R:3", pairs, None, BODY_OF_NINE)
    assert np.isnan(frame.energy)
    assert frame.stress is None
    assert pairs.split("=")[0] in frame.info


def test_a_label_can_be_done_without(tmp_path) -> None:
    frame = _one(tmp_path, "forces:R:3", "REF_energy=-1", LabelKeys(energy=None, forces=None))
    assert np.isnan(frame.energy)
    assert frame.forces is None


@pytest.mark.parametrize(
    ("comment", "body", "count", "message"),
    [
        ("energy=1 Properties=species:S:1:pos:R:3", "H 0 0 0\nQq 1 1 1\n", 2, "Qq is no chemical symbol"),
        ("energy=1 Properties=species:S:1:pos:R:3", "H 0 0 0\n", 2, "announces 2 atoms"),
        ("energy=1 Properties=species:S:1:pos:R:3", "H 0 0 0\nH 0 0 x\n", 2, "column pos holds text"),
        ("energy=1 Properties=species:S:1", "H\nH\n", 2, "no pos:R:3"),
        ("energy=1 Properties=pos:R:3", "0 0 0\n1 1 1\n", 2, "no species:S:1"),
        ('Lattice="1 2 3" Properties=species:S:1:pos:R:3', BODY, 2, "Lattice must hold 9 numbers"),
        ('pbc="x y" Properties=species:S:1:pos:R:3', BODY, 2, "pbc must be written"),
        ("energy=1", BODY, 0, "announces 0 atoms"),
    ],
)
def test_files_that_break_the_format(comment, body, count, message, tmp_path) -> None:
    with pytest.raises(InputError, match=rf"x\.xyz:0: .*{message}"):
        list(read_frames(_write(tmp_path, comment, body, count)))


def test_files_that_are_no_frames_at_all(make_frames, tmp_path) -> None:
    with pytest.raises(InputError, match=r"pool\.path=FOLDER"):
        read_frames(tmp_path / "absent.xyz")
    (tmp_path / "empty.xyz").write_text("\n\n")
    with pytest.raises(InputError, match="holds no frames"):
        list(read_frames(tmp_path / "empty.xyz"))
    (tmp_path / "text.xyz").write_text("hello\nworld\n")
    with pytest.raises(InputError, match=r"text\.xyz:0: expected the number of atoms, found 'hello'"):
        list(read_frames(tmp_path / "text.xyz"))
    write_frames(tmp_path / "torn.xyz.gz", make_frames(50))
    data = (tmp_path / "torn.xyz.gz").read_bytes()
    (tmp_path / "torn.xyz.gz").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"torn\.xyz\.gz:\d+: the file is torn"):
        list(read_frames(tmp_path / "torn.xyz.gz"))
    (tmp_path / "plain.xyz.gz").write_text("1\n\nH 0 0 0\n")
    with pytest.raises(InputError, match="torn or not text"):
        list(read_frames(tmp_path / "plain.xyz.gz"))
    (tmp_path / "foreign.cif").write_text("no crystal")
    with pytest.raises(InputError, match=r"foreign\.cif"):
        list(read_frames(tmp_path / "foreign.cif"))


def test_plain_xyz_and_atomic_numbers(tmp_path) -> None:
    (frame,) = read_frames(_write(tmp_path, "a water molecule, no keys", "O 0 0 0\nH 0 0 1\n"))
    assert frame.numbers.tolist() == [8, 1]
    assert not frame.pbc.any()
    (frame,) = read_frames(_write(tmp_path, "Properties=Z:I:1:pos:R:3:tag:S:1", "8 0 0 0 a\n1 0 0 1 b\n"))
    assert frame.numbers.tolist() == [8, 1]


def test_comment_lines_as_ase_reads_them() -> None:
    line = (
        'a=1 b=2.5 c="x y" d="1 2 3" e="T F" f=T flag g=1e-3 h=-5 i={1 2} j="_JSON [1, \\"k\\"]" k=a-b(2):c'
    )
    ours, theirs = parse_comment(line), ase.io.extxyz.key_val_str_to_dict(line)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert_array_equal(ours[key], value)


def test_ase_database(make_frames, tmp_path) -> None:
    frames = make_frames(4)
    for name in ("set.db", "set.json"):
        with connect(tmp_path / name) as database:
            for frame in frames:
                database.write(frame.to_ase(), phase=frame.group, data={"note": "x"})
        for a, b in zip(frames, read_frames(tmp_path / name, LabelKeys(group="phase")), strict=True):
            _assert_close(a, replace(b, weight=a.weight))
            assert a.group == b.group


def test_ase_results_win_over_info() -> None:
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 0.8]])
    atoms.calc = SinglePointCalculator(atoms, energy=-3.0, free_energy=-3.5, forces=np.ones((2, 3)))
    atoms.info["energy"] = 5.0
    assert from_ase(atoms).energy == -3.0
    assert from_ase(atoms, force_consistent=True).energy == -3.5
    assert from_ase(atoms, LabelKeys(energy="free_energy")).energy == -3.5


VASPRUN = """<?xml version="1.0" encoding="ISO-8859-1"?>
<modeling>
 <generator><i name="program" type="string">vasp</i><i name="version" type="string">6.3</i></generator>
 <atominfo><atoms>2</atoms><types>1</types>
  <array name="atoms"><set><rc><c>H</c><c>1</c></rc><rc><c>H</c><c>1</c></rc></set></array></atominfo>
 <kpoints><varray name="kpointlist"><v>0 0 0</v></varray><varray name="weights"><v>1</v></varray></kpoints>
 <structure name="initialpos">
  <crystal><varray name="basis"><v>4 0 0</v><v>0 4 0</v><v>0 0 4</v></varray></crystal>
  <varray name="positions"><v>0 0 0</v><v>0 0 0.2</v></varray></structure>
 <calculation>
  <structure><crystal><varray name="basis"><v>4 0 0</v><v>0 4 0</v><v>0 0 4</v></varray></crystal>
   <varray name="positions"><v>0 0 0</v><v>0 0 0.2</v></varray></structure>
  <varray name="forces"><v>0 0 1.5</v><v>0 0 -1.5</v></varray>
  <varray name="stress"><v>10 0 0</v><v>0 10 0</v><v>0 0 20</v></varray>
  <scstep><energy><i name="e_fr_energy">-6.5</i><i name="e_0_energy">-6.4</i></energy></scstep>
  <energy><i name="e_fr_energy">-6.5</i><i name="e_0_energy">-6.4</i></energy>
 </calculation>
</modeling>
"""


def test_vasprun_gives_the_energy_its_forces_belong_to(tmp_path) -> None:
    path = tmp_path / "vasprun.xml"
    path.write_text(VASPRUN)
    (frame,) = read_frames(path)
    assert frame.energy == pytest.approx(-6.5)
    assert_allclose(frame.forces, [[0, 0, 1.5], [0, 0, -1.5]])
    assert_allclose(frame.stress, np.diag([-10, -10, -20]) * 6.2415091e-4, rtol=1e-5)  # kbar, VASP's sign
    assert_allclose(frame.positions[1], [0, 0, 0.8])
    path.write_text(VASPRUN[:400])
    with pytest.raises(InputError, match=r"vasprun\.xml:0: ASE cannot read"):
        list(read_frames(path))


OUTCAR = """ vasp.6.3
 POTCAR:    PAW_PBE H 15Jun2001
 POTCAR:    PAW_PBE H 15Jun2001
   ions per type =               2
   ISPIN  =      1    spin polarized calculation?
   k-points           NKPTS =      1   k-points in BZ     NKDIM =      1   number of bands    NBANDS=      1
 k-points in reciprocal lattice and weights: Gamma
   0.00000000  0.00000000  0.00000000       1.000
--------------------------------------- Iteration      1(   1)  -----------------------------------
  in kB      10.0 10.0 20.0 0.0 0.0 0.0
      direct lattice vectors                 reciprocal lattice vectors
     4.0  0.0  0.0     0.25  0.0  0.0
     0.0  4.0  0.0     0.0  0.25  0.0
     0.0  0.0  4.0     0.0  0.0  0.25
 POSITION                                       TOTAL-FORCE (eV/Angst)
 -----------------------------------------------------------------------------------
      0.00000      0.00000      0.00000         0.000000      0.000000      1.500000
      0.00000      0.00000      0.80000         0.000000      0.000000     -1.500000
 -----------------------------------------------------------------------------------
  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)
  ---------------------------------------------------
  free  energy   TOTEN  =        -6.50000000 eV

  energy  without entropy=       -6.30000000  energy(sigma->0) =       -6.40000000
"""


def test_outcar_gives_the_energy_its_forces_belong_to(tmp_path) -> None:
    path = tmp_path / "OUTCAR"
    path.write_text(OUTCAR)
    (frame,) = read_frames(path)
    assert frame.energy == pytest.approx(-6.5)
    assert_allclose(frame.forces, [[0, 0, 1.5], [0, 0, -1.5]])
    assert_allclose(frame.stress, np.diag([-10, -10, -20]) * 6.2415091e-4, rtol=1e-5)
    assert frame.pbc.all()
    path.write_text(OUTCAR.replace("0.80000 ", "0.8oooo "))
    with pytest.raises(InputError, match="OUTCAR:0: ASE cannot read"):
        list(read_frames(path))


RUNNER = """begin
comment frame one
lattice 10.0 0.0 0.0
lattice 0.0 11.0 0.0
lattice 0.0 0.0 12.0
atom 1.0 2.0 3.0 H 0.0 0.0 0.1 0.0 -0.2
atom 0.0 0.0 0.0 O 0.0 0.0 -0.1 0.0 0.2
energy -2.0
charge 0.0
end
begin
atom 0.0 0.0 0.0 H 0 0 0 0 0
energy -0.5
charge 0.0
end
"""


def test_runner_is_in_atomic_units(tmp_path) -> None:
    (tmp_path / "input.data").write_text(RUNNER)
    bulk, atom = read_frames(tmp_path / "input.data")
    assert bulk.numbers.tolist() == [1, 8]
    assert_allclose(bulk.positions[0], np.array([1, 2, 3]) * BOHR, rtol=1e-8)
    assert_allclose(bulk.cell, np.diag([10, 11, 12]) * BOHR, rtol=1e-8)
    assert bulk.energy == pytest.approx(-2 * HARTREE, rel=1e-8)
    assert_allclose(bulk.forces[0], np.array([0.1, 0, -0.2]) * HARTREE / BOHR, rtol=1e-8)
    assert bulk.pbc.all()
    assert bulk.info["comment"] == "frame one"
    assert not atom.pbc.any()
    assert atom.energy == pytest.approx(-13.605693, rel=1e-6)


def test_runner_round_trip(make_frames, tmp_path) -> None:
    frames = [
        replace(f, stress=None, weight=1.0, energy=-1.0, forces=np.ones((len(f), 3))) for f in make_frames(5)
    ]
    write_runner(tmp_path / "input.data", frames)
    for a, b in zip(frames, read_frames(tmp_path / "input.data"), strict=True):
        _assert_close(a, b, atol=1e-9)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("lattice 0.0 0.0 12.0\n", "", r"input\.data:0: 2 atoms and 2 lattice vectors"),
        ("energy -2.0", "energy low", r"input\.data:0: line 8 \(energy\) cannot be read: 'low'"),
        ("atom 1.0 2.0", "atom 1.0", r"line 6 \(atom\)"),
        ("atom 1.0", "atoms 1.0", "line 6 starts with 'atoms'"),
        (" O ", " Ox ", "Ox is no chemical symbol"),
        ("charge 0.0\nend\nbegin", "begin", "line 9: 'begin' inside a frame"),
        ("begin\ncomment", "comment", "line 1: 'comment' outside a frame"),
    ],
)
def test_runner_mistakes_are_named(old, new, message, tmp_path) -> None:
    assert old in RUNNER
    (tmp_path / "input.data").write_text(RUNNER.replace(old, new, 1))
    with pytest.raises(InputError, match=message):
        list(read_frames(tmp_path / "input.data"))


def test_a_torn_or_empty_runner_file(tmp_path) -> None:
    (tmp_path / "input.data").write_text(RUNNER.rstrip().removesuffix("end"))
    with pytest.raises(InputError, match="has no end"):
        list(read_frames(tmp_path / "input.data"))
    (tmp_path / "input.data").write_text("# nothing\n")
    with pytest.raises(InputError, match="no frames"):
        list(read_frames(tmp_path / "input.data"))
    with gzip.open(tmp_path / "x.xyz.gz", "wt") as stream:
        stream.write("")
    with pytest.raises(InputError, match="no frames"):
        list(read_frames(tmp_path / "x.xyz.gz"))
