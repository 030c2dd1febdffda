"""The figures of tools/score.py as text tables."""

from src.evaluation.scoring import FEWEST
from src.labels import LABELS, PRESENT

TOGETHER = "the 13 locations together"
PRESENCE, MEAN, SCORE = LABELS[PRESENT], "mean of the locations", "weighted score"
HALVES = {"present": f"the AUC of {PRESENCE} alone", "locations": f"the {MEAN} alone"}
WIDTH = max(map(len, LABELS))  # characters of a table's first column


def text(figures: dict) -> str:
    """Return all tables, an empty line between them."""
    parts = [
        counts_text(figures),
        score_text(figures),
        threshold_text(figures),
        *[group_text(column, groups) for column, groups in figures["groups"].items()],
    ]
    if "against" in figures:
        parts.append(difference_text(figures["against"]))
    if "froc" in figures:
        parts.append(froc_text(figures["froc"]))
    return "\n\n".join(parts)


def counts_text(figures: dict) -> str:
    lines = [f"{figures['n_series']} series are scored"]
    if figures["patients_known"]:
        lines[0] += f", of {figures['n_patients']} patients; intervals are by patient"
    else:
        lines[0] += "; without patients, each series counts as one of its own"
    if figures["truth_not_scored"]:
        count = figures["truth_not_scored"]
        lines.append(f"not scored: {count} series of TRUTH without a label or a prediction")
    if figures["predictions_not_scored"]:
        count = figures["predictions_not_scored"]
        lines.append(f"not scored: {count} series of PREDICTIONS without a label")
    return "\n".join(lines)


def score_text(figures: dict) -> str:
    """Return AUC, its interval and calibration of each label."""
    head = f"{'AUC':<{WIDTH}}  positive negative   AUC   95 % interval    Brier   error  by chance"
    lines = [head, "-" * len(head)]
    ends = figures["intervals"]
    areas = figures["locations"] | {PRESENCE: figures["present"]}
    pairs = ends["locations"] | {PRESENCE: ends["present"]}
    for label in LABELS:
        counts = figures["labels"][label]
        numbers = f"{counts['positive']:>8} {counts['negative']:>8}"
        cells = f"{value_text(areas[label])}  {interval_text(pairs[label])}"
        quality = calibration_text(figures["calibration"][label])
        lines.append(f"{label:<{WIDTH}}  {numbers}  {cells}  {quality}")
    lines.append(lines[1])
    for name, key in ((MEAN, "mean_location"), (SCORE, "score")):
        cells = f"{value_text(figures[key])}  {interval_text(ends[key])}"
        quality = calibration_text(figures["calibration"][TOGETHER]) if name == MEAN else ""
        lines.append(f"{name:<{WIDTH}}  {'':17}  {cells}  {quality}".rstrip())
    if "score_of" in figures:
        lines.append(f"the weighted score is {HALVES[figures['score_of']]}: the rest is unknown")
    note = f"no interval: fewer than {FEWEST} patients with, or without, that label"
    missing = [label for label in LABELS if pairs[label] is None]
    return "\n".join(lines + [note] * bool(missing))


def calibration_text(found: dict | None) -> str:
    if found is None:
        return f"{'n/a':>6}  {'n/a':>6}  {'n/a':>9}"
    return f"{found['brier']:6.3f}  {found['error']:6.3f}  {found['error_by_chance']:9.3f}"


def threshold_text(figures: dict) -> str:
    """Return sensitivity and specificity of the presence."""
    head = f"{PRESENCE} from   sensitivity, 95 %                    specificity, 95 %"
    lines = [head, "-" * len(head)]
    for row in figures["thresholds"][PRESENCE]:
        cells = []
        for name, count in (("sensitivity", "positives"), ("specificity", "negatives")):
            of = f"of {row[count]}"
            interval = interval_text(row[f"{name}_interval"])
            cells.append(f"{value_text(row[name])}  {interval} {of:<10}")
        lines.append(f"{row['threshold']:<{len(PRESENCE) + 5}g}  {'   '.join(cells)}".rstrip())
    return "\n".join(lines)


def group_text(column: str, groups: dict) -> str:
    head = f"{column:<24}  series positive  {SCORE}           {PRESENCE}       {MEAN}"
    lines = [head, "-" * len(head)]
    for name, scores in groups.items():
        ends = scores["intervals"]
        cells = []
        for key in ("score", "present", "mean_location"):
            cells.append(f"{value_text(scores[key])}  {interval_text(ends[key])}")
        counts = f"{scores['n_series']:>6} {scores['positive']:>8}"
        lines.append(f"{name:<24}  {counts}  {'  '.join(cells)}".rstrip())
    rows = {name: scores["froc"] for name, scores in groups.items() if "froc" in scores}
    if rows:
        lines += froc_rows(rows)
    return "\n".join(lines)


def difference_text(found: dict) -> str:
    head = f"{'PREDICTIONS less --against':<{WIDTH}}    AUC    95 % interval, paired"
    lines = [head, "-" * len(head)]
    names = {label: found["locations"][label] for label in LABELS[:PRESENT]}
    names |= {PRESENCE: found["present"], MEAN: found["mean_location"], SCORE: found["score"]}
    ends = found["intervals"]
    pairs = ends["locations"] | {PRESENCE: ends["present"]}
    pairs |= {MEAN: ends["mean_location"], SCORE: ends["score"]}
    for name, value in names.items():
        shown = "   n/a" if value is None else f"{value:+.3f}"
        pair = pairs[name]
        interval = f"{pair[0]:+.3f} to {pair[1]:+.3f}" if pair else ""
        lines.append(f"{name:<{WIDTH}}  {shown}  {interval}".rstrip())
    return "\n".join(lines)


def froc_text(found: dict) -> str:
    lines = []
    for name, rule in found["rules"].items():
        title = f"FROC, a hit is {name}: {rule['cases']} series, {rule['aneurysms']} aneurysms"
        lines += [title, "-" * len(title)]
        for row in rule["rows"]:
            lines.append(f"at {row['rate']:g} false findings a case: {rate_text(row)}")
        lines.append("")
    if found["sizes"]:
        lines += ["FROC by diameter, within 10 mm", "-" * 30, *froc_rows(found["sizes"]), ""]
    for reason, count in found["left_out"].items():
        lines.append(f"left out of the FROC: {count} series: {reason}")
    return "\n".join(lines).rstrip()


def rate_text(row: dict) -> str:
    """Return the sensitivity at a rate, how it comes about, and its interval."""
    if not row["aneurysms"]:
        return "n/a"
    ends = f"{row['interval'][0]:.3f} to {row['interval'][1]:.3f}"
    made = f"{row['hit']} of {row['aneurysms']}, threshold {row['threshold']:.2f}"
    if row["threshold"] == 0 and row["reached"] < row["rate"]:
        made += f", all findings: {row['reached']:.2f}"
    return f"{row['sensitivity']:.3f} ({made}; {ends})"


def froc_rows(groups: dict[str, list[dict]]) -> list[str]:
    """Return a line a group: its aneurysms, and the sensitivity at each rate."""
    first = next(iter(groups.values()))
    rates = "".join(f"{'at ' + format(row['rate'], 'g'):>24}" for row in first)
    lines = [f"{'hit at false findings':<24}  aneurysms{rates}"]
    for name, rows in groups.items():
        cells = "".join(
            f"{value_text(row['sensitivity'])}  {interval_text(row['interval'])}" for row in rows
        )
        lines.append(f"{name:<24}  {rows[0]['aneurysms']:>9}{cells}".rstrip())
    return lines


def value_text(value: float | None) -> str:
    return "   n/a" if value is None else f"{value:6.3f}"


def interval_text(ends: list[float] | None) -> str:
    """Return 14 characters."""
    return f"{ends[0]:.3f} to {ends[1]:.3f}" if ends else " " * 14
