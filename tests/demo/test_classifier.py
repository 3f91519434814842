"""The metric classifier: its packaged weights and its handling of pictures."""

import numpy as np
import pytest
import torch

from vq4dit.demo.classifier import classify, load_classifier


@pytest.fixture(scope="module")
def classifier():
    return load_classifier()


def test_classifier_is_loaded_for_inference_in_float32(classifier):
    assert not classifier.training
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in classifier.parameters())


def test_classify_takes_the_centre_of_larger_pictures(classifier):
    rng = np.random.default_rng(3)
    large = rng.integers(0, 256, (5, 32, 32, 1), np.uint8)
    labels, features = classify(classifier, large)
    other_labels, other = classify(classifier, large[:, 2:30, 2:30, 0], batch_size=2)
    assert features.shape == (5, 128)
    np.testing.assert_array_equal(labels, other_labels)
    np.testing.assert_allclose(features, other, rtol=1e-4, atol=1e-4)  # batches sum differently


@pytest.mark.parametrize(
    "pictures",
    [np.zeros((2, 27, 28), np.uint8), np.zeros((2, 32, 32, 3), np.uint8), np.zeros((2, 28, 28))],
    ids=["small", "colour", "float"],
)
def test_classify_refuses_other_pictures(classifier, pictures):
    with pytest.raises(ValueError, match="needed"):
        classify(classifier, pictures)
