"""NIfTI in and out: left stays left, and damaged or unclear files are refused."""

import gzip
import os
import pickle
import struct
import tracemalloc

import nibabel as nib
import numpy as np
import pytest

from glioma_pde.errors import GliomaError
from glioma_pde.io import nifti
from glioma_pde.io.nifti import read_image, tissue_from_nifti, write_image

RAS = np.array([[2.0, 0, 0, -11], [0, 2, 0, -13], [0, 0, 3, -15], [0, 0, 0, 1]])
LAS = np.array([[-2.0, 0, 0, 11], [0, 2, 0, -13], [0, 0, 3, -15], [0, 0, 0, 1]])
LPS = np.array([[-2.0, 0, 0, 11], [0, -2, 0, 13], [0, 0, 3, -15], [0, 0, 0, 1]])
# Sagittal storage: the first axis runs backwards, the second up, the third to the right.
PERMUTED = np.array([[0, 0, 2.0, -11], [-2, 0, 0, 13], [0, 3, 0, -15], [0, 0, 0, 1]])
C, S = np.cos(0.3), np.sin(0.3)
OBLIQUE = np.array([[-2 * C, -2 * S, 0, 11], [-2 * S, 2 * C, 0, -10], [0, 0, 3, -15], [0, 0, 0, 1]])
AFFINES = {"RAS": RAS, "LAS": LAS, "LPS": LPS, "permuted": PERMUTED, "oblique": OBLIQUE}
SHAPE = (12, 13, 14)


@pytest.fixture(params=AFFINES, scope="module")
def affine(request):
    return AFFINES[request.param]


@pytest.fixture
def save(tmp_path):
    """Write an image as another program might, with nibabel alone."""

    def write(name, data, affine=RAS, change=None, kind=nib.Nifti1Image):
        image = kind(data, affine)
        if change:
            change(image)
        nib.save(image, tmp_path / name)
        return tmp_path / name

    return write


def random(shape=SHAPE, dtype=np.float32):
    return np.random.default_rng(0).random(shape).astype(dtype)


def marker(affine, point_mm):
    """An image that is 1 in the voxel at a world point and 0 elsewhere."""
    data = np.zeros(SHAPE, np.float32)
    index = np.rint(np.linalg.inv(affine) @ (*point_mm, 1))[:3].astype(int)
    data[tuple(index)] = 1
    return data


# -- left and right -------------------------------------------------------------------------


def test_a_marker_on_the_right_stays_on_the_right(save, affine):
    point = np.array([7.0, 3.0, 0.0])
    data = marker(affine, point)
    read, found = read_image(save("m.nii.gz", data, affine))
    np.testing.assert_array_equal(read, data)
    world = found[:3] @ (*np.argwhere(read == 1)[0], 1)
    assert np.abs(world - point).max() <= 1.5
    assert world[0] > 4


def test_a_marker_comes_back_where_it_was_written(tmp_path, affine):
    data = marker(affine, (7.0, -3.0, 6.0))
    write_image(tmp_path / "m.nii", data, affine)
    reference = nib.load(tmp_path / "m.nii")
    np.testing.assert_array_equal(reference.get_fdata(), data)
    np.testing.assert_allclose(reference.affine, affine, atol=1e-6)
    read, found = read_image(tmp_path / "m.nii")
    np.testing.assert_array_equal(read, data)
    np.testing.assert_allclose(found, affine, atol=1e-6)


@pytest.mark.parametrize("spacing", [None, 3.0])
def test_tissue_on_the_right_is_right_of_the_middle_in_the_world(save, affine, spacing):
    image = np.zeros(SHAPE, np.float32)
    world = nib.affines.apply_affine(affine, np.argwhere(np.ones(SHAPE))).reshape(*SHAPE, 3)
    image[(world[..., 0] > 1) & (world[..., 1] < 0)] = 1  # right and posterior
    paths = save("w.nii", image, affine), save("g.nii", 0 * image, affine)
    tissue = tissue_from_nifti(*paths, spacing_mm=spacing)
    inside = tissue.grid.world_mm()[:, np.asarray(tissue.mask)]
    assert inside[0].min() > 0
    assert inside[0].mean() > 3
    assert inside[1].mean() < -3
    window = tissue.window((7.0, -5.0, 0.0), 6.0)
    assert bool(np.asarray(window.mask).any())
    assert np.abs(window.grid.world_mm()[0] - 7).max() < 14
    with pytest.raises(GliomaError):
        tissue.window((-9.0, -5.0, 0.0), 3.0)


# -- what is read ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_both_versions_plain_and_compressed(save, kind, name):
    data = random()
    read, affine = read_image(save(name, data, LAS, kind=kind))
    np.testing.assert_array_equal(read, data)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(affine, LAS)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float64])
def test_stored_types_become_float32(save, dtype):
    data = (100 * random()).astype(dtype)
    np.testing.assert_allclose(read_image(save("a.nii", data))[0], data, rtol=1e-6)


def test_scaled_integers_big_endian_and_fortran_order(tmp_path):
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(np.int16)
    image = nib.Nifti1Image(random(), LAS, header)  # nibabel picks a slope and an intercept
    nib.save(image, tmp_path / "a.nii")
    np.testing.assert_allclose(read_image(tmp_path / "a.nii")[0], random(), atol=2e-5)


def test_trailing_axes_of_one_are_dropped(save):
    assert read_image(save("a.nii", random((4, 5, 6, 1))))[0].shape == (4, 5, 6)
    assert read_image(save("b.nii", random((4, 5, 6, 1, 1))))[0].shape == (4, 5, 6)
    assert read_image(save("c.nii", random((1, 1, 1))))[0].shape == (1, 1, 1)
    with pytest.raises(GliomaError, match=r"shape \(4, 5, 6, 2\).*extract one volume"):
        read_image(save("d.nii", random((4, 5, 6, 2))))
    with pytest.raises(GliomaError, match="3-D"):
        read_image(save("e.nii", random((4, 5))))


@pytest.mark.parametrize("unit", ["mm", "unknown"])
def test_millimetres_or_no_unit(save, unit):
    read_image(save("a.nii", random(), change=lambda i: i.header.set_xyzt_units(unit)))


@pytest.mark.parametrize("unit", ["meter", "micron"])
def test_other_units_are_refused(save, unit):
    with pytest.raises(GliomaError, match=f"{unit}; convert it to mm"):
        read_image(save("a.nii", random(), change=lambda i: i.header.set_xyzt_units(unit)))


def test_missing_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(GliomaError, match="no image file"):
        read_image(tmp_path / "absent.nii")
    with pytest.raises(GliomaError, match="no image file"):
        read_image(tmp_path)
    np.save(tmp_path / "a.npy", random())
    with pytest.raises(GliomaError, match="not a NIfTI file"):
        read_image(tmp_path / "a.npy")
    os.rename(tmp_path / "a.npy", tmp_path / "a.nii")
    with pytest.raises(GliomaError, match="damaged"):
        read_image(tmp_path / "a.nii")
    (tmp_path / "b.nii.gz").write_bytes(random().tobytes())
    with pytest.raises(GliomaError, match="damaged"):
        read_image(tmp_path / "b.nii.gz")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_files_cut_anywhere_are_refused(save, name):
    path = save(name, random())
    whole = path.read_bytes()
    for keep in [0, 3, 100, 347, 352, 600, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:keep])
        with pytest.raises(GliomaError, match="damaged or cut short"):
            read_image(path)


def test_a_flipped_bit_in_a_compressed_file_is_noticed(tmp_path):
    raw = nib.Nifti1Image(random(), RAS).to_bytes()
    stored = bytearray(gzip.compress(raw, compresslevel=0))
    stored[len(stored) // 2] ^= 1  # stored blocks decode without complaint; only the checksum tells
    (tmp_path / "a.nii.gz").write_bytes(stored)
    with pytest.raises(GliomaError, match="damaged"):
        read_image(tmp_path / "a.nii.gz")


def test_random_damage_never_escapes_as_another_error(tmp_path):
    generator = np.random.default_rng(3)
    whole = nib.Nifti1Image(random((3, 4, 5)), LAS).to_bytes()
    path = tmp_path / "a.nii"
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(4):
            damaged[generator.integers(352)] = generator.integers(256)
        path.write_bytes(damaged)
        try:
            read_image(path, max_voxels=10**6)
        except GliomaError:
            refused += 1
    assert refused > 30


def test_sizes_are_judged_from_the_header_alone(save):
    path = save("a.nii", random())
    with pytest.raises(GliomaError, match="between 1 and 2183 voxels"):
        read_image(path, max_voxels=12 * 13 * 14 - 1)
    assert read_image(path, max_voxels=12 * 13 * 14)[0].shape == SHAPE
    raw = bytearray(path.read_bytes())
    raw[42:48] = struct.pack("<3h", 30000, 30000, 30000)  # 108 TB, were it read
    path.write_bytes(raw)
    with pytest.raises(GliomaError, match="30000"):
        read_image(path)
    raw[42:48] = struct.pack("<3h", 0, 5, 5)
    path.write_bytes(raw)
    with pytest.raises(GliomaError, match="between 1 and"):
        read_image(path)


def test_names_that_no_file_can_have_are_refused():
    for name in ("x" * 300 + ".nii", "a\0b.nii"):
        with pytest.raises(GliomaError, match=r"\.nii"):
            read_image(name)


@pytest.mark.parametrize("dtype", [np.float64, np.int16])
def test_reading_holds_what_is_stored_and_the_result_and_no_more(save, dtype):
    path = save(
        "a.nii.gz",
        random((100, 100, 100), np.float64).astype(dtype),
        change=lambda image: image.header.set_slope_inter(2, 1),
    )
    stored, result = np.dtype(dtype).itemsize * 100**3, 4 * 100**3
    tracemalloc.start()
    read_image(path)
    assert tracemalloc.get_traced_memory()[1] < 1.2 * (stored + result) + 2**22
    tracemalloc.stop()


def test_a_small_file_that_unpacks_to_gigabytes_is_refused_by_its_header(save):
    path = save("a.nii.gz", random((3, 4, 5)))
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[42:48] = struct.pack("<3h", 1000, 1000, 1000)
    raw[70:74] = struct.pack("<2h", 64, 64)
    path.write_bytes(gzip.compress(bytes(raw) + bytes(2**20)))
    with pytest.raises(GliomaError, match=r"between 1 and 134217728 voxels"):
        read_image(path)


def test_values_that_are_no_real_numbers_are_refused(save):
    data = random()
    data[1, 2, 3] = np.nan
    data[4, 5, 6] = np.inf
    with pytest.raises(GliomaError, match=r"2 values that are not finite, first at voxel \(1, 2, 3\)"):
        read_image(save("a.nii", data))
    with pytest.raises(GliomaError, match="not finite"):
        read_image(save("b.nii", np.full((3, 3, 3), 1e200)))
    with pytest.raises(GliomaError, match="real numbers"):
        read_image(save("c.nii", random().astype(np.complex64)))


def test_pickles_are_never_opened(save):
    opened = []

    class Trap:
        def __reduce__(self):
            return opened.append, (1,)

    def attach(image):
        image.header.extensions.append(nib.nifti1.Nifti1Extension("pypickle", pickle.dumps(Trap())))

    read_image(save("a.nii", random(), change=attach))
    assert not opened


# -- affines --------------------------------------------------------------------------------


def set_forms(sform, qform, codes=(1, 1)):
    def change(image):
        image.set_sform(sform, codes[0])
        image.set_qform(qform, codes[1])

    return change


def test_the_qform_serves_alone_and_the_sform_comes_first(save, affine):
    read = read_image(save("q.nii", random(), affine, set_forms(np.eye(4), affine, (0, 1))))[1]
    np.testing.assert_allclose(read, affine, atol=1e-5)
    shifted = affine.copy()
    shifted[0, 3] += 4
    path = save("both.nii", random(), affine, set_forms(shifted, affine))
    with pytest.warns(UserWarning, match="4 mm apart; the sform is used"):
        read = read_image(path)[1]
    np.testing.assert_allclose(read, shifted, atol=1e-5)


@pytest.mark.filterwarnings("error")
def test_agreeing_forms_are_silent(save, affine):
    read_image(save("a.nii", random(), affine, set_forms(affine, affine)))


@pytest.mark.parametrize("other", [RAS, LPS, PERMUTED])
def test_forms_that_disagree_on_left_are_refused(save, other):
    # LPS against RAS keeps the handedness, and yet it turns left into right.
    one = LAS if other is not LPS else RAS
    with pytest.raises(GliomaError, match="left and right are in doubt"):
        read_image(save("a.nii", random(), one, set_forms(one, other)))


def test_unknown_orientation_is_refused(save):
    path = save("a.nii", random(), RAS, set_forms(RAS, RAS, (0, 0)))
    with pytest.raises(GliomaError, match="which way is left"):
        read_image(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((0, 1, 0.4), "shears"),
        ((0, 0, 0.0), "singular"),
        ((1, 3, np.nan), "singular"),
    ],
)
def test_affines_that_cells_cannot_follow_are_refused(save, tmp_path, change, message):
    bad = RAS.copy()
    bad[change[0], change[1]] = change[2]
    path = save("a.nii", random())
    raw = bytearray(path.read_bytes())
    raw[280:328] = bad[:3].astype("<f4").tobytes()  # srow_x, srow_y, srow_z
    path.write_bytes(raw)
    with pytest.raises(GliomaError, match=message):
        read_image(path)
    with pytest.raises(GliomaError, match=message):
        write_image(tmp_path / "b.nii", random(), bad)
    assert not (tmp_path / "b.nii").exists()


# -- writing --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["out.nii", "out.nii.gz"])
def test_written_files_are_float32_in_mm_and_replace_older_ones(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"an older file")
    data = random(dtype=np.float64)
    write_image(path, data, OBLIQUE)
    image = nib.load(path)
    assert image.get_data_dtype() == np.float32
    assert image.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_array_equal(read_image(path)[0], data.astype(np.float32))
    np.testing.assert_allclose(read_image(path)[1], OBLIQUE, atol=1e-6)
    first = path.read_bytes()
    write_image(path, data, OBLIQUE)
    assert path.read_bytes() == first  # no time stamp
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_failed_write_leaves_the_old_file_and_no_debris(tmp_path, monkeypatch):
    path = tmp_path / "a.nii"
    path.write_bytes(b"an older file")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nifti.os, "fsync", full)
    with pytest.raises(GliomaError, match="No space left"):
        write_image(path, random(), RAS)
    assert path.read_bytes() == b"an older file"
    assert [p.name for p in tmp_path.iterdir()] == ["a.nii"]


def test_unwritable_images_are_refused(tmp_path):
    for data, affine, name in [
        (random((4, 5)), RAS, "a.nii"),
        (random() * np.nan, RAS, "a.nii"),
        (random((0, 4, 4)), RAS, "a.nii"),
        (np.zeros((40000, 1, 1)), RAS, "a.nii"),
        (random(), np.eye(3), "a.nii"),
        (random(), RAS, "a.img"),
        (random(), RAS, "absent/a.nii"),
    ]:
        with pytest.raises(GliomaError):
            write_image(tmp_path / name, data, affine)
    assert not list(tmp_path.iterdir())


# -- tissue ---------------------------------------------------------------------------------


@pytest.fixture
def maps():
    white = np.zeros(SHAPE, np.float32)
    white[2:8, 2:8, 2:10] = 0.75
    return {"white": white, "grey": white / 3, "csf": (1 - white * 4 / 3) / 2}


def test_tissue_from_files(save, maps):
    paths = {f"{k}_path": save(f"{k}.nii.gz", v, LAS) for k, v in maps.items()}
    background = random()
    tissue = tissue_from_nifti(**paths, background_path=save("t1.nii", 500 * background, LAS))
    for name, values in maps.items():
        np.testing.assert_allclose(np.asarray(getattr(tissue, name)), values, rtol=1e-6)
    np.testing.assert_array_equal(np.asarray(tissue.mask), maps["white"] > 0)
    np.testing.assert_allclose(np.asarray(tissue.background), 500 * background, rtol=1e-6)
    np.testing.assert_allclose(tissue.grid.matrix, LAS)
    assert tissue.grid.spacing_mm == (2.0, 2.0, 3.0)
    coarse = tissue_from_nifti(**paths, spacing_mm=4.0)
    assert coarse.grid.spacing_mm == (4.0, 4.0, 4.0)


@pytest.mark.parametrize("on", [1, 255])
def test_masks_are_binary(save, maps, on):
    paths = save("w.nii", maps["white"]), save("g.nii", maps["grey"])
    mask = np.zeros(SHAPE, np.uint8)
    mask[3:5, 3:5, 3:5] = on
    tissue = tissue_from_nifti(*paths, mask_path=save("m.nii", mask))
    np.testing.assert_array_equal(np.asarray(tissue.mask), mask > 0)
    mask[3, 3, 3] = 100
    with pytest.raises(GliomaError, match="not a binary mask"):
        tissue_from_nifti(*paths, mask_path=save("m.nii", mask))
    with pytest.raises(GliomaError, match="empty"):
        tissue_from_nifti(*paths, mask_path=save("m.nii", 0 * mask))


@pytest.mark.parametrize("full", [100, 255])
def test_percentages_and_bytes_need_their_scale(save, maps, full):
    stored = {k: np.rint(full * v).astype(np.uint8) for k, v in maps.items()}
    stored["white"][3, 3, 3], stored["grey"][3, 3, 3] = full, 0
    paths = {f"{k}_path": save(f"{k}.nii", v) for k, v in stored.items()}
    with pytest.raises(GliomaError, match=f"white.nii reaches {full}.*give scale = {full}"):
        tissue_from_nifti(**paths)
    tissue = tissue_from_nifti(**paths, scale=full)
    np.testing.assert_allclose(np.asarray(tissue.white), stored["white"] / full, rtol=1e-6)
    for wrong in (0, -1, np.nan, np.inf):
        with pytest.raises(GliomaError, match="scale"):
            tissue_from_nifti(**paths, scale=wrong)


def test_images_of_different_spaces_are_refused_by_name(save, maps):
    white = save("white.nii", maps["white"])
    with pytest.raises(GliomaError, match=r"white.nii has shape .* but .*grey.nii has \(12, 13, 13\)"):
        tissue_from_nifti(white, save("grey.nii", maps["grey"][..., :-1]))
    grey = save("grey.nii", maps["grey"])
    moved = RAS.copy()
    moved[1, 3] += 0.5
    with pytest.raises(GliomaError, match=r"white.nii and .*csf.nii lie in different places .*0.5 mm"):
        tissue_from_nifti(white, grey, save("csf.nii", maps["csf"], moved))
    with pytest.raises(GliomaError, match=r"white.nii and .*mask.nii"):
        tissue_from_nifti(white, grey, mask_path=save("mask.nii", np.ones(SHAPE, np.uint8), LAS))
    moved[1, 3] = RAS[1, 3] + 5e-4
    assert tissue_from_nifti(white, save("grey.nii", maps["grey"], moved)).mask.any()


def test_overlapping_tissues_are_refused_beyond_rounding(save, maps):
    white = save("white.nii", maps["white"])
    assert tissue_from_nifti(white, save("grey.nii", maps["grey"] * 1.02)).mask.any()
    with pytest.raises(GliomaError, match=r"white \+ grey exceeds 1"):
        tissue_from_nifti(white, save("grey.nii", maps["grey"] * 1.5))
    with pytest.raises(GliomaError, match="negative"):
        tissue_from_nifti(white, save("grey.nii", -maps["grey"]))
