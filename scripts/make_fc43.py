"""Writes a cluster of three C12F27N molecules: the file for --system and --molecules of `msmlff benchmark`.

Perfluorotributylamine, N(CF2CF2CF2CF3)3, has 40 atoms. RDKit makes the molecules; nothing else here needs it,
so give it an environment of its own (any folder will do):

    python -m venv RDKIT && RDKIT/bin/pip install rdkit
    RDKIT/bin/python scripts/make_fc43.py fc43_3mol.xyz

Each molecule is a conformer of its own, with a fixed seed, optimised with MMFF94. They are put side by side,
each turned at random, as close as atoms of different molecules stay DISTANCE apart; of many such trials the
one with the most neighbours is taken. The same version of RDKit gives the same file.
"""

from __future__ import annotations

import argparse
from itertools import combinations
from pathlib import Path

try:
    import numpy as np
    from rdkit import Chem
    from rdkit.Chem import AllChem
except ImportError as error:
    raise SystemExit(
        f"{error.name} is missing: `python -m venv RDKIT && RDKIT/bin/pip install rdkit`, then "
        "`RDKIT/bin/python scripts/make_fc43.py FILE.xyz`"
    ) from error

SMILES = (
    "N("
    + "C(F)(F)C(F)(F)C(F)(F)C(F)(F)F)("
    + "C(F)(F)C(F)(F)C(F)(F)C(F)(F)F)"
    + "C(F)(F)C(F)(F)C(F)(F)C(F)(F)F"
)
#: Å, least distance of atoms of different molecules, and the step in which they approach.
DISTANCE, STEP = 2.9, 0.05
#: Å, below which atoms count as neighbours.
CUTOFF = 5.0
#: orientations tried for each molecule.
TRIALS = 200


def molecule(seed: int) -> tuple[list[str], np.ndarray]:
    """Symbols, and positions [40, 3] in Å around the centre, of one optimised conformer."""
    mol = Chem.MolFromSmiles(SMILES)
    if AllChem.EmbedMolecule(mol, randomSeed=seed) != 0:
        raise SystemExit(f"RDKit found no conformer with seed {seed}")
    if AllChem.MMFFOptimizeMolecule(mol, maxIters=5000) != 0:
        raise SystemExit(f"the optimisation of the conformer with seed {seed} did not converge")
    positions = np.array(mol.GetConformer().GetPositions())
    return [atom.GetSymbol() for atom in mol.GetAtoms()], positions - positions.mean(axis=0)


def random_rotation(rng: np.random.Generator) -> np.ndarray:
    """[3, 3], uniform over all rotations."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.linalg.det(q)


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Å [n, m], of the atoms of ``a`` [n, 3] and those of ``b`` [m, 3]."""
    return np.linalg.norm(a[:, None] - b[None], axis=2)


def approach(placed: np.ndarray, body: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """``body`` [n, 3] on a ray from the centre of ``placed`` [m, 3], moved in as far as DISTANCE lets."""
    centre = placed.mean(axis=0)
    reach = np.linalg.norm(placed - centre, axis=1).max() + np.linalg.norm(body, axis=1).max() + DISTANCE
    while distances(placed, centre + (reach - STEP) * direction + body).min() >= DISTANCE:
        reach -= STEP
    return centre + reach * direction + body


def cluster(bodies: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """[atoms, 3]: each molecule where, of TRIALS turns and directions, it has most neighbours before it."""
    placed = bodies[0]
    for body in bodies[1:]:
        trials = []
        for _ in range(TRIALS):
            direction = rng.normal(size=3)
            turned = body @ random_rotation(rng).T
            trials.append(approach(placed, turned, direction / np.linalg.norm(direction)))
        closest = max(trials, key=lambda trial: (distances(placed, trial) < CUTOFF).sum())
        placed = np.concatenate([placed, closest])
    return placed - placed.mean(axis=0)


def main() -> None:
    """Writes the file and says how dense the cluster is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    made = [molecule(arguments.seed + k) for k in range(3)]
    symbols = [symbol for names, _ in made for symbol in names]
    positions = cluster([body for _, body in made], np.random.default_rng(arguments.seed))
    lines = [str(len(symbols)), 'Properties=species:S:1:pos:R:3 pbc="F F F"']
    lines += [
        f"{s:2s} {x:14.8f} {y:14.8f} {z:14.8f}" for s, (x, y, z) in zip(symbols, positions, strict=True)
    ]
    arguments.file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    apart = min(distances(a, b).min() for a, b in combinations(np.split(positions, 3), 2))
    neighbours = (distances(positions, positions) < CUTOFF).sum() / len(symbols) - 1
    print(f"{arguments.file}: {len(symbols)} atoms, molecules {apart:.2f} Å apart")
    print(f"{neighbours:.1f} neighbours an atom within {CUTOFF} Å")


if __name__ == "__main__":
    main()
