import subprocess
import sys

import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
from matplotlib.quiver import Quiver
from PIL import Image, ImageSequence

from score_jax import plotting
from score_jax.types import InputError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, size=(5, 4, 3, 1)).astype(np.uint8)


def pixels(fig):
    return np.asarray(fig.axes[0].images[0].get_array())


def log_normal(x):
    return -0.5 * (x**2).sum(1) - jnp.log(2 * jnp.pi)


def test_grid_image_places_every_pixel():
    grid = plotting.grid_image(IMAGES, 3, padding=2)
    assert grid.shape == (4 + 2 + 4, 3 * 3 + 2 * 2, 1)
    expected = np.full(grid.shape, 255)
    for i, image in enumerate(IMAGES):
        row, column = divmod(i, 3)
        for r in range(4):
            for c in range(3):
                expected[row * 6 + r, column * 5 + c] = image[r, c]
    np.testing.assert_array_equal(grid, expected)  # the missing sixth image and the padding are white


def test_grid_image_scale_repeats_pixels_and_background_is_a_grey_level():
    grid = plotting.grid_image(IMAGES, 5, padding=1, background=0.2)
    np.testing.assert_array_equal(grid[:, 3], 51)
    np.testing.assert_array_equal(
        plotting.grid_image(IMAGES, 5, background=0.2, scale=3), np.kron(grid, np.ones((3, 3, 1)))
    )


def test_floats_are_rounded_and_clipped_and_nan_is_black():
    values = np.array([-0.5, 0, 0.1, 0.499, 1, 7, np.nan], np.float32).reshape(1, 1, 7, 1)
    np.testing.assert_array_equal(plotting.grid_image(values)[0, :, 0], [0, 0, 26, 127, 255, 255, 0])


@pytest.mark.parametrize("channels", [1, 3])
def test_png_round_trips_pixel_by_pixel(tmp_path, channels):
    image = RNG.integers(0, 256, size=(6, 5, channels)).astype(np.uint8)
    for given in (image, image.astype(np.float32) / 255):
        with Image.open(plotting.save_png(tmp_path / "new" / "a.png", given)) as read:
            np.testing.assert_array_equal(np.asarray(read).reshape(image.shape), image)


def test_gif_holds_every_frame_exactly(tmp_path):
    frames = RNG.uniform(size=(7, 9, 8, 1))
    with Image.open(plotting.save_gif(tmp_path / "a.gif", frames, seconds=0.7, hold=1.0)) as gif:
        read = [(np.asarray(frame.convert("L")), frame.info["duration"]) for frame in ImageSequence.Iterator(gif)]
    assert len(read) == 7
    np.testing.assert_array_equal([frame for frame, _ in read], np.round(255 * frames[..., 0]))
    assert [duration for _, duration in read] == [100] * 6 + [1100]


def test_image_grid_shows_the_grid_image():
    fig = plotting.image_grid(IMAGES, 2, title="samples")
    np.testing.assert_array_equal(pixels(fig), plotting.grid_image(IMAGES, 2)[..., 0])
    assert fig.axes[0].get_title() == "samples"


def test_strip_has_a_row_per_sample_and_a_labelled_column_per_level():
    trajectory = RNG.integers(0, 256, size=(3, 2, 4, 5, 3)).astype(np.uint8)
    fig = plotting.strip(trajectory, sigmas=[50.0, 1.0, 0.01])
    picture = pixels(fig)
    for stage in range(3):
        for sample in range(2):
            tile = picture[sample * 5 : sample * 5 + 4, stage * 6 : stage * 6 + 5]
            np.testing.assert_array_equal(tile, trajectory[stage, sample])
    assert [label.get_text() for label in fig.axes[0].get_xticklabels()] == ["50", "1", "0.01"]
    np.testing.assert_allclose(fig.axes[0].get_xticks(), [2, 8, 14])  # pixel centres of the tiles


def test_neighbours_stand_beside_their_sample():
    samples = RNG.integers(0, 256, size=(2, 4, 6, 1)).astype(np.uint8)
    nearest = RNG.integers(0, 256, size=(2, 3, 4, 6, 1)).astype(np.uint8)
    fig = plotting.neighbours(samples, nearest)
    picture = pixels(fig)
    for i in range(2):
        row = picture[5 * i : 5 * i + 4]
        np.testing.assert_array_equal(row[:, :6], samples[i, ..., 0])
        np.testing.assert_array_equal(row[:, 6:8], 255)
        for k in range(3):
            np.testing.assert_array_equal(row[:, 8 + 7 * k : 14 + 7 * k], nearest[i, k, ..., 0])
    np.testing.assert_allclose(fig.axes[0].get_xticks(), [2.5, 10.5, 17.5, 24.5])


def test_density_image_is_the_density_at_its_pixels():
    fig = plotting.density(log_normal, (-2.0, 2.0, -1.0, 3.0), resolution=8)
    x = -2 + 4 * (np.arange(8) + 0.5) / 8
    y = x + 1
    expected = np.exp(-0.5 * (x[None] ** 2 + y[:, None] ** 2)) / (2 * np.pi)
    image = fig.axes[0].images[0]
    np.testing.assert_allclose(image.get_array(), expected, rtol=1e-5)
    assert image.origin == "lower" and image.get_extent() == [-2, 2, -1, 3]
    assert fig.axes[0].get_aspect() == 1


def test_quiver_arrows_are_the_scores_at_their_points_on_one_scale():
    def learned(x):
        return jnp.stack([-x[:, 0], 2 * x[:, 1] + 1], 1)

    fig = plotting.score_field(learned, lambda x: -x, extent=(-3, 3, -2, 4), log_prob_fn=log_normal, arrows=6)
    first, second = (next(c for c in ax.collections if isinstance(c, Quiver)) for ax in fig.axes)
    np.testing.assert_allclose(first.X.reshape(6, 6)[0], [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
    np.testing.assert_allclose(first.Y.reshape(6, 6)[:, 0], [-1.5, -0.5, 0.5, 1.5, 2.5, 3.5])
    np.testing.assert_allclose(first.U, -first.X, rtol=1e-6)
    np.testing.assert_allclose(first.V, 2 * first.Y + 1, rtol=1e-6)
    np.testing.assert_allclose(np.stack([second.U, second.V]), -np.stack([second.X, second.Y]), rtol=1e-6)
    assert first.scale == second.scale
    # nine in ten of the true arrows are at most one cell long
    np.testing.assert_allclose((np.hypot(second.U, second.V) / second.scale <= 1).mean(), 0.9, atol=0.06)
    assert [ax.get_title() for ax in fig.axes] == ["learned score", "true score"]


def test_scatter_draws_the_points_on_the_axes_of_the_data():
    data, samples = RNG.normal(size=(50, 2)), 3 * RNG.normal(size=(40, 2))
    fig = plotting.scatter(samples, data)
    np.testing.assert_array_equal(fig.axes[0].collections[0].get_offsets(), data)
    np.testing.assert_array_equal(fig.axes[1].collections[0].get_offsets(), samples)
    np.testing.assert_allclose((*fig.axes[1].get_xlim(), *fig.axes[1].get_ylim()), plotting.extent_of(data))
    assert fig.axes[1].get_title() == "samples (n = 40)"


def test_extent_is_a_square_around_the_points():
    extent = plotting.extent_of(np.array([[0.0, 1.0], [4.0, 2.0]]), margin=0.25)
    np.testing.assert_allclose(extent, (2 - 3, 2 + 3, 1.5 - 3, 1.5 + 3))  # half of 4, and a quarter of 4 more


def test_trajectories_run_from_start_to_end():
    paths = RNG.normal(size=(6, 3, 2))
    ax = plotting.trajectories(paths).axes[0]
    for i, line in enumerate(ax.lines):
        np.testing.assert_array_equal(line.get_xydata(), paths[:, i])
    np.testing.assert_array_equal(ax.collections[0].get_offsets(), paths[0])
    np.testing.assert_array_equal(ax.collections[1].get_offsets(), paths[-1])
    assert len(ax.lines) == 3


def test_curve_draws_what_it_is_given_on_a_fitting_axis():
    steps, loss = np.arange(1, 9) * 100, 2.0 ** -np.arange(8)
    ax = plotting.curve(steps, loss + 0.01, loss, ylabel="loss (nats)").axes[0]
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), np.stack([steps, loss + 0.01], 1))
    np.testing.assert_array_equal(ax.lines[1].get_xydata(), np.stack([steps, loss], 1))
    assert (ax.get_yscale(), ax.get_ylabel(), ax.get_xlabel()) == ("log", "loss (nats)", "training steps")
    assert plotting.curve(steps, loss - 0.5).axes[0].get_yscale() == "linear"  # implicit objectives go below 0
    assert plotting.curve(steps, loss + 10).axes[0].get_yscale() == "linear"  # a log axis would show no numbers


def test_noise_level_curves_carry_values_and_error_bars():
    sigma, values = np.array([0.01, 1.0, 10.0]), np.array([[1.0, 2.0, 30.0], [0.5, 0.6, 0.7]])
    ax = plotting.by_noise_level(sigma, values, values / 10, labels=["DSM", "SSM"], ylabel="score error").axes[0]
    for container, line in zip(ax.containers, values):
        np.testing.assert_array_equal(container.lines[0].get_xydata(), np.stack([sigma, line], 1))
        ends = [segment[:, 1] for segment in container.lines[2][0].get_segments()]
        np.testing.assert_allclose(ends, np.stack([0.9 * line, 1.1 * line], 1))
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["DSM", "SSM"]
    plain = plotting.by_noise_level(sigma, values[1]).axes[0]
    np.testing.assert_array_equal(plain.lines[0].get_ydata(), values[1])
    assert plain.get_legend() is None and not plain.containers[0].has_yerr


def test_accuracies_stand_beside_that_of_the_most_frequent_class():
    sigma, accuracy, errors = np.array([0.01, 1.0, 10.0]), np.array([0.9, 0.5, 0.2]), np.array([0.01, 0.02, 0.03])
    ax = plotting.accuracy_by_noise_level(sigma, accuracy, errors, least=0.15).axes[0]
    np.testing.assert_array_equal(ax.containers[0].lines[0].get_xydata(), np.stack([sigma, accuracy], 1))
    ends = [segment[:, 1] for segment in ax.containers[0].lines[2][0].get_segments()]
    np.testing.assert_allclose(ends, np.stack([accuracy - errors, accuracy + errors], 1))
    (least,) = (line for line in ax.lines if line.get_label() == "the most frequent class: 0.15")
    np.testing.assert_array_equal(least.get_ydata(), [0.15, 0.15])
    assert ax.get_xscale() == "log" and ax.get_ylim() == (0, 1.02)


def test_histogram_bars_are_the_shares_in_per_cent():
    shares, data = np.array([0.2, 0.5, 0.3]), np.array([0.3, 0.3, 0.4])
    ax = plotting.histogram_classes(shares, data, classes=["a", "b", "c"]).axes[0]
    bars = {container.get_label(): [bar.get_height() for bar in container] for container in ax.containers}
    np.testing.assert_allclose(bars["samples"], 100 * shares)
    np.testing.assert_allclose(bars["held-out data"], 100 * data)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "b", "c"]


def test_bars_with_errors_are_on_a_log_axis_only_where_all_of_them_can_be_there():
    wide = {"labels": ["a", "b"], "xlabel": "distance"}
    below_zero = plotting.bars([0.001, 0.1], [0.002, 0.01], **wide).axes[0]
    assert below_zero.get_xscale() == "linear"
    np.testing.assert_allclose([bar.get_width() for bar in below_zero.patches], [0.001, 0.1])
    above = plotting.bars([0.001, 0.1], [0.0005, None], **wide).axes[0]
    assert above.get_xscale() == "log" and above.xaxis.get_minor_formatter()(2e-3) == ""
    ends = above.containers[0].lines[2][0].get_segments()[0][:, 0]
    np.testing.assert_allclose(ends, [0.0005, 0.0015])


def test_a_bar_without_an_error_has_no_caps():
    ax = plotting.bars([2.0, 3.0, 0.0], [0.5, None, None], labels=["a", "b", "c"], xlabel="distance").axes[0]
    errors = next(container for container in ax.containers if hasattr(container, "has_xerr"))
    left, right = (np.asarray(cap.get_xdata(), np.float64) for cap in errors.lines[1])
    np.testing.assert_array_equal(left, [1.5, np.nan, np.nan])
    np.testing.assert_array_equal(right, [2.5, np.nan, np.nan])


def test_pictures_leave_no_global_state_and_need_no_pyplot(tmp_path):
    before = dict(matplotlib.rcParams)
    path = plotting.save_figure(plotting.curve([1, 2], [3.0, 2.0]), tmp_path / "figures" / "loss.png")
    assert dict(matplotlib.rcParams) == before
    # 5.4 × 3.4 inches at 150 dots an inch, trimmed to its content
    with Image.open(path) as picture:
        width, height = picture.size
    assert 700 < width <= 850 and 430 < height <= 550
    code = "import sys, score_jax.plotting; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: plotting.grid_image(np.zeros((4, 8, 8))), r"\(N, H, W, C\)"),
        (lambda: plotting.grid_image(np.zeros((4, 8, 8, 2))), "1 or 3 channels"),
        (lambda: plotting.strip(np.zeros((4, 8, 8, 1))), r"\(T, n, H, W, C\)"),
        (lambda: plotting.scatter(np.zeros((4, 3))), "only data in the plane"),
        (lambda: plotting.trajectories(np.zeros((4, 2))), r"\(T, n, 2\), got \(4, 2\)"),
    ],
)
def test_arrays_that_cannot_be_drawn_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_more_sets_than_colours_are_all_drawn():
    """Colours come again: nothing that was named is left out."""
    n = len(plotting.COLORS) + 2
    named = {str(i): np.random.default_rng(i).normal(size=(20, 2)) for i in range(n)}
    assert all(len(ax.collections) for ax in plotting.clouds(named).axes)
    lines = plotting.curves({name: points.T for name, points in named.items()}, xlabel="x", ylabel="y")
    assert len(lines.axes[0].lines) == n
