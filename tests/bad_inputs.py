"""Inputs that every command must refuse with one line and exit code 2: lists for `test_bad_input.py`.

To add a command: a line in `WORKDIR_READERS` or `TABLE_READERS` for each way it takes a workdir or a table ({} is the
place; every broken workdir and table is then tried in it), and its wrong flags and arguments in `COMMANDS`, each as
typed in a shell. They run in a folder with tiny.py (a study), text.txt, runs.csv (12 good runs), work/ (a workdir whose
runs are not finished), folder/, full/ (somebody's files), loop, dangling, fifo.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator

from scaling_jax.study import Study

NUMBERS = (
    "four", "nan", "-1", "-inf", "b'1'", "{[]: 1}", "{'a': 1}", "[[1]]", "1j", "1e400", "-" * 5000 + "1",
    "(" * 300 + ")" * 300,
)  # fmt: skip
CHOICES = ("four", "0", "nan", "b'1'", "{[]: 1}", "('a',)", "-1", "''")
OVERRIDES = (
    "ladder.widths=80000000000", "ladder.widths=(8,1000000000000)", "ladder.depths=100000000",
    "ladder.widths=10000000000000000000000000", "budgets.tokens=1e300", "budgets.tokens_per_param=1e300",
    "budgets.flops=1e300", "budgets.tokens=(1e18,1e300)", "optimizer.batch_size=1000000000000000",
    "optimizer.batch_size=100000000000000000000000000", "data.context=1000000000000000000000000000000",
    "optimizer.b1=1.0", "optimizer.b2=1.0", "optimizer.b1=1.5", "optimizer.momentum=1.0", "optimizer.momentum=2",
    "budgets.ratio_range=(5,1)", "budgets.ratio_range=(5,5,5)", "budgets.ratio_range=5", "seeds=(0,0)",
    "seeds=2147483648", "seeds=-1", "seeds=()", "optimizer.learning_rates=()", "optimizer.weight_decays=()",
    "optimizer.init_scales=()", "ladder.widths=()", "optimizer.learning_rates=(0.1,0.1)", "ladder.depths=(1,2,3)",
    "hold_out.cut=0", "hold_out.cut=2", "fit.level=0", "fit.level=1", "fit.level=1.5", "fit.law=chinchila", "fit.law=",
    "fit.law=../chinchilla", "fit.metric=nope", "fit.metric=", "fit.metric=accuracy", "fit.also=nope",
    "fit.also=('loss','nope')", "fit.also=../../outside", "fit.params=params", "fit.bootstrap=1e9",
    "fit.bootstrap=-1", "fit.target_flops=0",
    "fit.target_flops=(1e20,-1)", "execution.mesh=(1,1)", "execution.mesh=(0,1,1)", "execution.mesh=(1,3,1)",
    "execution.microbatches=3", "name=", "name=../outside",
    "name=a/b", "name=$x$ y", "data.tokenizer=bpe:0", "data.tokenizer=bpe:-4", "data.tokenizer=bpe:ten",
    "data.tokenizer=bpe:10000000000000", "data.tokenizer=nowhere.json", "data.tokenizer=", "data.source=",
    "data.source=nowhere/at/all", "data.source=ftp://example.invalid/x", "data.source=s3://bucket/x",
    "data.source=file:///etc/hostname", "data.source=/proc/self/mem", "data.source=" + "x" * 300,
    "data.source=loop", "data.source=dangling", "data.source=/dev/null", "data.source=no_such_tfds_name",
    "data.split=nope[", "schedule.cooldown_fraction=1e-9x", "schedule.warmup_steps=1000000",
    "schedule.final_fraction=1", "family.head_dim=0", "family.head_dim=-8", "family.head_dim=7", "family.head_dim=3.5",
    "family.rope_base=nan", "family.rope_base=0", "family.rope_base=inf", "family.rope_base=x",
    "family=8", "family.nothing=8", "family.name=x", "optimizer=8", "optimizer.batch_size.x=8", "a.b.c.d=1", "=", "=1",
    "x", ".=1", "..=1", "optimizer.=1", ".optimizer=1", "optimizer..name=1", "__class__=1", "optimizer.__class__=1",
    "name", "budgets.tokens=()", "budgets.min_steps=1000000",
)  # fmt: skip
# Files in which get_study() is broken.
STUDIES = {
    "empty": "",
    "spaces": "   \n",
    "no_function": "x = 1",
    "not_callable": "get_study = 3",
    "syntax": "def get_study(:",
    "tabs": "def get_study():\n\tif 1:\n        return 2",
    "null_bytes": "x = 1\0",
    "raises": "def get_study():\n    raise RuntimeError('two\\nlines')",
    "raises_base": "def get_study():\n    raise BaseException('base')",
    "raises_keyboard_interrupt": "def get_study():\n    raise KeyboardInterrupt",
    "raises_own": "class E(BaseException): pass\ndef get_study():\n    raise E('own')",
    "raises_generator_exit": "def get_study():\n    raise GeneratorExit('end')",
    "raises_without_text": "def get_study():\n    raise ValueError",
    "raises_bad_text": "class E(Exception):\n    def __str__(self): raise TypeError\ndef get_study():\n    raise E",
    "exits": "import sys\nsys.exit(3)",
    "exits_zero": "import sys\nsys.exit(0)",
    "import_error": "import nothing_of_that_name",
    "recursion": "def get_study():\n    return get_study()",
    "returns_none": "def get_study():\n    pass",
    "returns_dict": "def get_study():\n    return {'name': 'x'}",
    "returns_class": "from scaling_jax.study import Study\ndef get_study():\n    return Study",
    "returns_ladder": "from scaling_jax.study import Ladder\ndef get_study():\n    return Ladder(widths=(8,))",
    "argument": "def get_study(x):\n    return x",
    "generator": "def get_study():\n    yield 1",
    "async": "async def get_study():\n    return 1",
    "bad_field": "from scaling_jax.study import Ladder\ndef get_study():\n    return Ladder(widths=(0,))",
    "unknown_field": "from scaling_jax.study import Ladder\ndef get_study():\n    return Ladder(width=(8,))",
    "positional": "from scaling_jax.study import Ladder\ndef get_study():\n    return Ladder((8,))",
}
FAMILY = """
from scaling_jax.study import Budgets, Ladder, Study
from scaling_jax.models import Transformer
def get_study():
    return Study(name="x", family={family}, ladder=Ladder(widths=(8,)), budgets=Budgets(tokens=(1e5,)))
"""
FAMILIES = ("None", "'transformer'", "Transformer", "3", "{}", "object()", "Study", "lambda: 1", "[Transformer()]")
# Whole files where a study is expected.
PATHS = (
    "nowhere.py", "", ".", "..", "/", "/dev/null", "/proc/self/mem", "loop", "dangling", "x" * 300 + ".py", "~",
    "text.txt",
    "folder.py", "tiny.txt", "binary.py", "http://example.invalid/x.py", "gs://bucket/x.py", "tiny.py/x.py",
    "\udcff.py",
    "unreadable.py", "-",
)  # fmt: skip
WORKDIRS = (
    "text.txt", "text.txt/deeper", "full", "loop", "dangling/x/y", "x" * 300, "/dev/null",
    "/dev/null/x", "/proc/nothing", "/proc", "/sys/nothing", "gs://", "gs:///", " ", "\n", "~nobody_of_that_name/x", "",
    "tiny.py", "fifo", "s3://bucket/x", "ftp://x/y", "http://example.invalid/x", "a\nb\x00c",
)  # fmt: skip
JSONS = {
    "empty": "", "half": "{half", "null": "null", "list": "[]", "number": "3", "string": '"x"', "object": "{}",
    "no_study": '{"hash": "", "dataset_hash": ""}', "study_null": '{"study": null, "hash": "", "dataset_hash": ""}',
    "study_list": '{"study": [], "hash": "", "dataset_hash": ""}',
    "study_wrong": '{"study": {"name": 3}, "hash": 3, "dataset_hash": []}', "nan": "NaN",
    "deep": "[" * 10_000 + "]" * 10_000, "binary": "\x00\x01", "bom": "\ufeff{}",
    "duplicate": '{"study": 1, "study": 2}',
}  # fmt: skip
TABLES = {
    "empty.csv": "", "blank.csv": "\n\n\n", "header.csv": "params,tokens,loss\n",
    "one.csv": "params,tokens,loss\n1,2,3\n",
    "text.csv": "this is\nno,table,at,all\n1,2,3,4,5,6\n", "words.csv": "params,tokens,loss\na,b,c\nd,e,f\n",
    "nan.csv": "params,tokens,loss\n" + "nan,nan,nan\n" * 9, "inf.csv": "params,tokens,loss\n" + "inf,1e9,2\n" * 9,
    "zero.csv": "params,tokens,loss\n" + "0,0,0\n" * 9, "negative.csv": "params,tokens,loss\n" + "-1e6,1e9,2\n" * 9,
    "lossless.csv": "params,tokens\n" + "1e6,1e9\n" * 9, "same.csv": "params,tokens,loss\n" + "1e6,1e9,2\n" * 9,
    "huge.csv": "params,tokens,loss\n" + "".join(f"{10**k}e300,1e308,{k}\n" for k in range(1, 9)),
    "fake.parquet": "not parquet", "empty.parquet": "", "cut.parquet": "PAR1", "fake.xlsx": "PK", "fake.json": "{half",
    "empty.json": "", "list.json": "[]", "deep.json": "[" * 10_000, "scalar.json": "3", "fake.csv.gz": "not gzip",
    "lines.jsonl": "{half\n{half\n", "x.docx": "text", "noending": "params,tokens,loss\n1,2,3\n",
    "nul.csv": "a\0b\n1\0\n",
    "quotes.csv": 'params,tokens,loss\n"1,2,3\n', "ragged.csv": "a,b\n1\n1,2,3\n", "commas.csv": ",,,\n,,,\n",
}  # fmt: skip
FIT_FLAGS = (
    "--law=chinchila", "--law=", "--law=../x", "--columns=N=nope", "--columns=x", "--columns==", "--columns=Z=params",
    "--columns=N=", "--columns=N=params*", "--columns=N=(params", "--columns=N=params**params**params**9**9",
    "--columns=N=__import__('os')",
    "--n_column=nope", "--n_column=", "--y=nope", "--y=", "--y= ", "--published=",
    "--published=besiroglu2024 --law=kaplan", "--cluster_column=", "--results=",
    "--target_flops=nan", "--level=nan", "--where=nope=1", "--where=params",
    "--where=params=1",
    "--cluster_column=nope", "--weight_column=nope", "--weight_column=name", "--objective=hubert", "--delta=0",
    "--delta=-1", "--delta=nan", "--delta=x", "--overestimate_penalty=0", "--overestimate_penalty=nan", "--cut_flops=0",
    "--cut_flops=-1", "--cut_flops=nan", "--cut_flops=1", "--cut_flops=1e300", "--budgets=x", "--budgets=0",
    "--budgets=nan",
    "--level=0", "--level=1", "--level=nan", "--level=2", "--level=x", "--resampling=x",
    "--resamples=x", "--resamples=0", "--resamples=1", "--resamples=-5", "--seed=x", "--seed=1.5",
    "--target_flops=0", "--target_flops=-1", "--target_flops=nan",
    "--target_flops=inf", "--target_flops=x", "--at=U", "--at=U=1", "--at=N=1", "--at=x=y=z", "--fix=E", "--fix=E=x",
    "--fix=Q=1", "--fix=E=nan", "--fix=E=-5", "--fix=alpha=-1", "--out=fit.txt", "--out=", "--out=folder",
    "--out=text.txt/fit.json", "--out=/proc/fit.json", "--out=" + "x" * 300 + ".json", "--nope=1", "--flagfile=nowhere",
    "stray",
)  # fmt: skip

# What reads a workdir, and what reads a table too: tried with all of WORKDIRS, JSONS and TABLES.
WORKDIR_READERS = (
    "run --study=tiny.py --workdir={}", "report --workdir={}", "collect --workdir={} --out=table.csv",
    "clean --workdir={}", "suggest --workdir={} --budget_flops=1e12", "recommend --workdir={} --target_flops=1e12",
    "watch --workdir={} --once",
)  # fmt: skip
TABLE_READERS = ("fit --results={} --out=fit.json", "compare runs.csv b={}")
# Command -> its wrong flags and arguments.
COMMANDS = {
    "bench": (
        "stray", "--seconds=0", "--seconds=nan", "--seconds=x", "--out=x.txt", "--out=", "--out=folder",
        "--out=text.txt/x.json", "--out=/proc/x.json", "--num_cpu_devices=0", "--quick=maybe",
        "--nope", "--flagfile=nowhere", "--out=" + "x" * 300 + ".json",
    ),
    "watch": (
        "", "work --once", "--workdir=", *(f"--workdir=work --once {flag}" for flag in (
            "", "stray", "--every=0", "--every=-1", "--every=nan", "--every=x", "--once=maybe", "--page=", "--nope=1",
            "--page=/proc/x.html", "--flagfile=nowhere",
        )),
    ),
    "compare": (
        "", "runs.csv", "runs.csv runs.csv", "a=runs.csv a=runs.csv", "a=runs.csv", "=runs.csv b=runs.csv", "a= b=",
        "a=runs.csv b=nowhere.csv", "a=runs.csv nowhere", "a=runs.csv b=work", "a=runs.csv b=folder",
        "a=runs.csv b=full", "a=runs.csv b=loop", "a=runs.csv b=dangling", "a=runs.csv b=fifo", "a=runs.csv b=text.txt",
        "a=runs.csv b=/dev/null", "a=runs.csv b=gs://", "a=runs.csv b=s3://x/y.csv", "runs.csv --by=nope",
        "runs.csv --by=loss=1", "runs.csv --by=name", "runs.csv a=runs.csv --by=name",
        *(f"a=runs.csv b=runs.csv {flag}" for flag in (
            "--baseline=c", "--baseline=", "--baseline=runs.csv", "--metric=nope", "--metric=", "--metric=name",
            "--columns=y=nope", "--columns=x", "--columns=Q=loss", "--columns=y=", "--columns=C=params*",
            "--columns=y=__import__('os')", "--where=nope=1", "--where=params", "--where=params=1", "--where=",
            "--floor=x", "--floor=nan", "--floor=inf", "--floor=-1", "--floor=1e9", "--floor=", "--level=0",
            "--level=1", "--level=2", "--level=nan", "--level=x", "--level=-0.5", "--target_flops=0",
            "--target_flops=-1", "--target_flops=nan", "--target_flops=inf", "--target_flops=x", "--seed=-1",
            "--seed=x", "--seed=1.5", "--seed=1e400", "--out=x.txt", "--out=", "--out=folder", "--out=text.txt/x.csv",
            "--out=/proc/x.csv", "--out=/dev/null", "--out=x.csv/", "--nope=1", "--other_data=maybe",
            "--flagfile=nowhere", "--out=" + "x" * 300 + ".csv",
        )),
    ),
    "suggest": (
        "", "work", "--workdir=work", "--budget_flops=1e12", "--workdir= --budget_flops=1e12",
        *(f"--workdir=work --budget_flops=1e12 {flag}" for flag in (
            "stray", "", "--budget_flops=x", "--budget_flops=nan", "--target_flops=x", "--target_flops=", "--runs=0",
            "--runs=x", "--runs=100000", "--apply=x.txt", "--apply=", "--apply=folder", "--apply=folder.py/x.py",
            "--apply=text.txt/x.py", "--apply=/proc/x.py", "--nope",
        )),
    ),
    "recommend": (
        "", "work", "--workdir=work", "--target_flops=1e12", "--workdir=work --published=besiroglu2024",
        "--workdir=work --target_flops=1e12", "--published=nope --target_flops=1e21", "--published=besiroglu2024",
        "--published= --target_flops=1e21", "--published=step_law_lr --target_flops=1e21",
        *(f"--published=besiroglu2024 {flag}" for flag in (
            "--device_hours=1", "--device_hours=x --chip=H100", "--target_loss=-1", "--target_loss=x",
            "--target_accuracy=0.9", "--target_metric=loss", "--target_metric=loss=x", "--target_metric=accuracy=0.9",
            "--target_flops=1e21 --target_loss=2", "--target_loss=2 --out=x.py", "--target_loss=2 --max_memory=80GB",
            "--target_loss=2 --inference_tokens=1e9",
        )),
        *(f"--published=besiroglu2024 --target_flops=1e21 {flag}" for flag in (
            "stray", "--chip=nope", "--chip=", "--price=2", "--chip=H100 --price=-1", "--chip=H100 --utilization=0",
            "--chip=H100 --utilization=2", "--max_params=0", "--max_params=x", "--max_params=-5", "--max_memory=80GB",
            "--max_memory=x", "--max_memory=-1", "--max_memory=80XB", "--max_memory=", "--inference_tokens=0",
            "--inference_tokens=nan", "--out=x.py", "--out=x.txt", "--nope", "--target_flops=0", "--target_flops=-1",
            "--target_flops=inf", "--target_flops=x",
        )),
    ),
    "clean": (
        "", "work", "--workdir=", "--workdir=work", "--workdir=work stray", "--workdir=work --models=maybe",
        "--workdir=work --models=2", "--workdir=work --dry_run=", "--workdir=work --dry_run", "--workdir=nowhere",
        "--workdir=folder", "--workdir=full --dry_run", "--workdir=tiny.py", "--workdir=work/study.json",
        "--workdir=work --nope", "--workdir=loop --models", "--workdir=fifo", "--workdir=gs://", "--workdir=s3://b/x",
        "--workdir=work --flagfile=nowhere", "--flagfile=folder", "--workdir=/", "--workdir=/proc --models",
    ),
    "collect": (
        "", "--workdir=work", "--workdir=work --out=", "--workdir=work --out=x.txt", "--workdir=work --out=folder",
        "--workdir=work --out=text.txt/x.csv", "--workdir=work --out=/proc/x.csv", "--workdir=work --out=x.csv stray",
        "--workdir=work --out=x.csv --nope", "--workdir=work --out=fifo", "--workdir=work --out=x",
        "--workdir=work --out=gs://x.csv", "--workdir=work --out=loop/x.csv",
    ),
    "plan": (
        "", "stray", "--study=", *(f"--study=tiny.py {flag}" for flag in (
            "stray", "--workdir=tiny.py", "--workdir=loop", "--workdir=full", "--prior=nowhere", "--prior=tiny.py",
            "--prior=", "--prior=folder", "--prior=work", "--chip=nope", "--chip=", "--chips=0", "--chips=x",
            "--price=-1", "--price=nan", "--price=x", "--num_cpu_devices=0", "--force=maybe", "--nope", "--set",
            "--set=",
        )),
    ),
    "run": (
        "", "stray", *(f"--study=tiny.py --workdir=new {flag}" for flag in (
            "stray", "--engine=nope", "--engine=", "--max_retries=-1", "--max_retries=x", "--only_packs=nope",
            "--only_packs=", "--track=nope", "--track=", "--num_processes=0", "--process_id=-1", "--until_interval=0",
            "--until_interval=2", "--until_interval=x", "--until_interval=2%", "--budget_flops=1", "--target_flops=1",
            "--until_interval=2% --budget_flops=nan", "--until_interval=2% --budget_flops=1e12 --engine=slurm",
            "--dry_run=maybe", "--num_cpu_devices=-1", "--flagfile=nowhere",
        )),
    ),
    "check-transfer": (
        "", "--study=tiny.py", "stray", "--study=nowhere.py --workdir=new", *(
            f"--study=tiny.py --workdir=new {flag}" for flag in (
                "--steps=0", "--steps=x", "--steps=10001", "--steps=1.5", "--tokens=0", "--tokens=-1", "--tokens=nan",
                "--tokens=inf", "--tokens=x", "--tokens=1e300", "--tokens=", "stray", "--nope=1", "--set=a.b=1",
                "--num_cpu_devices=0", "--force=maybe", "--workdir=tiny.py", "--workdir=loop", "--workdir=fifo",
                "--workdir=gs://", "--workdir=s3://b/x", "--workdir=/proc/x",
            )
        ),
    ),
    "data": (
        "", "nope", "list stray", "show", "show nowhere", "show loop", "show fifo", "show dangling", "show folder",
        "prepare", "prepare nowhere", "clear nowhere --nope", "show text.txt --set=tokenizer=nope",
        "show --source=", "show text.txt --set=data.context=0", "show text.txt --set=context=x",
        "show text.txt --out=x.txt", "show --study=tiny.py text.txt", "show --study=nowhere.py",
        "list --cache_dir=", "show text.txt --cache_dir=/proc/x", "show gs://", "show s3://b/x",
        "show /proc/self/mem",
    ),
}  # fmt: skip

# Command -> wrong flags and arguments, in a folder with trained (a finished workdir of text), text.txt, tiny.py, full/
# (somebody's files) and loop.
OUTS = (
    "--out=tiny.py",
    "--out=loop",
    "--out=full",
    "--out=tiny.py/x",
    "--out=/proc/x",
    "--out=s3://b/x",
    "--out=gs://",
)
TRAINED = {
    "evaluate": (
        "", "stray", "--quantize=int3", "--quantize=int8,int3", "--quantize=", "--prune=0", "--prune=1", "--prune=x",
        "--prune=nan", "--prune=0.123", "--prune=.5,2", "--source=", "--source=nowhere", "--source=/proc/self/mem",
        "--source=gs://", "--source=loop", "--source=digits", "--name=x", "--name=9 --source=text.txt",
        "--name=a/b --source=text.txt", "--name=../x --source=text.txt", "--split=x --quantize=int8", "--data_dir=x",
        "--validation_split=x", "--ensemble=maybe", "--num_cpu_devices=0", "--source=trained", "--nope=1",
        "--flagfile=nowhere", "--source=text.txt --name=" + "x" * 41,
    ),
    "sample": (
        "stray", "--scale=", "--scale=w9-d9", "--run_id=", "--run_id=../x", "--max_tokens=x", "--temperature=-1",
        "--temperature=nan", "--temperature=inf", "--temperature=x", "--top_k=-1", "--top_k=x", "--top_k=1.5",
        "--top_p=0", "--top_p=1.5", "--top_p=nan", "--seed=x", "--seed=1e400", "--seed=-1", "--seed=4294967296",
        "--all_scales=maybe", "--all_scales --scale=w16-d1", "--all_scales --run_id=none", "--nope", "--max_tokens=0",
        "--save",
    ),
    "export": (
        "", "--out=", *OUTS, "--out=" + "x" * 300, "--out=new --scale=nope", "--out=new --run_id=nope",
        "--out=new stray", "--out=new --nope",
    ),
    "classify": (
        "", "stray", "--count=0", "--count=x", "--count=10001", "--out=x.txt", "--out=", "--out=full/", *OUTS,
        "--out=tiny.py/x.png", "--out=/proc/x.png", "--images=", "--scale=nope", "--run_id=nope", "--nope",
        "--out=" + "x" * 300 + ".png",
    ),
    "serve": (
        "stray", "--host=", "--port=-1", "--port=99999", "--port=x", "--port=1.5", "--queue=0", "--queue=x",
        "--timeout=0", "--timeout=nan", "--timeout=-1", "--timeout=x", "--max_body=0", "--max_body=x", "--scale=nope",
        "--run_id=nope", "--nope",
    ),
}  # fmt: skip


def field_values() -> Iterator[tuple[str, str]]:
    """(field.path, a value that its type refuses) for every number and every choice of a study."""

    def walk(kind: type, prefix: str) -> Iterator[tuple[str, str]]:
        hints = typing.get_type_hints(kind, include_extras=False)
        for field in dataclasses.fields(kind):
            hint, path = hints[field.name], f"{prefix}{field.name}"
            if dataclasses.is_dataclass(hint):
                yield from walk(typing.cast(type, hint), f"{path}.")
            elif typing.get_origin(hint) is typing.Literal:
                yield from ((path, value) for value in CHOICES)
            elif numeric(hint):
                yield from ((path, value) for value in NUMBERS)

    yield from walk(Study, "")


def numeric(hint: object) -> bool:
    """Returns True for int, float and tuples of them."""
    if typing.get_origin(hint) is tuple:
        return all(inner is Ellipsis or numeric(inner) for inner in typing.get_args(hint))
    return hint in (int, float)
