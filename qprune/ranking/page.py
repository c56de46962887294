"""One offline page: the answers in words, the charts, the tables."""

import html
import json
from pathlib import Path

import pandas as pd

from qprune.pruning.sets import OPPOSITE, QUADRANTS, WORDS
from qprune.ranking.charts import correlation_chart, cost_chart, lambda_chart, plane_chart
from qprune.ranking.measured import Measured
from qprune.ranking.tables import COLUMNS, TARGETS
from qprune.report.html import page
from qprune.settings.config import SweepConfig
from qprune.storage.durable import write_whole

PAPER = (
    "Laid out as Table 1 of Molchanov et al. (ICLR 2017), whose row for Taylor on VGG-16 / Birds-200 reads 0.73 per "
    "layer, 0.14 over all layers and 0.73 over all layers l2-normalised. The oracle is taken as it is; in the last "
    "column it is l2-normalised by layer like the criterion. Normalised scores are larger in layers of fewer maps, whatever "
    "the criterion: the row of random shows what that alone gives. Means over seeds with 95% intervals."
)
QUESTION = (
    "Taylor and activation each remove the least share of all maps by their l2-normalised ranking. High and low are "
    "above and below the median of the map's layer. Case 1 (high activation, low gradient) is what Taylor alone would "
    "remove, case 2 (low activation, high gradient) what activation alone would. The maps of each quadrant that only one "
    "criterion removes are removed on top of what both remove. In a swap, maps of one case take the place of equally many "
    "of the other in a whole removal: first those that the one criterion would have removed first, for those that the "
    "other would have removed last."
)
SUM = (
    "Each layer's scores of both are divided by their l2 norm before they are added; lambda 0 is Taylor alone, a large one "
    "activation. The lambda that ranks best here was looked for on the very oracle that it is held against; a sweep with "
    "lambda: cv chooses it by the loss of pruned and fine-tuned networks on images held out."
)


def write_rank_page(
    path: Path,
    config: SweepConfig,
    networks: list[Measured],
    tables: dict[str, pd.DataFrame],
    sentences: list[str],
    left_out: dict[str, str],
) -> None:
    """Write the page, whole or not at all. networks: at least one; left_out: what -> why."""
    charts: dict[str, dict] = {}
    parts: list[str] = []
    for (model, data), spearman in tables["spearman"].groupby(["model", "data"], sort=False):
        here = [network for network in networks if (network.model, network.data) == (model, data)]
        mine = {name: table[(table.model == model) & (table.data == data)] for name, table in tables.items()}
        name = f"{model}-{data}".replace(".", "_")
        drawn = {
            f"spearman-{name}": (correlation_chart(spearman), 420),
            f"plane-{name}": (plane_chart(here[0]), 480),
            f"costs-{name}": (cost_chart(mine["effects"]), 720),
            f"lambda-{name}": (lambda_chart(mine["lambda"]), 400),
        }
        charts |= {key: _as_json(figure, height) for key, (figure, height) in drawn.items()}
        parts.append(_section(model, data, here, mine, list(drawn)))
    write_whole(path, _page(config, charts, parts, sentences, left_out).encode())


def _section(model: str, data: str, networks: list[Measured], tables: dict, charts: list[str]) -> str:
    correlations, plane, costs, curve = (f'<div class="chart" id="{html.escape(name)}"></div>' for name in charts)
    accuracy = ", ".join(f"{100 * network.val_accuracy:.2f}%" for network in networks)
    seeds = ", ".join(str(network.seed) for network in networks)
    what = f"{model} on {data}"
    facts = f"Seeds {seeds}; {networks[0].groups.total} maps; validation accuracy of the dense networks: {accuracy}."
    rows = [_spearman_table(tables["spearman"], target) for target in ("oracle_abs", "oracle_loss", "taylor")]
    return f"""<section><h2>{html.escape(what)}</h2><p>{html.escape(facts)}</p>
<h3>Criteria against the oracle</h3><p class="note">{PAPER}</p>{"".join(rows)}{correlations}
<h3>Where Taylor and activation disagree</h3><p class="note">{QUESTION} The chart is of seed {networks[0].seed}.</p>
{plane}{_quadrant_table(tables["quadrants"])}
<h3>What these maps cost</h3>{costs}{_sets_table(tables["sets"])}
<h3>Taylor + lambda x activation</h3><p class="note">{SUM}</p>{curve}{_lambda_table(tables["lambda"])}</section>"""


def _spearman_table(spearman: pd.DataFrame, target: str) -> str:
    part = spearman[spearman.target == target]
    rows = []
    for criterion, group in part.groupby("criterion", sort=False):
        cells = group.set_index("column")
        rows.append([criterion, *(_interval(cells.loc[column]) for column, _ in COLUMNS)])
    return _table([f"Spearman with {TARGETS[target]}", *(heading for _, heading in COLUMNS)], rows)


def _lambda_table(curve: pd.DataFrame) -> str:
    rows = []
    for weight, group in curve.groupby("lambda", sort=False):
        cells = group.set_index(["column", "what"])
        found = [
            _interval(cells.loc[column, what]) for column in cells.index.unique(0) for what in ("spearman", "gain")
        ]
        rows.append([f"{weight:g}", *found])
    names = dict(COLUMNS)
    headings = [
        text for column in curve.column.unique() for text in (names[column], f"{names[column]}: gain over lambda 0")
    ]
    return _table(["lambda: Spearman with oracle-abs", *headings], rows)


def _quadrant_table(quadrants: pd.DataFrame) -> str:
    rows = []
    for (share, by), group in quadrants.groupby(["share", "only_removed_by"], sort=False):
        counts = group.groupby("quadrant").maps.mean()
        change = group.groupby("quadrant").oracle_loss.mean()
        cells = [f"{counts[name]:.1f}" + (f" ({change[name]:+.2g})" if counts[name] else "") for name in QUADRANTS]
        rows.append([f"{100 * share:g}%, only {by} removes", *cells])
    headings = ["maps, mean over seeds (mean oracle-loss of one)", *(WORDS[name] for name in QUADRANTS)]
    return _table(headings, rows)


def _sets_table(sets: pd.DataFrame) -> str:
    losses = [name for name in sets if name.startswith(("val_loss", "train_loss", "val_accuracy"))]
    rows = []
    for (share, start, put_in, quadrant), group in sets.groupby(
        ["share", "start", "put_in", "quadrant"], sort=False, dropna=False
    ):
        words = {"none": "nothing", "both": "what both remove"}.get(start, f"{start}'s removal")
        if isinstance(put_in, str):
            how = "and" if start == "both" else "with"
            words += f", {how} {put_in}'s {quadrant}" + (f" for {OPPOSITE[quadrant]}" if start != "both" else "")
        cells = (f"{group[name].mean():.4f}" for name in losses)
        rows.append([f"{100 * share:g}%", words, f"{group.maps.mean():.1f}", f"{group.removed.mean():.1f}", *cells])
    headings = ["share", "removed", "maps concerned", "maps removed", *(name.replace("_", " ") for name in losses)]
    return _table(headings, rows)


def _interval(row: pd.Series) -> str:
    if row["mean"] != row["mean"]:
        return "-"
    return f"{row['mean']:.2f}" + (f" [{row.low:.2f}, {row.high:.2f}]" if row.low == row.low else "")


def _table(headings: list[str], rows: list[list[str]]) -> str:
    head = "".join(f"<th>{html.escape(text)}</th>" for text in headings)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(text)}</td>" for text in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _as_json(figure, height: int) -> dict:
    figure.update_layout(
        template={},  # colours are those of the page, light or dark
        height=height,
        legend={"orientation": "h", "y": 1, "yref": "container", "yanchor": "top"},
        margin={"t": 90, "l": 70},
    )
    return json.loads(figure.to_json())


def _page(config: SweepConfig, charts: dict, parts: list[str], sentences: list[str], left_out: dict) -> str:
    said = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in sentences)
    lacking = "".join(
        f"<li>{html.escape(what)}: {html.escape(why.splitlines()[0])}</li>" for what, why in left_out.items()
    )
    lacking = f"<h2>Left out</h2><ul>{lacking}</ul>" if lacking else ""
    rank = config.rank
    how = (
        f"Scores in eval mode over {f'{rank.images:,} training images at most' if rank.images else 'all training images'}; "
        f"the oracle over {rank.oracle_images:,} fixed training images; {rank.finetune_updates} updates of fine-tuning."
    )
    body = f"""<header><h1>{html.escape(config.name)}: how criteria rank feature maps</h1><p>{how}</p></header>
<main class="rank"><noscript><p>The charts need JavaScript; the tables don't.</p></noscript>
<section><h2>In words</h2><p class="note">In brackets: 95% intervals over seeds.</p><ul>{said}</ul>{lacking}</section>
{"".join(parts)}</main>
"""
    return page(f"{config.name} · qprune rank", body, charts, "rank")
