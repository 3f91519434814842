"""Evaluation of toy engines: labels, reproducible samples, metrics, refusals."""

import json
from dataclasses import replace

import numpy as np
import pytest
from tiny_engine import NAMES, write_tiny_engine

from vq4dit import demo
from vq4dit.engines.manifest import MANIFEST_NAME, load_manifest, manifest_to_json
from vq4dit.errors import OptionError
from vq4dit.evaluation import (
    EvaluationSettings,
    balanced_labels,
    draw,
    evaluate,
    measure,
    metric_classifier,
)
from vq4dit.metrics import diversity, relative_latent_error
from vq4dit.runtime.pipeline import Pipeline

SETTINGS = EvaluationSettings(num_images=20, steps=2, batch_size=8, threads=1)


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    """Two engines with a decoder (equal) and one without."""
    folder = tmp_path_factory.mktemp("engines")
    for name in ("fp", "same"):
        write_tiny_engine(folder / name)
    write_tiny_engine(folder / "latent", decoder=False)
    return folder


def rewritten(directory, **changes):
    manifest = replace(load_manifest(directory), **changes)
    (directory / MANIFEST_NAME).write_bytes(manifest_to_json(manifest))
    return directory


@pytest.mark.parametrize("num_images", [20, 25, 500])
def test_labels_are_balanced_and_in_turn(num_images):
    labels = balanced_labels(num_images, 10)
    np.testing.assert_array_equal(labels, np.arange(num_images) % 10)


@pytest.mark.parametrize(("num_images", "num_classes"), [(8, 1000), (500, 1000), (3, 2), (2, 10)])
def test_few_pictures_leave_two_of_each_class_that_occurs(num_images, num_classes):
    classes, counts = np.unique(balanced_labels(num_images, num_classes), return_counts=True)
    assert counts.min() >= 2
    assert 0 <= classes.min() <= classes.max() < num_classes


def test_draw_gives_the_pipelines_latents_and_pictures(engines):
    labels = balanced_labels(20, 10)
    told = []
    drawn = draw("fp", engines / "fp", labels, SETTINGS, lambda *progress: told.append(progress))
    with Pipeline(engines / "fp", threads=1) as pipeline:
        common = {"steps": 2, "cfg_scale": 2.0, "seed": 0}
        np.testing.assert_array_equal(
            drawn.latents, pipeline(labels, output="latent", **common)
        )  # fmt: skip
        np.testing.assert_array_equal(drawn.pictures, pipeline(labels, **common))
    assert told == [("fp", i, 6) for i in range(1, 7)]  # three batches of two steps


def test_equal_engines_have_no_error_and_full_diversity(engines):
    evaluation = evaluate(engines / "fp", {"same": engines / "same"}, SETTINGS)
    assert list(evaluation.metrics) == ["fp", "same"]
    assert evaluation.metrics["same"] == evaluation.metrics["fp"]
    assert evaluation.metrics["fp"].relative_latent_error == 0
    assert evaluation.metrics["fp"].diversity == 1
    assert evaluation.metrics["fp"].frechet_distance is None  # no metric classifier


def test_report_has_the_keys_of_the_contract(engines):
    values = evaluate(engines / "fp", {"same": engines / "same"}, SETTINGS).to_dict()
    json.dumps(values, allow_nan=False)
    assert set(values) == {"fp", "same", "num_images", "steps", "seconds", "settings"}
    assert set(values["fp"]) == {
        "frechet_distance", "relative_latent_error", "diversity", "label_accuracy",
    }  # fmt: skip
    assert (values["num_images"], values["steps"]) == (20, 2)
    assert set(values["seconds"]) == {"sampling_fp", "sampling_same"}


def test_engines_without_decoder_are_compared_by_latents(engines):
    evaluation = evaluate(engines / "latent", {"q": engines / "latent"}, SETTINGS)
    assert evaluation.samples["q"].pictures is None
    assert evaluation.metrics["q"].relative_latent_error == 0


def test_measure_uses_the_formulas_and_the_classifier(engines):
    labels = balanced_labels(20, 10)
    reference = draw("fp", engines / "fp", labels, SETTINGS)
    other = replace(reference, latents=0.5 * reference.latents)
    statistics_of = demo.reference_statistics()[0].shape

    def classify(pictures):
        rng = np.random.default_rng(len(pictures))
        return labels.copy(), rng.normal(size=(len(pictures), *statistics_of))

    metrics = measure(other, reference, labels, classify)
    assert metrics.relative_latent_error == relative_latent_error(other.latents, reference.latents)
    assert metrics.diversity == diversity(other.latents, reference.latents, labels)
    assert metrics.label_accuracy == 1
    assert metrics.frechet_distance > 0


def test_metric_classifier_is_for_the_demonstration_model_alone(engines, caplog):
    manifest = load_manifest(engines / "fp")
    with caplog.at_level("INFO"):
        assert metric_classifier(manifest) is None
    assert "no metric classifier for this model" in caplog.text
    classify = metric_classifier(replace(manifest, label_names=demo.label_names()))
    labels, features = classify(np.zeros((2, 32, 32, 1), np.uint8))
    assert labels.shape == (2,)
    assert features.shape == (2, 128)


def test_engines_of_different_models_are_refused(tmp_path, engines):
    write_tiny_engine(tmp_path / "other")
    rewritten(tmp_path / "other", label_names=NAMES[::-1])
    with pytest.raises(OptionError, match="engine 'other' cannot be compared .* label_names"):
        evaluate(engines / "fp", {"other": tmp_path / "other"}, SETTINGS)


def test_a_quantized_reference_is_told(tmp_path, engines, caplog):
    write_tiny_engine(tmp_path / "quantized")
    rewritten(tmp_path / "quantized", bits_per_weight={"blocks.0.attn.qkv": 2.1})
    evaluate(tmp_path / "quantized", {}, SETTINGS)
    assert "is itself quantized" in caplog.text


def test_one_picture_is_too_few(engines):
    with pytest.raises(OptionError, match="num_images is 1, needed at least 2"):
        evaluate(engines / "fp", {}, replace(SETTINGS, num_images=1))
