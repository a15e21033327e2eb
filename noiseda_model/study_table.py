"""The figures of a study: means over seeds, the share of the gap between vanilla and oracle, a table and a plot."""
import numpy as np

from noiseda_model.commands import markdown_table, write_rows
from noiseda_model.evaluation import METRICS, NO_TRUTH

KNOWN = METRICS | NO_TRUTH


def summarise(rows, metrics):
    """A row for each variant and domain: mean and standard deviation over seeds, and the share of the gap closed.

    The share, (variant - vanilla) / (oracle - vanilla), is of the means of the first metric; ``won`` counts the seeds
    in which the variant was better than vanilla by it, of those that both have, ``common``.

    Args:
        rows (list[dict]): Rows of results.csv.
        metrics (list[str]): Columns to average.

    Returns:
        list[dict]: Share and won are None without a vanilla, or an oracle, of this domain; and where the first metric
        needs no truth, as a lower NIQE does not say that a photo was restored better.
    """
    reference = metrics[0] if metrics[0] in METRICS else None
    cells = {}
    for row in rows:
        cells.setdefault((row['domain'], row['variant']), {})[row['seed']] = row
    table = []
    for (domain, variant), seeds in cells.items():
        entry = {'domain': domain, 'variant': variant, 'seeds': len(seeds)}
        for column in ('iterations', 'seconds'):
            entry[column] = float(np.mean([float(row[column]) for row in seeds.values()]))
        for metric in metrics:
            values = [float(row[metric]) for row in seeds.values()]
            entry[metric] = float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None
        vanilla, oracle = (reference and cells.get((domain, name)) for name in ('vanilla', 'oracle'))
        entry['share'] = vanilla and oracle and _share(*(_mean(part, reference) for part in (seeds, vanilla, oracle)))
        common = [seed for seed in seeds if seed in (vanilla or {})]
        entry['common'] = len(common)
        entry['won'] = (sum(_gain(reference, seeds[seed], vanilla[seed]) > 0 for seed in common)
                        if common and variant != 'vanilla' else None)
        table.append(entry)
    return sorted(table, key=lambda entry: list(dict.fromkeys(row['domain'] for row in rows)).index(entry['domain']))


def _mean(seeds, metric):
    return np.mean([float(row[metric]) for row in seeds.values()])


def _gain(metric, row, other):
    difference = float(row[metric]) - float(other[metric])
    return -difference if KNOWN[metric].get('better') == 'lower' else difference


def _share(value, vanilla, oracle):
    return float((value - vanilla) / (oracle - vanilla)) if oracle != vanilla else None


def markdown(table, metrics):
    """:func:`summarise` as a Markdown table."""
    rows = []
    for entry in table:
        share = '' if entry['share'] is None else f"{entry['share']:.0%}"
        won = '' if entry['won'] is None else f"{entry['won']} of {entry['common']}"
        rows.append([entry['domain'], entry['variant'], *(_figure(metric, *entry[metric]) for metric in metrics), share,
                     won, f"{entry['iterations']:.0f}", f"{entry['seconds'] / 60:.1f}"])
    return markdown_table(['domain', 'variant', *metrics, 'gap closed', 'better than vanilla', 'iterations', 'min'],
                          rows)


def _figure(metric, mean, deviation):
    digits = 2 if metric == 'PSNR' else 4
    return f'{mean:.{digits}f}' + ('' if deviation is None else f' ± {deviation:.{digits}f}')


def write_table(path, table, metrics):
    """:func:`summarise` as CSV."""
    flat = [{**entry, **{name: value for metric in metrics for name, value in
                         ((metric, entry[metric][0]), (f'{metric}_sd', entry[metric][1]))}} for entry in table]
    write_rows(path, flat)


def plot(path, rows, metric):
    """A panel for each domain: a dot for each seed of each variant, and a line through vanilla's mean."""
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot
    domains = list(dict.fromkeys(row['domain'] for row in rows))
    variants = list(dict.fromkeys(row['variant'] for row in rows))[::-1]
    height = 1 + 0.3 * len(variants)
    figure, axes = pyplot.subplots(1, len(domains), figsize=(3.6 * len(domains) + 1, height), layout='constrained',
                                   sharey=True, squeeze=False)
    for axis, domain in zip(axes[0], domains, strict=True):
        here = [row for row in rows if row['domain'] == domain]
        axis.scatter([float(row[metric]) for row in here], [variants.index(row['variant']) for row in here], s=16)
        vanilla = {row['seed']: row for row in here if row['variant'] == 'vanilla'}
        if vanilla:
            axis.axvline(_mean(vanilla, metric), linewidth=0.8, color='grey')
        axis.set(title=domain, xlabel=metric, yticks=range(len(variants)), yticklabels=variants)
    figure.savefig(path, metadata={'Date': None} if path.endswith('.svg') else None)
    pyplot.close(figure)
