"""What the answer consists of; `test_headlines` has its sentences."""

from mae_jax.report import tables, words


def test_that_nothing_is_compared_is_said_only_where_no_arms_are(make):
    study = make.in_memory({("", f, "mae"): [0.7, 0.8, 0.75] for f in (0.1, 1.0)}, labels=2000)
    rows = tables.rows(study)
    for contrasts in (False, True):
        headlines = words.answer(study, rows, [], [], contrasts=contrasts)["headlines"]
        assert any(head.startswith("Nothing is compared") for head in headlines) == (not contrasts)
