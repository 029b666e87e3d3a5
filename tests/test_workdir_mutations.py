"""Every kind of file of a workdir, damaged at random: one line, or nothing but the damaged run changes."""

import shutil

import pytest
from mutations import mutated, outcome

import scaling_jax as sj
from scaling_jax.storage.workdir import Workdir

KINDS = {
    "study": "study.json",
    "pack": "checkpoints/*.pack.json",
    "attempt": "attempts/*.json",
    "result": "runs/*/result.json",
    "success": "runs/*/_SUCCESS",
    "metrics": "runs/*/metrics-*.jsonl",
    "trunk": "trunks/*/metrics-*.jsonl",
    "lock": "locks/*.json",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A simulated study of nine runs, and its table and curves."""
    study = sj.Study(
        name="small",
        family=sj.models.Transformer(head_dim=8),
        ladder=sj.Ladder(widths=(16, 32, 64)),
        budgets=sj.Budgets(tokens=(1e6, 2e6, 4e6)),
    )
    folder = tmp_path_factory.mktemp("mutations") / "workdir"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scaling_jax.api.write_report", lambda path: "")
        results = sj.run(study, folder, engine="simulate", verbose=False)
    (folder / "locks").mkdir(exist_ok=True)
    (folder / "locks" / "w16-d1.json").write_text('{"host": "elsewhere", "pid": 7, "heartbeat": 1.0}')
    return folder, results.table, results.curves


def read(folder):
    """What `load` and the next command read of a workdir."""
    results, stored = sj.load(folder), Workdir(folder).stored()
    assert results.study and stored
    return results.table, results.curves


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_of_a_workdir(kind, made, tmp_path, capsys, caplog):
    folder, table, curves = made
    work = tmp_path / "workdir"
    shutil.copytree(folder, work)
    path = sorted(work.glob(KINDS[kind]))[0]
    content, run = path.read_bytes(), path.parent.name
    refused = []

    @mutated
    def damaged(change):
        path.write_bytes(change(content or b"0"))
        capsys.readouterr()
        caplog.clear()
        found = outcome(read, work)
        refused.append(found is None)
        if found is None:
            return
        rows, points = found
        others = table[(table.run_id != run) & table.run_id.isin(rows.run_id)]  # a result has no checksum
        same = rows[rows.run_id.isin(others.run_id)]
        assert same[list(table)].fillna("").values.tolist() == others.fillna("").values.tolist()
        assert len(others) >= len(table) - 1
        assert len(rows) == len(table) or capsys.readouterr().err or caplog.text, (
            "a run is missing, and nothing says so"
        )
        if kind in ("study", "pack", "attempt", "lock"):
            assert len(points) == len(curves) or len(rows) < len(table)

    damaged()
    assert len(refused) >= 100 or all(refused) or kind == "success"
