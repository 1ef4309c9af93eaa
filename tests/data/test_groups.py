"""Groups by file name: published forms, patterns, and the message if none is known."""

import pytest

from mae_jax.data import groups
from mae_jax.runtime.errors import UserError


@pytest.mark.parametrize(
    ("name", "group", "field", "kind"),
    [
        ("Train/Neutrophil/95-8-10-1_301_2.jpg", "95-8-10-1", "95-8-10-1_301", "film"),
        ("95-12-31-14_7_0.jpg", "95-12-31-14", "95-12-31-14_7", "film"),
        ("Train/Basophil/20190531_113249_0.jpg", "20190531", "20190531_113249", "day"),
        ("20190531_113249_12.jpg", "20190531", "20190531_113249", "day"),
        ("train/normal/normal_002-500-2-384ver.jpg", "normal_002", "normal_002", "slide"),
        ("tumor_110-0-0-224ver.jpg", "tumor_110", "tumor_110", "slide"),
        ("1/TCGA-CR-7395-01A-01-TS1/x00000_y00000.jpg", "TCGA-CR-7395", "TCGA-CR-7395", "patient"),
        ("KIRP_TCGA-2Z-A9J1_10_20_2000.jpg", "TCGA-2Z-A9J1", "TCGA-2Z-A9J1", "patient"),
        ("TCGA_2000_0_2000.jpg", "", "", ""),
        ("95-13-10-1_301_2.jpg", "", "", ""),  # no month 13
        ("95-8-10-1_301.jpg", "", "", ""),
        ("20191331_113249_0.jpg", "", "", ""),
        ("20190531_253249_0.jpg", "", "", ""),  # no hour 25
        ("12345678_123456_1.jpg", "", "", ""),
        ("3610_6089_2000.jpg", "", "", ""),  # a region names itself, not its slide
        ("NEU_123.jpg", "", "", ""),
        ("BA_1.jpg", "", "", ""),
        ("E-14_0586_2.jpg", "", "", ""),
        ("normal_002.jpg", "", "", ""),
        ("12.png", "", "", ""),
        ("20190531_0.jpg", "", "", ""),
        ("a/95-8-10-1_301_2/x.jpg", "", "", ""),
    ],
)
def test_published_names(name, group, field, kind):
    assert groups.origin(name) == (group, field, kind)


def test_a_pattern_finds_the_patient_anywhere_in_the_name():
    result = groups.of_names(["A/patient07_001.jpg", "B/patient12_1.jpg", "B/other.jpg"], r"(patient\d+)_")
    assert result.groups == ("patient07", "patient12", "") and result.fields == () and result.kind == "patient or slide"
    assert groups.of_names(["p1/x.png", "p2/y.png"], r"^([^/]+)/").groups == ("p1", "p2")
    assert groups.of_names(["95-8-10-1_301_2.jpg"], r"(\d+)-\d+-\d+-\d_").groups == ("95",)  # not the published form


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("(a", "is not a valid regular expression"), ("a+", "has 0 groups"), ("(a)(b)", "has 2 groups")],
)
def test_patterns_that_cannot_be_are_refused(pattern, message):
    with pytest.raises(UserError, match=f"^data.group_pattern=.*{message}"):
        groups.of_names(["a"], pattern)


def test_what_is_not_known_is_never_none():
    result = groups.facts(["", ""], {"TestA": [""]}, "")
    assert not result["known"] and result["count"] == {"train": None, "TestA": None}
    assert result["text"] == "not known; the same patient may be on both sides"


def test_shared_groups_and_images_without_one_are_counted():
    train, test = ["a", "a", "b", ""], ["b", "b", "c"]
    result = groups.facts(train, {"TestA": test, "TestB": ["d"]}, "film")
    assert result["count"] == {"train": 2, "TestA": 2, "TestB": 1}
    assert result["images_without"] == {"train": 1, "TestA": 0, "TestB": 0}
    assert result["shared_with_training"]["TestA"] == {"groups": 1, "images": 2}
    assert result["text"] == (
        "film: train 2 (1 image without a group), TestA 2 (1 also in training, with 2 of its images), TestB 1"
    )
    assert groups.facts(["a"], {"TestA": [""]}, "film")["text"] == (
        "film: train 1, TestA not known; the same patient may be on both sides"
    )
    assert groups.facts(["r"], {"TestA": ["s"]}, "region")["text"].endswith("the same patient may be on both sides")


def test_generated_images_are_independent(tiny_config):
    from mae_jax.data import splits

    labeled = splits.labeled(tiny_config().data).groups
    assert labeled["known"] and labeled["count"] == {"train": 60, "TestA": 23}
    assert labeled["text"] == "each generated image is its own group"
