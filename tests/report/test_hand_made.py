"""The headline about hand-made features: whether a network was needed at all."""

import dataclasses

import pytest

from mae_jax.report import frozen_encoders, hand_made


def against(make, networks, nucleus, evaluation="lbfgs"):
    """The headlines for macro F1 of networks and of classifiers on measurements of the nucleus, by fraction."""

    def in_memory(scores, init, **config):
        study = make.in_memory({("", f, init): values for f, values in scores.items()}, labels=1000, images=400)
        info = {"config": {"init": init}} | config
        return dataclasses.replace(study, runs=[dataclasses.replace(r, info=r.info | info) for r in study.runs])

    study, other = in_memory(networks, "mae"), in_memory(nucleus, "nucleus")
    runs = [dataclasses.replace(run, evaluation=evaluation) for run in other.runs]
    return hand_made.headlines(study, frozen_encoders.analyze({evaluation: runs}))


def test_better_features_are_in_a_headline_with_their_points(make):
    networks = {0.1: [0.6, 0.61, 0.59], 1.0: [0.9, 0.9, 0.9]}
    (line,) = against(make, networks, {0.1: [0.8, 0.81, 0.79], 1.0: [0.9, 0.9, 0.9]})
    start = "Logistic regression on measurements of the nucleus, without any network, is better than the best network "
    assert line.startswith(f"{start}here: macro F1 is higher by ") and line.endswith(" points at 10 %.")
    (once,) = against(make, {1.0: [0.6]}, {1.0: [0.9]}, "knn")
    assert once.startswith("Nearest neighbors on measurements of the nucleus") and "here, each trained once: " in once


@pytest.mark.parametrize("score", [0.6, 0.4])
def test_features_that_are_no_better_are_in_none(make, score):
    assert against(make, {1.0: [0.6, 0.61, 0.59]}, {1.0: [score, score + 0.01, score - 0.01]}) == []


def test_a_study_without_such_features_has_none(make):
    study = make.in_memory({("", 1.0, init): [0.8] * 3 for init in ("scratch", "mae")})
    assert hand_made.headlines(study, []) == []
