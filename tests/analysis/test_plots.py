"""Pictures are written, hold what was asked for, and refuse what cannot be drawn."""

import dataclasses

import numpy as np
import pytest
from ase import Atoms
from fake_run import fake_predictions
from PIL import Image

from msmlff.analysis.plots import parity_figure, plot_molecular_fraction, plot_pressure, plot_rdf_by_density
from msmlff.data.configuration import Configuration
from msmlff.errors import InputError


@pytest.fixture(scope="module")
def frames() -> list[Configuration]:
    """Gases of H2 molecules at three densities, two frames each."""
    rng = np.random.default_rng(0)
    found = []
    for group, side in (("0.5", 7.2), ("0.9", 6.0), ("1.2", 5.4)):
        for _ in range(2):
            centres = rng.uniform(0, side, size=(30, 3))
            positions = np.concatenate([centres, centres + np.array([0, 0, 0.74])])
            atoms = Atoms("H60", positions, cell=[side] * 3, pbc=True)
            stress = -rng.uniform(0.1, 0.2) * np.eye(3)
            found.append(
                Configuration(
                    atoms.numbers, positions, np.array(atoms.cell), atoms.pbc, stress=stress, group=group
                )
            )
    return found


def is_a_picture(path) -> bool:
    with Image.open(path) as image:
        return min(image.size) > 300 and len(image.convert("RGB").getcolors(1_000_000)) > 20


def test_pictures_of_a_pool(frames, tmp_path):
    assert is_a_picture(plot_rdf_by_density(frames, tmp_path / "docs" / "rdf.png", r_max=3.0, bins=30))
    assert is_a_picture(plot_molecular_fraction(frames, tmp_path / "fraction.png"))
    assert is_a_picture(plot_pressure(frames, tmp_path / "pressure.png", temperature=1000.0))


def test_pressure_needs_a_stress(frames, tmp_path):
    with pytest.raises(InputError, match="stress"):
        plot_pressure([dataclasses.replace(frame, stress=None) for frame in frames], tmp_path / "p.png")
    with pytest.raises(InputError, match="no frames"):
        plot_molecular_fraction([], tmp_path / "p.png")


def test_parity_figure_has_a_panel_for_each_target():
    labels = [axes.get_xlabel() for axes in parity_figure(fake_predictions()).axes]
    assert [label.split(":")[1].split()[0] for label in labels] == ["energy", "force", "pressure"]
    assert len(parity_figure(fake_predictions(stress=False)).axes) == 2
