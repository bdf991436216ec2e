"""Tables, reports and figures of sweeps, of folders written here: what is best, what cannot be compared, markup."""

import csv
import html.parser
import io
import json
import math
import shutil
import sys

import numpy as np
import pytest

from score_jax import plotting
from score_jax.lab import command, records, reports, sweep
from score_jax.lab.sweeps import figures, outcomes, outputs, plan
from score_jax.lab.sweeps import table as tables
from score_jax.training.logging import write_json
from tests import browser
from tests.helpers import refused
from tests.lab.sweeping import base

SETTINGS = records.as_json(base().to_dict())


def written(out, cells):
    """The folder of a sweep of `[(values, numbers, or the reason why there are none)]`."""
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "sweep.json", {"base": SETTINGS, "cells": [values for values, _ in cells]})
    (out / "cells").mkdir(exist_ok=True)
    for place, (values, numbers) in enumerate(cells):
        told = {
            "cell": values,
            "run": f"run{place}",
            "evaluation": "evaluations/one",
            "parameters": 7,
        }
        path = out / "cells" / f"{plan.record_name(values)}.json"
        if isinstance(numbers, str):
            write_json(path, told | {"state": "failed", "reason": numbers})
            continue
        workdir = out / "runs" / f"run{place}"
        (workdir / "evaluations" / "one").mkdir(parents=True)
        conditions = {"ema": True, "sampler": "ddim", "sampler_steps": 5, "step": 10, "nfe": 6, "distances_n": 8}
        seed = {
            "revision": "abc",
            "seed": values.get("seed", 0),
            "n": 16,
            "matmul_precision": "default",
            "left_out": {},
        }
        write_json(workdir / "evaluations" / "one" / "evaluation.json", conditions | seed | numbers)
        write_json(workdir / "config.json", SETTINGS | numbers.get("config", {}))
        write_json(path, told | {"state": "done"})
    return outcomes.read_outcomes(out)


def grid(values, name="mmd2", key="sde.name", **others):
    """Cells of numbers `{value: [of each seed]}`."""
    return [
        ({key: value, "seed": seed}, {name: number, **others})
        for value, found in values.items()
        for seed, number in enumerate(found)
    ]


def test_an_entry_is_the_mean_over_seeds_with_its_standard_error(tmp_path):
    read = written(tmp_path, grid({"ve": [1.0, 2.0, 4.0], "vp": [5.0, 5.0, 5.0]}))
    made = tables.table(read)
    assert made.axes == ["sde.name"] and [column.name for column in made.columns] == ["mmd2"]
    first, second = (row.entries[0] for row in made.rows)
    # s² = (16 + 1 + 25)/9 · 3/2 / 3 … of 1, 2, 4: mean 7/3, s = √(7/3), e = s/√3
    assert first.mean == pytest.approx(7 / 3) and first.error == pytest.approx(math.sqrt(7 / 9)) and first.seeds == 3
    assert (second.mean, second.error, second.best) == (5.0, 0.0, False)
    assert first.best  # 2.67 away, more than 2·0.88
    assert tables.in_digits(first) == "2.33 ± 0.88" and tables.in_digits(second) == "5 ± 0"


@pytest.mark.parametrize(
    ("values", "best"),
    [
        ({"ve": [1.0, 2.0], "vp": [4.0, 5.0]}, "ve"),  # 3 apart, e = 0.71: more than 2
        ({"ve": [1.0, 2.0], "vp": [2.0, 3.0]}, None),  # 1 apart
        ({"ve": [1.0, 2.0], "vp": [4.0, 5.0], "edm": [1.5, 2.5]}, None),  # nor from the third
        ({"ve": [1.0], "vp": [4.0]}, None),  # no errors
        ({"ve": [1.0, 2.0], "vp": [9.0]}, None),  # one has none
    ],
)
def test_the_best_is_marked_only_where_the_difference_exceeds_its_error(tmp_path, values, best):
    made = tables.table(written(tmp_path, grid(values)))
    assert [row.values["sde.name"] for row in made.rows if row.entries[0].best] == ([best] if best else [])
    text = outputs.as_markdown(made, outcomes.read_outcomes(tmp_path))
    assert text.count("**") == (2 if best else 0)
    assert outputs.as_tex(made, outcomes.read_outcomes(tmp_path)).count(r"\textbf") == bool(best)


def test_higher_is_better_where_the_table_of_measures_says_so_and_unknown_numbers_have_no_best(tmp_path):
    for name, best in [("mode_coverage", "vp"), ("mine", None)]:
        made = tables.table(written(tmp_path / name, grid({"ve": [0.1, 0.11], "vp": [0.9, 0.91]}, name)))
        assert [row.values["sde.name"] for row in made.rows if row.entries[0].best] == ([best] if best else [])


def test_data_sets_are_compared_within_themselves(tmp_path):
    cells = [
        (
            {"data.name": data, "sde.name": sde, "seed": seed},
            {"mmd2": value + 0.01 * seed, "config": {"data": {"name": data}}},
        )
        for data, sde, value in [("moons", "ve", 1.0), ("moons", "vp", 2.0), ("rings", "ve", 9.0), ("rings", "vp", 8.0)]
        for seed in (0, 1)
    ]
    made = tables.table(written(tmp_path, cells))
    best = [tuple(row.values.values()) for row in made.rows if row.entries[0].best]
    assert best == [("moons", "ve"), ("rings", "vp")]


@pytest.mark.parametrize(
    ("one", "other", "reason"),
    [
        ({"mmd2": 1.0, "distances_n": 8}, {"mmd2": 2.0, "distances_n": 9}, "n is 8 in some cells and 9 in others"),
        (
            {"mmd2": 1.0, "mmd2_convention": "features of A"},
            {"mmd2": 2.0, "mmd2_convention": "features of B"},
            "its convention is features of A in some cells and features of B in others",
        ),
        ({"mmd2": {"value": 1.0, "n": 8}}, {"mmd2": {"value": 2.0, "n": 9}}, "n is 8 in some cells"),
        ({"mmd2": {"value": 1.0, "features": "a"}}, {"mmd2": {"value": 2.0, "features": "b"}}, "features=a in some"),
        ({"mmd2": 1.0}, {"mmd2": 2.0, "matmul_precision": "tf32"}, "matmul_precision is default in some"),
    ],
)
def test_numbers_that_cannot_be_compared_share_no_column(tmp_path, one, other, reason):
    read = written(tmp_path, [({"sde.name": "ve"}, one), ({"sde.name": "vp"}, other)])
    made = tables.table(read)
    assert made.columns == [] and reason in made.refused["mmd2"]
    assert "Not in the table: mmd2, since " in outputs.as_markdown(made, read)
    assert "mmd2,,1.0" in outputs.as_csv(read)  # where it stands with its conditions


@pytest.mark.parametrize(
    ("name", "levels", "values", "reason"),
    [
        ("relative_score_error_by_sigma", ("0.01", "10"), {"sde.name": "vp"}, ""),
        ("relative_score_error_by_sigma", ("0.0101", "10.1"), {"sde.name": "vp"}, ""),  # σ_max of other data
        ("relative_score_error_by_sigma", ("0.05", "10"), {"sde.name": "vp"}, "its noise levels end at 0.01 in some"),
        ("loss_by_sigma", ("0.01", "10"), {"objective.name": "ssm"}, "the objective is dsm"),
        ("loss_by_sigma", ("0.01", "10"), {"objective.ssm.variance_reduced": False}, ""),  # not chosen
    ],
)
def test_means_over_other_noise_levels_and_losses_of_other_objectives_are_not_compared(
    tmp_path, name, levels, values, reason
):
    cells = [({}, {name: {"0.01": 1.0, "10": 3.0}}), (values, {name: dict(zip(levels, (2.0, 4.0)))})]
    made = tables.table(written(tmp_path, cells), [name])
    assert made.refused.get(name, "").startswith(reason) and bool(reason) == (name in made.refused)
    if not reason:
        assert [row.entries[0].mean for row in made.rows] == [2.0, 3.0]


def test_numbers_of_each_data_set_have_conditions_of_their_own(tmp_path):
    of = lambda data, seed: {"value": 1.0 + seed, "n": 8, "data": data}
    cells = [
        ({"data.name": data, "seed": seed}, {"mmd2": of(data, seed), "config": {"data": {"name": data}}})
        for data in ("moons", "rings")
        for seed in (0, 1)
    ]
    made = tables.table(written(tmp_path, cells))
    assert not made.refused and made.columns[0].told == "n = 8; data=moons | n = 8; data=rings"


def test_a_number_that_some_seeds_lack_says_of_how_many_it_is_and_is_no_best(tmp_path):
    cells = grid({"ve": [1.0, 1.1, 1.2], "vp": [9.0, 9.1, 9.2]})
    del cells[0][1]["mmd2"]  # of samples that diverged
    read = written(tmp_path, cells)
    made = tables.table(read)
    assert tables.in_digits(made.rows[0].entries[0]) == "1.150 ± 0.050 (2 of 3)"
    assert not any(row.entries[0].best for row in made.rows)
    cells = [
        ({"sde.name": name, "seed": seed}, {"bits_per_dim": v, "bits_per_dim_standard_error": 0.1})
        for name, v, seed in [("ve", 3.0, 0), ("ve", 3.2, 1), ("vp", 4.0, 0)]
    ]
    assert tables.table(written(tmp_path / "own", cells)).rows[1].entries[0].error is None  # not over seeds, as others


@pytest.mark.parametrize("lost", ["diverged", {"nfe": 6}])
def test_there_is_no_best_where_a_seed_failed_or_lacks_the_number(tmp_path, lost):
    cells = grid({"ve": [1.0, 1.1, 1.2], "vp": [9.0, 9.1, 9.2]})
    assert tables.table(written(tmp_path / "whole", cells)).rows[0].entries[0].best
    cells[0] = (cells[0][0], lost)
    assert not any(row.entries[0].best for row in tables.table(written(tmp_path, cells)).rows)


def test_values_are_told_apart_in_every_file(tmp_path):
    rates = [0.00012345678, 0.00012345679]
    read = written(tmp_path, grid({rate: [1.0, 2.0] for rate in rates}, key="optimizer.learning_rate"))
    assert all(repr(rate) in outputs.as_csv(read) for rate in rates) and tables.in_text(0.05) == "0.05"
    read = written(tmp_path / "lists", grid({(64, 64): [1.0], (8,): [2.0]}, key="network.unet.widths"))
    assert "\n{[}64, 64{]} &" in outputs.as_tex(tables.table(read), read)


def test_what_follows_from_the_seed_does_not_set_cells_apart(tmp_path):
    """σ_max is derived from toys that are drawn by the seed: the same was asked for."""
    name = "loss_by_sigma"
    cells = [
        (
            {"seed": seed},
            {name: {"0.01": 1.0, str(top): 3.0}, "config": {"sde": {"name": "ve", "ve": {"sigma_max": top}}}},
        )
        for seed, top in enumerate((17.2, 17.3))
    ]
    assert not tables.table(written(tmp_path, cells), [name]).refused
    told = lambda top: f"of the flow to t = 1 (σ/α = {top}), exact divergence"
    cells = [({"seed": i}, {"mmd2": 1.0 + i, "mmd2_convention": told(top)}) for i, top in enumerate((17.2, 17.3))]
    assert not tables.table(written(tmp_path / "other", cells)).refused


def test_each_data_set_has_noise_levels_of_its_own(tmp_path):
    name, named = "relative_score_error_by_sigma", lambda data: {"config": {"data": {"name": data}}}
    at = {"moons": "10", "rings": "20"}
    cells = [({"data.name": data}, {name: {"0.01": 1.0, top: 3.0}} | named(data)) for data, top in at.items()]
    assert not tables.table(written(tmp_path / "apart", cells), [name]).refused
    mixed = [*cells, ({"data.name": "moons", "seed": 1}, {name: {"0.01": 1.0, "40": 3.0}} | named("moons"))]
    assert "end at 10 in some cells and at 40" in tables.table(written(tmp_path / "mixed", mixed), [name]).refused[name]


def test_columns_can_be_chosen_and_a_name_that_is_none_is_one_line(tmp_path):
    read = written(tmp_path, grid({"ve": [1.0], "vp": [2.0]}, data_mmd2=0.1))
    assert [column.name for column in tables.table(read, ["data_mmd2", "nfe"]).columns] == ["data_mmd2", "nfe"]
    assert [column.name for column in tables.table(read).columns] == ["mmd2"]
    refused("no cell has the number 'fid': choose of mmd2, nfe, data_mmd2", tables.table, read, ["fid"])


def test_csv_is_tidy(tmp_path):
    numbers = {"mmd2": 0.5, "loss_by_sigma": {"0.1": 1.0, "2": 2.0}, "class_shares": [0.25, 0.75]}
    numbers |= {
        "bits_per_dim": 3.0,
        "bits_per_dim_standard_error": 0.1,
        "bits_per_dim_n": 4,
        "bits_per_dim_convention": "x, y",
    }
    numbers["left_out"] = {"copies": "nothing was\nheld out"}
    cells = [({"sde.name": "ve", "seed": 3}, numbers), ({"sde.name": "vp", "seed": 4}, 'diverged: "loss, nan"')]
    rows = [*csv.DictReader(io.StringIO(outputs.as_csv(written(tmp_path, cells))))]
    found = {(row["number"], row["level"]): row for row in rows}
    assert found["mmd2", ""]["value"] == "0.5" and found["mmd2", ""]["n"] == "8" and found["mmd2", ""]["seed"] == "3"
    assert [found["loss_by_sigma", level]["value"] for level in ("0.1", "2")] == ["1.0", "2.0"]
    assert found["class_shares", "1"]["value"] == "0.75"
    bits = found["bits_per_dim", ""]
    assert (bits["standard_error"], bits["n"], bits["convention"], bits["nfe"]) == ("0.1", "4", "x, y", "6")
    assert found["copies", ""]["reason"] == "nothing was held out" and found["copies", ""]["value"] == ""
    last = rows[-1]
    assert (last["sde.name"], last["state"], last["reason"], last["value"]) == (
        "vp",
        "failed",
        'diverged: "loss, nan"',
        "",
    )


def test_a_single_seed_has_the_error_that_its_number_came_with(tmp_path):
    cells = [
        ({"sde.name": name}, {"bits_per_dim": v, "bits_per_dim_standard_error": 0.1})
        for name, v in [("ve", 3.0), ("vp", 4.0)]
    ]
    read = written(tmp_path, cells)
    made = tables.table(read)
    assert [(row.entries[0].error, row.entries[0].best) for row in made.rows] == [
        (0.1, False),
        (0.1, False),
    ]  # no best of one
    assert "One seed each: ± is the standard error over examples" in outputs.as_markdown(made, read)


def test_digits_follow_the_error():
    for mean, error, text in [
        (0.031234, 0.0011, "0.0312 ± 0.0011"),
        (12345.6, 321.0, "12346 ± 321"),
        (1.23e-9, 4.5e-11, "1.23e-09 ± 4.5e-11"),
        (0.5, None, "0.5"),
    ]:
        assert tables.in_digits(tables.Average(mean, error, 2)) == text


def test_samplers_that_differ_in_more_than_steps_have_lines_of_their_own(tmp_path):
    cells = [
        ({"sampler.name": "ddim", "sampler.ddim.eta": eta, "sampler.steps": n}, {"mmd2": eta + n, "nfe": n + 1})
        for eta in (0.0, 1.0)
        for n in (5, 10)
    ]
    cells += [({"sampler.name": "heun", "sampler.steps": n}, {"mmd2": 3.0 + n, "nfe": 2 * n}) for n in (5, 10)]
    made = tables.table(written(tmp_path, cells))
    lines = figures.against_calls(made, [column.name for column in made.columns].index("mmd2"))
    assert [(line.name, line.y) for line in lines] == [
        ("ddim, eta 0", [5, 10]),
        ("ddim, eta 1", [6, 11]),
        ("heun", [8, 13]),  # which heeds no eta
    ]
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "bars_gone.png").touch()
    assert "bars_gone.png" not in {
        path.name for path in [*figures.write_figures(tmp_path / "figures", made), *(tmp_path / "figures").iterdir()]
    }


def test_lines_against_network_calls_and_noise(tmp_path):
    cells = []
    for sampler, steps, value in [("ddim", 5, 2.0), ("ddim", 10, 1.0), ("heun", 5, 1.5), ("heun", 10, 0.5)]:
        numbers = {"mmd2": value, "nfe": steps + 1, "relative_score_error_by_sigma": {"1": 0.5, "0.1": 0.25}}
        cells.append(({"sampler.name": sampler, "sampler.steps": steps}, numbers))
    made = tables.table(written(tmp_path, cells))
    place = [column.name for column in made.columns].index("mmd2")
    lines = figures.against_calls(made, place)
    assert [(line.name, line.x, line.y) for line in lines] == [
        ("ddim", [6, 11], [2.0, 1.0]),
        ("heun", [6, 11], [1.5, 0.5]),
    ]
    noise = figures.against_noise(made.rows, "relative_score_error_by_sigma")[0]
    np.testing.assert_allclose(noise.x, [0.1, 1])
    assert noise.y == [0.25, 0.5]
    files = {path.name for path in figures.write_figures(tmp_path / "figures", made)}
    assert files == {"bars_mmd2.png", "nfe_mmd2.png", "relative_score_error_by_sigma.png"}


# What a stranger's folder may hold in every place that a report shows.
NASTY = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>|`_*"


def pages_of(out):
    return [reports.write_sweep(out, outcomes.read_outcomes(out)), reports.write_run(out / "runs" / "run0")]


class Elements(html.parser.HTMLParser):
    """The elements and attributes of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = set(), set(), ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def strange(tmp_path):
    """A sweep and a run in which every text is markup, and code of another package is named."""
    out = tmp_path / f"<b>{'x'}"
    numbers = {"mmd2": 1.0, NASTY: 2.0, "mmd2_convention": NASTY, "left_out": {NASTY: NASTY}, "sampler": NASTY}
    numbers |= {"relative_score_error_by_sigma": {"0.1": 1.0, "1": 2.0, NASTY: 1.0}}
    written(out, [({"sde.name": NASTY, NASTY: "planted:code"}, numbers), ({"sde.name": "os:system"}, NASTY)])
    (out / "sweep.json").write_text(json.dumps(json.loads((out / "sweep.json").read_text()) | {"more": NASTY}))
    run = out / "runs" / "run0"
    write_json(run / "config.json", SETTINGS | {"sde": {"name": "planted:code", NASTY: NASTY}})
    write_json(run / "environment.json", {"revision": NASTY, "devices": [NASTY], "packages": {NASTY: NASTY}})
    (run / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": 0.5, "loss_by_sigma": {"1": 0.5}}) + "\n")
    (run / "evaluations" / "one" / "grid.png").write_text(f"<svg>{NASTY}")
    plotting.save_png(run / "evaluations" / "one" / "scatter.png", np.zeros((4, 4, 1)))
    return out


def test_nothing_of_a_folder_becomes_markup_and_nothing_that_it_names_is_imported(strange, monkeypatch):
    pages = pages_of(strange)
    shown = "html head meta title style body main header section h1 h2 h3 p ul li div span table thead tbody tr th td "
    shown += "strong figure figcaption img svg line path text rect circle"
    for page in pages:
        found = Elements(page.read_text())
        assert found.tags <= {*shown.split()} and not {name for name in found.attributes if name.startswith("on")}
        assert "<script>alert(1)</script>" in found.text  # as text
        assert "http" not in page.read_text().replace("http-equiv", "")
        assert page.read_text().count("data:image/png") == 1
    read = outcomes.read_outcomes(strange)
    assert "<script" not in outputs.as_markdown(tables.table(read), read).replace(r"\<script", "")
    assert "planted" not in sys.modules
    # Neither does the sweep that the folder alone describes.
    monkeypatch.setattr(sys, "argv", ["sweep.py", f"--out={strange}"])
    refused(r"sweep.json names (planted:code|os:system), code of another package", sweep._base)
    monkeypatch.setattr(sys, "argv", ["sweep.py", f"--out={strange}", "--trust=planted,os"])
    assert sweep._base().sde.name == SETTINGS["sde"]["name"]
    assert command.trusted() == ["planted", "os"] and "planted" not in sys.modules


def test_a_record_leads_to_no_file_outside_its_sweep(tmp_path):
    written(tmp_path / "out", [({"sde.name": "ve"}, {"mmd2": 1.0})])
    shutil.copytree(tmp_path / "out" / "runs" / "run0", tmp_path / "elsewhere")
    path = next((tmp_path / "out" / "cells").iterdir())
    record = json.loads(path.read_text())
    for change in [
        {"run": "../../elsewhere"},
        {"run": ".."},
        {"evaluation": "evaluations/../../../elsewhere/evaluations/one"},
    ]:
        write_json(path, record | change)
        assert [outcome.state for outcome in outcomes.read_outcomes(tmp_path / "out").outcomes] == ["not run yet"]


def whole(out):
    """A sweep of three samplers, two numbers of calls and two seeds, with pictures, curves and errors by level."""
    cells = [
        ({"sampler.name": name, "sampler.steps": n, "seed": seed}, {"mmd2": 1 / n + seed / 9, "nfe": n + 1})
        for name in ("ddim", "heun", "euler")
        for n in (5, 10)
        for seed in (0, 1)
    ]
    for place, (_, numbers) in enumerate(cells):
        numbers |= {"relative_score_error_by_sigma": {"0.1": 0.2 + place, "1": 0.5}, "sampler_settings": {"n": place}}
    read = written(out, cells)
    for place in range(len(cells)):
        run = out / "runs" / f"run{place}"
        records = [{"step": n, "loss": 1 / n, "examples": 8 * n, "examples_per_second": 4.0} for n in (1, 2)]
        (run / "metrics.jsonl").write_text("".join(json.dumps(r | {"trained_together": 4}) + "\n" for r in records))
        plotting.save_png(run / "evaluations" / "one" / "grid.png", np.zeros((4, 4, 1)))
    return read


def test_the_report_of_a_sweep_shows_what_its_numbers_say(tmp_path):
    read = whole(tmp_path)
    page = reports.write_sweep(tmp_path, read).read_text()
    found = Elements(page)
    assert page.count("data:image/png") == 6  # a row each, of one seed
    assert all(title in found.text for title in ("mmd2 against network calls", "relative score error by noise level"))
    assert "1.0 s" in found.text and "4.0 s" not in found.text  # 16 examples at 4 a second, a quarter of it each
    assert "sampler.n" in found.text  # of the cells' own settings, which the runs' have not


@pytest.mark.skipif(browser.CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
def test_reports_are_shown_by_a_browser_at_every_width_without_an_error(strange, tmp_path):
    pages = [*pages_of(strange), reports.write_sweep(tmp_path / "whole", whole(tmp_path / "whole"))]
    with browser.opened(tmp_path / "profile") as opened:
        for page in pages:
            for width in (390, 1280):
                for dark in (False, True):
                    shown = opened.show(page, width=width, dark=dark)
                    assert shown.said == [] and shown.asked == [] and shown.overflow <= 0
                    assert shown.ground == ("rgb(20, 23, 26)" if dark else "rgb(255, 255, 255)")
                    assert shown.pictures == ((6, 6) if page is pages[-1] else (1, 1))
