"""The tables of a sweep: errors of each network, what a visible weight changes, scores of the classifiers."""

from mae_jax.report import stats, tables
from mae_jax.report.comparisons import Difference, judge
from mae_jax.report.sweep.networks import COLUMNS, Sweep
from mae_jax.rundir.contents import ERRORS


def error_rows(sweep: Sweep) -> list[dict]:
    """The rows of sweep.csv: mean errors of each network at each evaluated ratio, with 95 % intervals over images."""
    rows = []
    for i, network in enumerate(sweep.networks):
        for ratio in sweep.ratios:
            row = {"mask_ratio": network.mask_ratio, "visible_weight": network.visible_weight}
            row |= {"unlabeled": network.unlabeled, "evaluated_at": ratio}
            for column in COLUMNS:
                row[column] = sweep.mean(i, ratio, column)
                row[f"{column}_low"], row[f"{column}_high"] = stats.percentile_interval(sweep.draws[ratio][column][i])
            rows.append(row | {"images": len(network.images)})
    return rows


EFFECTS = (  # the columns of effects.csv
    *("mask_ratio", "visible_weight", "unlabeled", "evaluated_at", "error"),
    *("change", "low", "high", "p", "holm_p", "verdict"),
)


def effect_rows(sweep: Sweep) -> list[dict]:
    """The rows of effects.csv: the relative change of each error due to a visible weight, paired over images.

    Holm's correction of `p` is for all rows.
    """
    rows, family = [], []
    plain = {(n.mask_ratio, n.unlabeled): i for i, n in enumerate(sweep.networks) if n.visible_weight == 0}
    for i, network in enumerate(sweep.networks):
        base = plain.get((network.mask_ratio, network.unlabeled))
        if network.visible_weight == 0 or base is None:
            continue
        for ratio in sweep.ratios:
            for column in ERRORS[:4]:
                draws = sweep.draws[ratio][column]
                if not sweep.mean(base, ratio, column):
                    continue  # a relative change of 0 is not defined
                changes = draws[i] / draws[base] - 1
                low, high = stats.percentile_interval(changes)
                change = sweep.mean(i, ratio, column) / sweep.mean(base, ratio, column) - 1
                p = stats.p_value(changes)
                family.append(Difference(change, low, high, p, stats.SEEDS))
                rows.append(
                    {
                        "mask_ratio": network.mask_ratio,
                        "visible_weight": network.visible_weight,
                        "unlabeled": network.unlabeled,
                        "evaluated_at": ratio,
                        "error": column,
                        "change": change,
                        "low": low,
                        "high": high,
                        "p": p,
                    }
                )
    return [row | verdict for row, verdict in zip(rows, judge(family), strict=True)]


def classifier_rows(sweep: Sweep) -> list[dict]:
    """The rows of classifiers.csv: scores from scratch and from each network, and the difference from scratch.

    `holm_p` corrects `p` for the number of networks.
    """
    if sweep.study is None:
        return []
    by_name = {network.name: network for network in sweep.networks}
    compared = {row["init"]: row for row in tables.paired(sweep.study)[0] if row["metric"] == "accuracy"}
    rows = []
    for scores in tables.rows(sweep.study):
        name = scores["init"]
        row = {
            "init": name,
            "mask_ratio": by_name[name].mask_ratio if name in by_name else None,
            "visible_weight": by_name[name].visible_weight if name in by_name else None,
            "unlabeled": by_name[name].unlabeled if name in by_name else None,
        }
        kept = ("fraction", "label_count", "seeds", "n_train", "n_test", "collapsed", "majority_rate")
        row |= {key: scores[key] for key in kept}
        for metric in ("accuracy", "f1", "ece"):
            row |= {key: scores[key] for key in (metric, f"{metric}_low", f"{metric}_high")}
        other = compared.get(name, {})
        row |= {
            f"difference{end}": other.get(key) for end, key in (("", "difference"), ("_low", "low"), ("_high", "high"))
        }
        row |= {key: other.get(key) for key in ("p", "holm_p", "mcnemar_p", "verdict")}
        rows.append(row)
    order = {network.name: i for i, network in enumerate(sweep.networks)}
    return sorted(rows, key=lambda row: order.get(row["init"], -1))
