"""Reading experiments: whatever is wrong is told with its key before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from lamer.common.config import load
from lamer.common.errors import BadInput, LamerError, Missing
from lamer.common.settings import Settings
from lamer.deploy.cli import app
from lamer.deploy.experiments import reading
from lamer.deploy.experiments.cells import axis_override, differences, grid, identity, make_cells
from lamer.deploy.experiments.definition import ExperimentError
from lamer.deploy.experiments.reading import parse

GRID = yaml.safe_load((Path(__file__).parent / "grid.yaml").read_text())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sedes": [1]}, "unknown key sedes in x.yaml: did you mean seeds?"),
        ({"arms": [{"name": "a", "overides": []}]}, r"key arms\[0\].overides .* did you mean arms\[0\].overrides?"),
        ({"arms": [{"name": 3}]}, r"arms\[0\].name: Expected `str`, got `int`"),
        ({"arms": [{"name": "a b"}]}, "an arm can't be called 'a b'"),
        ({"arms": [{"name": "a"}, {"name": "a"}]}, "an arm is called 'a' twice"),
        ({"overrides": ["run.seed=3"]}, "run.seed can't be overridden"),
        ({"page": [{"kind": "pass_at", "title": "t", "arms": ["fats"]}]}, r"arms: there is no 'fats'.* mean fast"),
        ({"page": [{"kind": "axis", "title": "t", "axis": "discount"}]}, r"page\[0\].axis: there is no 'discount'"),
        ({"page": [{"kind": "pie", "title": "t"}]}, r"page\[0\].kind: there is no 'pie' \(there are: pass_at, "),
        ({"paper": [{"source": "s", "arm": "nobody", "pass_at": [1.0]}]}, r"paper\[0\].arm: there is no 'nobody'"),
        ({"seeds": [-1]}, "a seed is -1; it must be at least 0"),
        ({"evaluations": [{"name": "initial", "overrides": []}]}, "an evaluation can't be called initial"),
    ],
)  # fmt: skip
def test_a_definition_that_is_wrong_is_refused_with_the_key_and_what_was_meant(
    change: dict[str, object], message: str
) -> None:
    with pytest.raises(ExperimentError, match=message):
        parse({**GRID, **change}, "x.yaml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"overrides": ["batch.gruops=3"]}, "arm fast of grid: unknown key batch.gruops .* did you mean batch.groups?"),
        ({"base": ["dors.yaml"]}, "arm fast of grid: no configuration file dors.yaml: did you mean doors.yaml?"),
        ({"axes": [{"name": "k", "key": "env.options.dors", "values": [5]}]}, "env.options.dors"),
        ({"axes": [{"name": "k", "key": "batch.max_staleness", "values": [1, -1]}]}, "batch.max_staleness is -1"),
        (
            {"evaluations": [{"name": "more", "overrides": ["evaluation.taks=7"]}]},
            "evaluation more of arm fast of grid: unknown key evaluation.taks",
        ),
    ],
)
def test_a_configuration_that_can_not_be_resolved_is_refused_before_anything_starts(
    change: dict[str, object], message: str
) -> None:
    with pytest.raises(LamerError, match=message):
        make_cells(parse({**GRID, **change}, "x.yaml"))


def test_the_grid_is_arms_times_axes_times_seeds_the_first_seeds_first() -> None:
    axes = [{"name": "discount", "key": "credit.trial_discount", "values": [0, 0.6]}]
    arms = [{"name": "a"}, {"name": "b", "seeds": [7], "axes": False}, {"name": "c", "not_run": "too large"}]
    experiment = parse({**GRID, "arms": arms, "axes": axes, "evaluations": [], "paper": [], "page": []}, "x.yaml")
    names = [key.name for key in grid(experiment)]
    assert names == ["a-discount0-s0", "a-discount0.6-s0", "b-s7", "a-discount0-s1", "a-discount0.6-s1"]
    cells = make_cells(experiment)
    assert [cell.settings.credit.trial_discount for cell in cells] == [0.0, 0.6, 1.0, 0.0, 0.6]
    assert [cell.settings.run.seed for cell in cells] == [0, 0, 7, 1, 1]


def test_a_setting_that_came_later_does_not_make_a_result_another_cells_unless_it_is_used() -> None:
    recorded = identity(Settings())
    del recorded["loss.kl_weight"]
    assert differences(recorded, Settings()) == ()
    assert differences(recorded | {"loss.kl_weight": "0.5"}, Settings()) == ("loss.kl_weight",)
    assert differences(recorded | {"loss.gone": "1"}, Settings()) == ("loss.gone",)


def test_the_command_names_what_is_wrong_in_one_line_and_starts_nothing(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(yaml.safe_dump({**GRID, "overrides": ["batch.gruops=3"]}))
    folders = ("--folder", str(tmp_path / "runs"), "--results", str(tmp_path / "results"))
    result = CliRunner().invoke(app, ["experiment", str(file), *folders], prog_name="lamer")
    assert result.exit_code == 2
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("lamer: arm fast of grid: unknown key batch.gruops")
    assert not (tmp_path / "runs").exists()


def test_an_experiment_that_is_not_there_and_a_pattern_without_cells_are_told(tmp_path: Path) -> None:
    with pytest.raises(Missing, match=r"no experiment dors: did you mean doors\?"):
        reading.read("dors")
    file = tmp_path / "x.yaml"
    file.write_text(yaml.safe_dump(GRID))
    for option in (("--only", "slow*"), ("--seeds", "5")):
        result = CliRunner().invoke(app, ["experiment", str(file), *option, "--results", str(tmp_path)])
        assert (result.exit_code, "there are fast-s0, crash-s0, fast-s1" in result.stderr) == (2, True)
    assert CliRunner().invoke(app, ["experiment", str(file), "--seeds", "one"]).exit_code == BadInput.exit_code


@pytest.mark.parametrize("name", reading.ready())
def test_every_ready_experiment_is_called_as_its_file_and_its_cells_can_be_resolved(name: str) -> None:
    experiment = reading.read(name)
    assert experiment.name == name
    assert experiment.page
    assert len(make_cells(experiment)) == len(grid(experiment))


def test_a_text_of_an_axis_reaches_an_option_of_the_environment_as_this_text() -> None:
    """In the YAML of an experiment as in a configuration: quoted it is text, else a number where it looks like one."""
    typed = [axis_override("env.options.revision", "12e3"), axis_override("env.options.share", 0.001)]
    options = load([], typed).env.options
    assert options == {"revision": "12e3", "share": 0.001}


def test_names_and_titles_in_an_experiments_file_are_what_was_typed(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    axis = "{name: k, key: env.options.doors, title: 1_0, values: [1e-3, '007', 4]}"
    file.write_text(
        "name: 695e0514\ntitle: 007\nquestion: 2024-01-01\narms: [{name: 12e3}]\n"
        f"page: [{{kind: pass_at, title: 0x10}}]\naxes: [{axis}]\n"
    )
    found = reading.read(str(file))
    assert (found.name, found.title, found.question, found.arms[0].name) == ("695e0514", "007", "2024-01-01", "12e3")
    assert (found.page[0].title, found.axes[0].title, found.axes[0].values) == ("0x10", "1_0", (0.001, "007", 4))
