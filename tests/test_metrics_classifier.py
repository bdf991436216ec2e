import numpy as np
import pytest
from sklearn.datasets import load_digits

from score_jax import metrics
from score_jax.metrics import classification_report, classifier, train_classifier
from score_jax.types import InputError


@pytest.fixture(scope="module")
def digits():
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = (images[order] / 16).astype(np.float32).reshape(-1, 8, 8, 1), labels[order]
    return (images[:1400], labels[:1400]), (images[1400:], labels[1400:])


@pytest.fixture(scope="module")
def trained(digits):
    return train_classifier(*digits[0])


def test_held_out_digits_are_recognised_with_honest_confidence(trained, digits):
    images, labels = digits[1]
    report = classification_report(trained, images, (images, labels), labels=labels)
    assert report.held_out_accuracy > 0.98
    assert abs(report.held_out_confidence - report.held_out_accuracy) < 0.02
    assert report.accuracy == report.held_out_accuracy == (trained.predict(images) == labels).mean()
    assert report.total_variation == report.kl == 0
    np.testing.assert_allclose(trained.probabilities(images).sum(1), 1, rtol=1e-6)


def test_training_is_deterministic(trained, digits):
    again = train_classifier(*digits[0])
    np.testing.assert_array_equal(again.probabilities(digits[1][0]), trained.probabilities(digits[1][0]))


def test_large_sets_get_a_perceptron_that_is_deterministic_too(digits, monkeypatch):
    monkeypatch.setattr(classifier, "_SVM_VALUES", 0)
    (images, labels), held_out = digits
    perceptron = train_classifier(np.repeat(images, 3, 0), np.repeat(labels, 3, 0))
    assert classification_report(perceptron, held_out[0], held_out).held_out_accuracy > 0.93
    first, second = (train_classifier(images[:256], labels[:256]).probabilities(held_out[0]) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("perceptron", [False, True])
def test_nearest_neighbours_in_feature_space_share_the_class(trained, digits, monkeypatch, perceptron):
    (images, labels), (queries, answers) = digits
    if perceptron:
        monkeypatch.setattr(classifier, "_SVM_VALUES", 0)
        trained = train_classifier(images, labels)
    nearest = metrics.nearest_neighbours(queries, images, k=1, features=trained.features)[0][:, 0]
    assert (labels[nearest] == answers).mean() > 0.9  # measured: 0.93 by decision values, 0.97 by the hidden layer


def test_labels_need_not_be_consecutive(digits):
    (images, labels), (queries, answers) = digits
    pick, queries = np.isin(labels, [3, 8]), queries[np.isin(answers, [3, 8])]
    two = train_classifier(images[pick], labels[pick] * 10)
    np.testing.assert_array_equal(two.classes, [30, 80])
    answers = answers[np.isin(answers, [3, 8])] * 10
    report = classification_report(two, queries, (queries, answers))
    assert report.held_out_accuracy > 0.98 and abs(report.held_out_confidence - report.held_out_accuracy) < 0.02


def test_class_balance_is_measured_against_the_held_out_images(trained, digits):
    images, labels = digits[1]
    predicted = trained.predict(images)
    threes, sevens = images[predicted == 3][:20], images[predicted == 7][:10]
    report = classification_report(trained, np.concatenate([threes, sevens]), (images, labels))
    np.testing.assert_allclose(report.class_shares[[3, 7]], [2 / 3, 1 / 3])
    data = np.bincount(predicted, minlength=10) / len(images)
    np.testing.assert_allclose(report.data_shares, data)
    # the eight absent classes are the whole of the negative part
    np.testing.assert_allclose(report.total_variation, 1 - data[3] - data[7])
    p = (np.bincount([3] * 20 + [7] * 10, minlength=10) + 1) / 40
    q = (np.bincount(predicted, minlength=10) + 1) / (len(images) + 10)
    np.testing.assert_allclose(report.kl, (p * np.log(p / q)).sum())
    assert report.accuracy is None


def test_wrong_labels_and_noise_are_seen_for_what_they_are(trained, digits):
    images, labels = digits[1]
    noise = np.random.default_rng(0).uniform(size=(200, 8, 8, 1)).astype(np.float32)
    report = classification_report(trained, noise, digits[1], labels=np.zeros(200, int))
    assert report.confidence < report.held_out_confidence - 0.1
    swapped = classification_report(trained, images, (images, labels), labels=(labels + 1) % 10)
    assert swapped.accuracy < 0.02


def test_samples_beyond_the_range_are_clipped(trained, digits):
    images = digits[1][0][:50]
    overshooting = np.where(images == 0, -0.3, np.where(images == 1, 1.4, images))
    np.testing.assert_array_equal(trained.probabilities(overshooting), trained.probabilities(images))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda x, y: ((x * 255).astype(np.uint8), y), "divide by 255"),
        (lambda x, y: (2 * x - 1, y), r"got \[-1, 1\]"),
        (lambda x, y: (x, y[:-1]), "one label per image"),
        (lambda x, y: (x[:12], y[:12]), "rarest"),
        (lambda x, y: (x.reshape(-1, 64), y), r"\(N, H, W, C\)"),
        (
            lambda x, y: (np.where(np.arange(len(x)).reshape(-1, 1, 1, 1) < 3, np.nan, x), y),
            "3 of 1400 images hold NaN",
        ),
    ],
)
def test_unusable_training_sets_are_refused(digits, change, message):
    with pytest.raises(InputError, match=message):
        train_classifier(*change(*digits[0]))


def test_images_of_another_shape_are_refused(trained):
    with pytest.raises(InputError, match=r"\(8, 8, 1\), got \(4, 4, 1\)"):
        trained.predict(np.zeros((2, 4, 4, 1), np.float32))
