"""Fields of the data, and what probes leave out of them."""

from mae_jax.config import fields
from mae_jax.config.data_fields import DataFields


def test_every_augmentation_of_training_is_off_in_probes():
    """A field of `data` that only training steps read is an augmentation, unless it is listed here."""
    read = {name for name, (_, rule) in fields.rules(DataFields).items() if "updates" in rule.used.split()}
    others = {"crop_scale", "crop_ratio", "flips", "workers", "prefetch"}
    others |= {"randaugment_colour"}  # only says which operations `randaugment` may use
    rules = fields.rules(DataFields)
    assert read - others == {name for name, (_, rule) in rules.items() if rule.augments}
    given = fields.defaults("finetune")
    given.data.update(randaugment=9.0, random_erasing=0.25, stain="hed", stain_strength=2.0)
    changed = {name for name in read - others if given.data[name] != rules[name][0]}
    assert changed == read - others, "set the new field to a value that is not its default"
    for task in ("linear_probe", "lbfgs", "knn"):
        result = fields.probe_of(given, task).data
        assert {name: result[name] for name in changed} == {name: rules[name][0] for name in changed}, task
