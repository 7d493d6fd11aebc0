"""A calibrated material: its file, the instrument that carries it, the stacks that name it."""

import dataclasses
import os
import shutil

import jax
import numpy as np
import pytest
import yaml

from fibnet.cli import main as fibnet_main
from fibsim import make_instrument, material_from_table
from fibsim.cli import main
from fibsim.errors import InputError
from fibsim.fit import check_fittable
from fibsim.instrument import leaves_by_name
from fibsim.instrument_file import InstrumentFile, load_instrument, save_instrument
from fibsim.interaction import channel_coefficients
from fibsim.interaction_table import interaction_table
from fibsim.io import fingerprint, inspect_stack, read_stack, write_volume
from fibsim.io.table_file import read_material_file
from fibsim.material_file import save_materials
from fibsim.materials import composition, material, mean_material

BRASS = dict(weight_fractions={"Cu": 0.7, "Zn": 0.3}, density_g_cm3=8.5)


def brass(**changes):
    """Brass with the table of copper from 1 to 5 keV."""
    copper = interaction_table("Cu")
    inside = (copper.energy_kev >= 1) & (copper.energy_kev <= 5)
    table = jax.tree.map(lambda leaf: leaf[np.asarray(inside)], copper)
    solid = mean_material(composition("brass", **BRASS))
    return dataclasses.replace(solid, table=dataclasses.replace(table, **changes))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "brass.npz"
    save_materials(path, [brass()])
    return path


@pytest.fixture
def stack(tmp_path):
    """A folder of two channels whose stack.yaml names a table beside them."""
    folder = tmp_path / "stack"
    for number, name in enumerate(("1kV", "5kV")):
        images = np.random.default_rng(number).integers(1, 250, (3, 64, 64)).astype(np.uint8)
        write_volume(folder / f"{name}.tif", images, voxel_nm=(10.0, 4.0, 4.0))
    save_materials(folder / "brass.npz", [brass()])
    facts = {"tilt_deg": 0, "material": "brass.npz", "pores": "vacuum"}
    (folder / "stack.yaml").write_text(yaml.safe_dump(facts))
    return folder


def spoil(path, **changes):
    """Replace arrays of a file; None leaves one out."""
    with np.load(path) as content:
        arrays = {**content, **changes}
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})


# What the table does


def test_file_gives_the_material_back(file):
    found, made = material_from_table(file), brass()
    assert (found.name, found.kind) == ("brass", "metal")
    for name, leaf in leaves_by_name(made).items():
        np.testing.assert_array_equal(leaves_by_name(found)[name], leaf, err_msg=name)


def test_own_table_replaces_the_shipped_one_of_that_name():
    """Where the own one is the shipped one nothing changes; else its numbers are the model's."""
    kev = dict(beam_kev=(1.0, 2.3, 5.0))
    shipped = channel_coefficients(make_instrument(solid="Cu", **kev))
    own = dataclasses.replace(brass(), name="Cu")
    same = channel_coefficients(make_instrument(solid=own, **kev))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), same, shipped)
    other = dataclasses.replace(own, table=brass(eta=0.9 * own.table.eta).table)
    found = channel_coefficients(make_instrument(solid=other, **kev))
    np.testing.assert_allclose(found.eta, 0.9 * shipped.eta, rtol=1e-5)


def test_coefficients_are_differentiable_in_the_table():
    lens = make_instrument(beam_kev=(1.5, 5.0), solid=brass(), other_phases=(brass(),))

    def total(table):
        phase = dataclasses.replace(lens.solid, table=table)
        return channel_coefficients(dataclasses.replace(lens, solid=phase)).delta[:, 0].sum()

    slope = jax.grad(total)(lens.solid.table)
    assert np.all(np.isfinite(slope.delta)) and np.all(slope.delta >= 0)
    assert float(slope.delta.sum()) > 0 and not np.any(slope.depth_shape)


def test_secondaries_escape_by_the_kind_of_solid(tmp_path):
    """Unknown names are metals; the kind that was calibrated goes with the file."""
    assert mean_material(composition("glass", **BRASS)).kind == "metal"
    glass = mean_material(composition("glass", kind="insulator", **BRASS))
    path = tmp_path / "glass.npz"
    save_materials(path, [dataclasses.replace(glass, table=brass().table)])
    alone, silica = (make_instrument(beam_kev=(2.0,), solid=s) for s in (str(path), "SiO2"))
    assert alone.interaction.se_escape_nm == silica.interaction.se_escape_nm
    filled = make_instrument(beam_kev=(2.0,), solid="Au", other_phases=(str(path),))
    attenuation = channel_coefficients(filled).se_attenuation[0]
    assert float(attenuation[0] / attenuation[1]) == pytest.approx(4.0)
    with pytest.raises(InputError, match="kind of solid 'alloy' is unknown"):
        composition("brass", kind="alloy", **BRASS)


def test_beam_energies_must_lie_in_the_table(file):
    make_instrument(beam_kev=(0.99, 5.05), solid=str(file))
    for kev in (0.9, 5.2, 20.0):
        with pytest.raises(InputError, match=f"is {kev:g} keV but the .* brass holds 1 to 5 keV"):
            make_instrument(beam_kev=(2.0, kev), solid=str(file))
        with pytest.raises(InputError, match="brass holds 1 to 5 keV"):
            make_instrument(beam_kev=(kev,), other_phases=(str(file),))
    one = jax.tree.map(lambda leaf: leaf[:1], brass().table)
    with pytest.raises(InputError, match="holds only 1 keV"):
        make_instrument(beam_kev=(2.0,), solid=dataclasses.replace(brass(), table=one))


# Instrument files


def test_instrument_file_holds_the_table_bit_for_bit(tmp_path):
    """Also of numbers without a short decimal, and without the table's own file."""
    rng = np.random.default_rng(0)
    odd = jax.tree.map(lambda leaf: leaf * np.float32(1 - 0.01 * rng.uniform()), brass().table)
    solid = dataclasses.replace(brass(), table=odd, kind="semiconductor")
    lens = make_instrument(beam_kev=(2.0,), solid=solid, other_phases=("resin", brass()))
    path = tmp_path / "instrument.yaml"
    save_instrument(path, InstrumentFile(instrument=lens))
    back = load_instrument(path).instrument
    assert jax.tree.structure(back) == jax.tree.structure(lens)
    for name, leaf in leaves_by_name(lens).items():
        found = leaves_by_name(back)[name]
        assert np.asarray(found).tobytes() == np.asarray(leaf).tobytes(), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(eta=[0.3, 0.3]), "'eta' of solid.table in .* has shape"),
        (dict(eta=[0.3, -0.1, 0.2, 0.3, 0.3]), "not positive"),
        (dict(eta=[0.3, 0.2, 0.2, 0.3, 1.3]), "1 or more"),
        (dict(delta=["a", 1, 1, 1]), "solid.table.delta is .* expected a number or a list"),
        (dict(energy_kev=[1, 3, 2, 4, 5]), "increasing"),
        (dict(etaa=[1]), "unknown parameter 'solid.table.etaa'; did you mean 'solid.table.eta'"),
        (dict(depth_nm=None), "'depth_nm' of solid.table in .* no finite number"),
    ],
)
def test_bad_tables_in_an_instrument_file(tmp_path, change, message):
    path = tmp_path / "instrument.yaml"
    lens = make_instrument(beam_kev=(2.0,), solid=brass())
    save_instrument(path, InstrumentFile(instrument=lens))
    content = yaml.safe_load(path.read_text())
    content["solid"]["table"] |= change
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match=message):
        load_instrument(path)


def test_a_named_solid_needs_all_its_numbers_or_a_known_name(tmp_path):
    path = tmp_path / "instrument.yaml"
    path.write_text(
        "fibsim_instrument: 1\nbeam_kev: [2]\nsolid: {name: SiO2, density_g_cm3: 2.0}\n"
    )
    solid = load_instrument(path).instrument.solid
    assert (solid.kind, float(solid.density_g_cm3)) == ("insulator", 2.0)
    assert float(solid.atomic_number) == float(material("SiO2").atomic_number)
    path.write_text("fibsim_instrument: 1\nbeam_kev: [2]\nsolid: {name: brass}\n")
    with pytest.raises(InputError, match="solid lacks 'atomic_number'"):
        load_instrument(path)


# Stacks


def test_stack_yaml_names_a_table_beside_it(stack, monkeypatch):
    read = read_stack(stack)
    assert read.material == str(stack / "brass.npz")
    assert "interaction table of brass, 1 to 5 keV" in inspect_stack(read)
    assert "ignored" not in read.provenance
    check_fittable(read)
    monkeypatch.chdir(stack.parent)
    save_materials("mine.npz", [brass(eta=0.9 * brass().table.eta)])
    stated = read_stack(stack, overrides={"material": "mine.npz", "pores": "stack/brass.npz"})
    assert (stated.material, stated.pores) == ("mine.npz", "stack/brass.npz")
    assert any(w.startswith("material is mine.npz by command line") for w in stated.warnings)
    shutil.copy(stack / "brass.npz", "copy.npz")
    same = read_stack(stack, overrides={"material": "copy.npz"})
    assert not [w for w in same.warnings if "material" in w]


def test_missing_facts_are_asked_for_with_the_table_relative_to_them(stack, monkeypatch):
    (stack / "stack.yaml").unlink()
    monkeypatch.chdir(stack.parent)
    shutil.move(stack / "5kV.tif", stack / "other.tif")
    with pytest.raises(InputError, match=r"\nmaterial: \.\./mine\.npz\n"):
        shutil.copy(stack / "brass.npz", "mine.npz")
        read_stack(stack, overrides={"material": "mine.npz", "channels": ["other.tif"]})


def test_fingerprint_counts_the_content_of_the_table_and_not_its_place(stack, tmp_path):
    first = fingerprint(read_stack(stack))
    shutil.copytree(stack, tmp_path / "moved")
    assert fingerprint(read_stack(tmp_path / "moved")) == first
    for key in ("material", "pores"):
        other = tmp_path / f"{key}.npz"
        save_materials(other, [brass(eta=1.01 * brass().table.eta)])
        assert fingerprint(read_stack(stack, overrides={key: str(other)})) != first
    assert fingerprint(dataclasses.replace(read_stack(stack), material="Cu")) != first


# What cannot be used


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(density_g_cm3=None), "has no 'density_g_cm3'"),
        (dict(kinds=None), "has no 'kinds'"),
        (dict(eta=None), "has no 'eta'"),
        (dict(materials=None), "has no 'materials'"),
        (dict(kinds=np.array(["alloy"])), "kind of solid 'alloy' is unknown"),
        (dict(kinds=np.array(["metal"] * 2)), "'kinds' of .* lists 2"),
        (dict(atomic_number=np.array([-1.0])), "not one positive number"),
        (dict(atomic_weight=np.array([np.nan])), "not one positive number"),
        (dict(atomic_number=np.array(29.0)), "not one positive number"),
        (dict(density_g_cm3=np.array([80.0])), "density_g_cm3 is 80.0, expected 0.01 to 25"),
        (dict(delta=np.full((1, 5), 1e60)), "no finite number"),
        (dict(depth_nm=np.full((1, 5), 1e-60)), "not positive"),
        (dict(energy_kev=np.array([1.0, 2.0, 2.0 + 1e-12, 3.0, 5.0])), "increasing"),
        (dict(eta=np.array([{}])), "not a readable .npz"),
    ],
)
def test_files_of_other_content_are_refused(file, changes, message):
    spoil(file, **changes)
    with pytest.raises(InputError, match=message):
        make_instrument(beam_kev=(2.0,), solid=str(file))


def test_files_of_several_materials_are_refused(file):
    save_materials(file, [brass(), dataclasses.replace(brass(), name="twin")])
    with pytest.raises(InputError, match=r"holds 2 materials \(brass, twin\)"):
        material_from_table(file)
    with pytest.raises(InputError, match="without an interaction table"):
        save_materials(file, [material("Au")])


def test_damaged_files_never_raise_anything_else(file, tmp_path):
    """An array file, a pickle, a folder; and any byte changed, or the end missing."""
    np.save(tmp_path / "array.npy", np.arange(3))
    shutil.move(tmp_path / "array.npy", tmp_path / "array.npz")
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "pickle.npz").write_bytes(b"\x80\x04N.")
    (tmp_path / "empty.npz").write_bytes(b"")
    for name in ("array", "folder", "pickle", "empty"):
        with pytest.raises(InputError, match="not a readable"):
            material_from_table(tmp_path / f"{name}.npz")
    whole, rng, refused = file.read_bytes(), np.random.default_rng(0), 0
    for _ in range(300):
        content = bytearray(whole[: rng.integers(len(whole)) if rng.uniform() < 0.2 else None])
        if content:
            content[rng.integers(len(content))] ^= rng.integers(1, 256)
        file.write_bytes(content)
        try:
            read_material_file(file)
        except InputError:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.npz", "nowhere.npz does not exist"),
        ("text.npz", "not a readable .npz"),
        ("other.npz", "has no 'materials'"),
        ("brass.npz", "is 10 keV but the interaction table of brass holds 1 to 5 keV"),
    ],
)
def test_commands_refuse_in_one_sentence_and_write_nothing(
    file, stack, name, message, monkeypatch, capsys
):
    monkeypatch.chdir(file.parent)
    (file.parent / "text.npz").write_text("no table")
    np.savez(file.parent / "other.npz", values=np.arange(3))
    before = sorted(os.listdir())
    kev = ["--beam-kev", "1", "10"]
    for call, words in (
        (main, ["simulate", "tilted52", "--materials", name, *kev]),
        (main, ["simulate", "tilted52", "--pores", name, *kev]),
        (main, ["fit", "stack", "--material", name, *kev]),
        (fibnet_main, ["reconstruct", "stack", "-o", "out", "--pores", name, *kev]),
    ):
        assert call(words) == 2, words
        error = capsys.readouterr().err
        assert message in error and error.startswith("error: ") and error.count("\n") == 1
    assert sorted(os.listdir()) == before


def test_the_monte_carlo_asks_for_elements(file):
    with pytest.raises(InputError, match=r"brass\.npz is an interaction table, which does not say"):
        composition(str(file))


# The command


def test_simulated_stack_brings_its_table(file, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    volume = tmp_path / "blobs.tif"
    blobs = np.random.default_rng(0).uniform(size=(30, 32, 32)) < 0.5
    write_volume(volume, blobs, voxel_nm=(10 / 3, 4.0, 4.0))
    common = ["--specimen", str(volume), "--specimen-voxel-nm", "3.333", "4", "4"]
    common += ["--slices", "3", "--side", "32", "--out"]
    words = ["simulate", "orthogonal", "--materials", str(file), "--pores", str(file)]
    assert main([*words, "--beam-kev", "2", *common, str(first)]) == 0
    stated = yaml.safe_load((first / "stack.yaml").read_text())
    assert (stated["material"], stated["pores"]) == ("material_brass.npz", "pores_brass.npz")
    file.unlink()
    assert main(["simulate", str(first / "instrument.yaml"), *common, str(second)]) == 0
    for folder in (first, second):
        found = leaves_by_name(material_from_table(folder / "material_brass.npz"))
        for name, leaf in leaves_by_name(brass()).items():
            np.testing.assert_array_equal(found[name], leaf, err_msg=name)
    read = read_stack(first)
    assert read.provenance["ignored"] == "instrument.yaml, truth.tif"
    assert fingerprint(read) == fingerprint(read_stack(second))
