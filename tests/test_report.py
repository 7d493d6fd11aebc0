import dataclasses
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from fibnet import correlation, metrics, morphology
from fibnet.report import (
    AdaptationSection,
    FitSection,
    ReportContent,
    TrainingSection,
    curves,
    style,
    write_report,
)
from fibnet.report.numbers import aligned, format_value
from fibnet.report.rendering import render_solid
from fibnet.report.volumes import binary_entropy, grey_range
from fibsim.errors import InputError

VOXEL = (10.0, 4.0, 4.0)


def synthetic(channels, slices, seed=0):
    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.normal(size=(slices, 40, 44)), (1, 3, 3))
    truth = field > 0
    probability = 1 / (1 + np.exp(-field / field.std() * 3))
    noise = rng.normal(scale=9.0, size=(channels, *truth.shape))
    return (100 + 60 * truth + noise).round(), probability, truth


def full_content(channels=2, slices=8):
    images, probability, truth = synthetic(channels, slices)
    simulated, *_ = synthetic(channels, slices, seed=1)
    label = probability > 0.6
    names = [f"{kv} kV" for kv in range(1, channels + 1)]
    measures = morphology.measure(label, VOXEL)
    return ReportContent(
        title="Gold <one> & two",
        created="1 April",
        summary=[
            ("Porosity", (0.63371, 0.0123), ""),
            ("Ligament", (35.12, 33.8, 36.2), "nm"),
            ("Slices", slices, ""),
        ],
        warnings=["Tilt <unknown> & assumed"],
        stack_rows=[("Pixel size", "4 nm", "ImageJ <tag>"), ("Tilt", 38.0, "assumed")],
        images=images,
        channel_names=names,
        voxel_nm=VOXEL,
        probability=probability,
        label=label,
        truth=truth,
        baseline_labels={"k-means": images[0] > 130},
        morphology=measures,
        measures={
            "fibnet": morphology.as_rows(measures),
            "k-means": morphology.as_rows(morphology.measure(images[0] > 130, VOXEL)),
        },
        structure={
            "fibnet": [
                ("Tortuosity factor of the pores, z", 1.513, ""),
                ("Tortuosity factor of the solid, z", float("inf"), ""),
            ],
            "truth": [("Tortuosity factor of the pores, z", 1.611, "")],
        },
        correlations={
            "fibnet": correlation.correlations(label, VOXEL),
            "truth": correlation.correlations(truth, VOXEL),
        },
        scores={
            "fibnet": metrics.scores(label, truth, VOXEL, probability),
            "k-means": metrics.scores(images[0] > 130, truth, VOXEL),
        },
        fit=FitSection(
            parameters=[("gain", "grey", 30.0, 41.237, 1.21), ("probe_sd_nm", "nm", 2.0, 1.5)],
            loss=np.exp(-np.arange(80) / 10) + 0.01,
            distances=[("Sliced Wasserstein", 12.31, 3.214)],
            real_patch=images[:, :3],
            simulated_patch=simulated[:, :3, :36, :36],
        ),
        training=TrainingSection(
            steps=np.arange(50),
            loss=np.exp(-np.arange(50) / 10),
            val_steps=np.array([10, 40]),
            val_dice=np.array([0.8, 0.91234]),
        ),
        adaptation=AdaptationSection(
            rounds=[(1, 0.6411, 0.6327, 0.0213, 0.44, True), (2, 0.6327, 0.63, 0.001, 0.05, False)],
            residuals=[(1, names[0], 0.11, 2.12, 1.43, 1.31, 0.866, 0.951, 0.962)],
            unknowns=[("interaction.edge_<gain>", "", 1.0, 1.3, 0.9)],
            kinds=[("fibres", 0.033, 0.021), ("waves", 0.127, 0.019)],
        ),
        settings={"seed": 7, "preset": "tiny <fast>"},
        versions={"jax": "0.10.2"},
        timings=[("fit", 12.5, 830.4), ("train", 120.0, None)],
    )


@pytest.fixture(scope="module")
def content():
    return full_content()


@pytest.fixture(scope="module")
def written(content, tmp_path_factory):
    return write_report(tmp_path_factory.mktemp("report") / "deep" / "report.html", content)


class Reader(HTMLParser):
    """Collects text, sources and links, and checks that every tag is closed in order."""

    void = frozenset({"meta", "img", "br"})

    def __init__(self, text):
        super().__init__()
        self.text, self.sources, self.links, self.open, self.tags = "", [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.sources += [attrs["src"]] if "src" in attrs else []
        self.links += [attrs["href"]] if "href" in attrs else []
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data + " "


def test_self_contained(written):
    text = written.read_text(encoding="utf-8")
    page = Reader(text)
    assert not page.open
    assert page.sources and all(s.startswith("data:image/png;base64,") for s in page.sources)
    assert all(link.startswith("#") for link in page.links)
    assert not {"script", "link", "iframe"} & set(page.tags)
    shell = re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)
    assert "http:" not in shell and "https:" not in shell
    assert "url(" not in shell and "@import" not in shell
    for link in page.links:
        assert f'id="{link[1:]}"' in text


def test_text_is_escaped(written):
    text = written.read_text(encoding="utf-8")
    for raw in ("<one>", "<unknown>", "<tag>", "<fast>", "<gain>"):
        assert raw not in text
        assert raw.replace("<", "&lt;").replace(">", "&gt;") in text


def test_holds_the_numbers(written, content):
    text = " ".join(Reader(written.read_text(encoding="utf-8")).text.split())
    for shown in ("0.634 ± 0.012", "35.1 (33.8 to 36.2)", "41.2", "12.31", "3.21", "tiny <fast>",
                  "0.6411", "2.13", "+0.90", "1.43", "0.962", "0.127", "1.513", "∞"):  # fmt: skip
        assert shown in text, shown
    measures = content.morphology
    assert f"{measures.ligament_diameter_nm:.2f}" in text
    assert f"{content.scores['fibnet']['dice']:.3f}" in text
    for section in ("Recording", "Segmentation", "Morphology", "Transport and anisotropy",
                    "Comparison with the truth",
                    "Fit of the simulator", "Training", "Alternation with the segmentation",
                    "Reproducibility"):  # fmt: skip
        assert section in text
    numbers = [int(n) for n in re.findall(r"Figure (\d+)\.", text)]
    assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) == 13


def test_figures_lie_beside_the_report(written):
    files = sorted((written.parent / "figures").iterdir())
    page = Reader(written.read_text(encoding="utf-8"))
    assert [f.name[:2] for f in files] == [f"{n:02d}" for n in range(1, len(page.sources) + 1)]
    assert all(f.read_bytes().startswith(b"\x89PNG") for f in files)
    assert len(files) == 13


def test_best_scores_are_bold(written, content):
    text = written.read_text(encoding="utf-8")
    bold = re.findall(r'class="n best">([^<]+)<', text)
    dice = max(method["dice"] for method in content.scores.values())
    assert f"{dice:.3f}" in bold
    lost = min(method["misplaced_pore_fraction"] for method in content.scores.values())
    assert f"{lost:.3f}" in bold


def test_same_content_gives_the_same_bytes(tmp_path):
    plain = dataclasses.replace(full_content(1, 1), fit=None, training=None)
    first = write_report(tmp_path / "a.html", plain).read_bytes()
    assert write_report(tmp_path / "b.html", plain).read_bytes() == first


def test_single_slice_single_channel(tmp_path):
    path = write_report(tmp_path / "report.html", full_content(1, 1))
    names = [f.name[3:-4] for f in sorted((tmp_path / "figures").iterdir())]
    assert "solid_3d" not in names and "porosity_per_slice" not in names
    assert {"grey_values", "segmentation", "sizes", "real_and_simulated", "spectra"} <= set(names)
    text = Reader(path.read_text(encoding="utf-8")).text
    assert "the only slice" in text and "Perimeter per area" in text
    assert "(xz)" not in text


def test_many_channels_are_spread_over_figures(tmp_path):
    images, _, _ = synthetic(6, 2)
    names = [f"channel {c}" for c in range(6)]
    write_report(
        tmp_path / "r.html",
        ReportContent(title="six", images=images, channel_names=names, voxel_nm=VOXEL),
    )
    found = sorted(f.name for f in (tmp_path / "figures").iterdir())
    assert found == ["01_grey_values_1.png", "02_grey_values_2.png"]


def test_a_title_is_enough(tmp_path):
    page = Reader(write_report(tmp_path / "r.html", ReportContent(title="bare")).read_text())
    assert "bare" in page.text and not page.sources and "h2" not in page.tags


@pytest.mark.parametrize("solid", [True, False])
def test_label_of_one_phase(tmp_path, solid):
    label = np.full((4, 12, 14), solid)
    content = ReportContent(
        title="one phase",
        voxel_nm=VOXEL,
        label=label,
        probability=label.astype(float),
        morphology=morphology.measure(label, VOXEL),
        measures={"fibnet": morphology.as_rows(morphology.measure(label, VOXEL))},
    )
    text = Reader(write_report(tmp_path / "r.html", content).read_text(encoding="utf-8")).text
    assert "nan" not in text.replace("Nano", "")
    assert "–" in text


def test_volumes_must_fit_together(tmp_path):
    images, _, truth = synthetic(2, 3)
    names = ["a", "b"]
    base = {"title": "t", "images": images, "channel_names": names, "voxel_nm": VOXEL}
    bad = {
        "share one": {"label": truth[:2]},
        "(channel, slice, y, x)": {"images": images[0]},
        "channel names": {"channel_names": ["a"]},
        "voxel_nm": {"voxel_nm": None},
    }
    for message, change in bad.items():
        with pytest.raises(InputError) as error:
            write_report(tmp_path / "r.html", ReportContent(**(base | change)))
        assert message in str(error.value)
    patches = FitSection(real_patch=images[:, :1], simulated_patch=images[:1, :1])
    with pytest.raises(InputError, match="same channels"):
        write_report(tmp_path / "r.html", ReportContent(**(base | {"fit": patches})))
    assert not (tmp_path / "r.html").exists()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.633712, "0.6337"),
        (12, "12"),
        (np.int64(12300), "12\N{NARROW NO-BREAK SPACE}300"),
        (-523.0, "−523.0"),
        (0.0999996, "0.1000"),
        (2.5e-7, "2.500e−7"),
        ((0.6337, 0.0123), "0.634 ± 0.012"),
        ((35.0, 1.96), "35.0 ± 2.0"),
        ((35.12, 33.8, 36.2), "35.1 (33.8 to 36.2)"),
        ((3.0, 0.0), "3.000 ± 0.000"),
        (float("nan"), "–"),
        (None, "–"),
        ("4 nm", "4 nm"),
        (True, "True"),
    ],
)
def test_numbers_as_text(value, text):
    assert format_value(value) == text


def test_numbers_in_a_row_share_their_decimals():
    assert aligned([30.0, 41.237], 3) == ["30.0", "41.2"]
    assert aligned([-724.0, -13566.0]) == ["−724", "−13\N{NARROW NO-BREAK SPACE}566"]
    assert aligned([1.0, 0.0123], 3, smallest=True) == ["1.0000", "0.0123"]
    assert aligned([1.0, 1e-7], 3, smallest=True) == ["1.00", "1.00e−7"]
    assert aligned([float("nan"), 0.0]) == ["–", "0"]
    assert aligned([-0.00001, 5.0]) == ["0.00", "5.00"]


def test_scale_bar_lengths():
    assert [style.nice_length(v) for v in (1.0, 4.9, 5.0, 146.0, 999.0)] == [1, 2, 5, 100, 500]


def test_entropy_in_bits():
    np.testing.assert_allclose(binary_entropy(np.array([0.0, 0.5, 1.0])), [0, 1, 0], atol=1e-6)
    assert binary_entropy(np.array([0.11])) == pytest.approx(0.5, abs=1e-3)
    assert grey_range(np.full((2, 3), 7.0)) == (7.0, 8.0)


def test_power_spectrum_of_white_noise_and_of_a_wave():
    rng = np.random.default_rng(0)
    frequency, power = curves.power_spectrum(rng.normal(scale=3.0, size=(20, 64, 80)), 4.0)
    assert frequency[0] == pytest.approx(1 / (64 * 4)) and frequency[-1] < 1 / 8
    # White noise: variance times pixel area at every frequency.
    np.testing.assert_allclose(power, 9 * 16, rtol=0.25)
    assert power.mean() == pytest.approx(9 * 16, rel=0.03)
    wave = np.sin(2 * np.pi * np.arange(64) / 8)[None, None] * np.ones((1, 64, 1))
    frequency, power = curves.power_spectrum(wave, 4.0)
    assert frequency[np.argmax(power)] == pytest.approx(1 / 32)


def test_rendering_shows_a_ball_where_it_is():
    z, y, x = np.mgrid[-8:9, -20:21, -20:21]
    ball = (10 * z) ** 2 + (4 * y) ** 2 + (4 * x) ** 2 <= 50**2
    shot = render_solid(ball, VOXEL, pixels=200)
    covered = shot.image[..., 3] > 0.5
    left, right, bottom, top = shot.extent_nm
    nm2 = (right - left) * (top - bottom) / covered.size
    # An orthographic ball is a disc of its own radius, in the middle, from any side.
    assert covered.sum() * nm2 == pytest.approx(np.pi * 50**2, rel=0.08)
    rows, columns = np.nonzero(covered)
    assert rows.mean() == pytest.approx(covered.shape[0] / 2, abs=3)
    assert columns.mean() == pytest.approx(covered.shape[1] / 2, abs=3)
    # Lit from above: brighter at the top of the disc than at its foot.
    grey = shot.image[..., :3].mean(axis=-1)
    middle = columns == round(columns.mean())
    line = grey[rows[middle], columns[middle]]
    assert line[: line.size // 4].mean() > line[-line.size // 4 :].mean() + 0.1


def test_rendering_puts_slice_zero_on_top_and_high_y_in_front():
    solid = np.zeros((10, 30, 30), bool)
    solid[:3, 10:20, 10:20] = True
    shot = render_solid(solid, VOXEL, pixels=120)
    rows, _ = np.nonzero(shot.image[..., 3] > 0.5)
    assert rows.mean() < 0.45 * shot.image.shape[0]
    near, far = shot.project([[60, 120, 45], [60, 0, 45]])
    assert near[1] < far[1]
    left, right = shot.project([[0, 60, 45], [120, 60, 45]])
    assert left[0] < right[0]


def test_drawing_leaves_the_users_style_alone():
    import matplotlib

    before = dict(matplotlib.rcParams)
    curves.fit_loss_figure(np.array([3.0, 2.0, 1.0]))
    assert dict(matplotlib.rcParams) == before
