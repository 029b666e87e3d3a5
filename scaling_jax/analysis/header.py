"""Finds columns: by their usual names, by names with blanks, and as arithmetic of columns."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from scaling_jax.analysis import numerals
from scaling_jax.analysis.frames import names_of
from scaling_jax.errors import UserError
from scaling_jax.formula import Formula
from scaling_jax.text import listed

# What columns are called in our own results table, and by nanochat, wandb exports, OLMo, litgpt, marin and papers; the
# first that exists is taken. Sums are formulas of columns.
USUAL_NAMES: dict[str, tuple[str, ...]] = {
    "N": (
        "N", "params_matmul", "params_transformer+params_lm_head", "params", "parameters", "n_params", "num_params",
        "nparams", "model_params", "model_parameters", "params_total", "total_params", "total_parameters",
        "n_parameters", "num_parameters", "parameter_count", "param_count", "params_count", "n_params_total",
        "non_embedding_params", "params_non_embedding", "params_no_embed", "n_params_non_embedding", "model_size",
        "active_params", "model_n_params", "model_num_params", "trainable_params", "trainable_parameters",
        "num_trainable_params", "non_emb_params", "param",
    ),
    "D": (
        "D", "tokens", "tokens_trained", "training_tokens", "train_tokens", "trained_tokens", "n_tokens", "num_tokens",
        "total_tokens", "tokens_seen", "consumed_tokens", "tokens_total", "token_count", "ntokens",
        "train_tokens_total", "tokens_processed", "num_input_tokens_seen", "consumed_train_tokens",
        "num_tokens_trained", "num_training_tokens",
        "num_train_tokens", "n_train_tokens", "dataset_tokens", "data_tokens", "token",
        "throughput_total_tokens", "samples", "samples_seen", "n_samples", "images_seen", "examples_seen",
    ),
    "C": (
        "C", "flops", "compute", "training_flops", "train_flops", "total_flops", "flops_budget", "flop",
        "training_flop",
        "training_compute", "train_compute", "compute_flops", "flops_total", "total_training_flops", "model_flops",
        "compute_budget",
    ),
    "U": ("U", "unique_tokens", "unique_samples"),
    "E": ("E", "experts", "num_experts", "n_experts"),
    "S": ("S", "tokens+pretrain_tokens"),
    "M": ("M", "tokens_per_param", "tokens_per_parameter"),
    "y": (
        "y", "L", "val_loss", "validation_loss", "valid_loss", "eval_loss", "test_loss", "loss", "final_loss",
        "final_val_loss", "best_val_loss", "min_val_loss", "cross_entropy", "cross_entropy_loss", "ce_loss",
        "test_cross_entropy", "nll",
        "val_ce", "val_nll", "lm_loss_validation", "lm_loss", "val_lm_loss",
        "bits_per_byte", "val_bpb", "bpb", "eval_bpb", "eval_macro_loss", "macro_loss",
        "train_loss", "training_loss",
    ),
    "seed": ("seed", "random_seed", "rng_seed", "data_seed", "init_seed", "replicate", "trial", "repeat"),
    "lr": ("lr", "learning_rate", "peak_lr", "max_lr", "peak_learning_rate", "max_learning_rate"),
}  # fmt: skip
GIGA = {"total_training_gflops": 1e9, "throughput_total_training_gflops": 1e9}  # OLMo counts in GFLOPs
STATISTICS = {"mean", "min", "last", "final", "best", "median"}  # the last part of `loss/min`, as aggregations write it
UNITS = {
    **dict.fromkeys(("k", "thousand", "thousands"), 3), **dict.fromkeys(("m", "million", "millions"), 6),
    **dict.fromkeys(("b", "bn", "g", "billion", "billions"), 9), **dict.fromkeys(("t", "trillion", "trillions"), 12),
    **dict.fromkeys(("count", "counts", "number"), 0),
}  # fmt: skip
_UNIT = "|".join(UNITS)
_POWER = r"[x\u00d7*]?\s*(?:1e|10\^|10\*\*)(\d+)"
# How names say their unit; one letter without a blank or underscore is told from words by its case.
_IN_UNITS = (
    re.compile(rf"(.*?)(?:[ _]*[(\[]\s*(?:in )?({_UNIT})\s*[)\]]|[ _]+(?:in_)?({_UNIT}))", re.I),
    re.compile(rf"(.*?)\s*(?:[(\[]\s*(?:in )?{_POWER}\s*[)\]]|/\s*{_POWER})", re.I),
    re.compile(r"(.*?[a-z])([KMBGT])"),
    re.compile(r"(?P<unit>[KMBGT])[ _]?(?P<name>[A-Za-z].*)"),
    re.compile(r"(?P<unit>thousand|million|billion|trillion)s?[ _](?:of[ _])?(?P<name>.+)", re.I),
)
_LOSS_UNIT = re.compile(r"(.*?)\s*[(\[]\s*(?:in )?(?:nats?|bits?|ce|cross.?entropy)\b[^)\]]*[)\]]", re.I)
_LOSSLIKE = re.compile(
    r"(?:^|_)(?:eval|val|valid|validation|test)(?:_.*)?_(?:loss|bpb|crossentropyloss|cross_entropy)$"
)


class Header:
    """The columns of a table, each with one name.

    Args:
      table: any; names are stripped of blanks. Where that makes two names equal, the one without blanks keeps it.

    Attributes:
      table: with the names as they are looked up.
      notes: sentences about names that were not plain.
    """

    def __init__(self, table: pd.DataFrame):
        raw = [str(c) for c in table.columns]
        plain = [re.sub(r"\s+", " ", name).strip() for name in raw]
        exact, stripped, names = Counter(raw), Counter(plain), []
        self.notes: list[str] = []
        self._twice: dict[str, str] = {}
        seen: Counter[str] = Counter()
        for before, name in zip(raw, plain):
            if stripped[name] == 1:
                names.append(name)
            elif before == name and exact[before] == 1:
                names.append(name)
                self.notes.append(f"{name!r} is the column without blanks; others of that name have blanks around it")
            else:
                seen[name] += 1
                names.append(f"{name} [{seen[name]}]")
                if exact[name] != 1:
                    self._twice[name] = f"{stripped[name]} columns are called {name!r}" + (
                        "" if exact[name] == stripped[name] else " once blanks around names are removed"
                    )
        self.table = table.set_axis(pd.Index(names, dtype=object), axis=1).reset_index(drop=True)
        self.decimal: str | None = table.attrs.get("decimal")

    def find(self, name: str) -> str | None:
        """The column called so: as written, else without regard to case and punctuation; None where there is none.

        Raises:
          UserError: several are.
        """
        name = name.strip()
        if name in self.table:
            return name
        if name in self._twice:
            raise UserError(f"{self._twice[name]}: rename or drop all but one")
        if name.startswith("-") or "`" in name:
            return None  # a formula
        alike = (simple(name), _operators(name))  # params* is a formula that breaks off, not the column params
        same = [c for c in names_of(self.table) if (simple(c), _operators(c)) == alike] if len(name) > 1 else []
        return same[0] if len(same) == 1 else None

    def usual(self, name: str) -> str | None:
        """The column (or formula of columns) that is usually called so; None where there is none.

        Raises:
          UserError: several columns may be meant.
        """
        by_path: dict[str, list[str]] = {}
        for column in names_of(self.table):
            if name != "y" or "train" not in column.lower():
                parts = re.split(r"[/.:](?![^(\[]*[)\]])", column)  # not within brackets: loss (nats/token)
                last = parts[-2] if len(parts) > 1 and simple(parts[-1]) in STATISTICS else parts[-1]
                by_path.setdefault(simple(last), []).append(column)
        for candidate in USUAL_NAMES.get(name, (name,)):
            if "+" in candidate:
                if all(part in self.table for part in candidate.split("+")):
                    return candidate
            elif (found := self.find(candidate)) is not None:
                return found
        for candidate in USUAL_NAMES.get(name, ()):
            columns = by_path.get(candidate, []) if len(candidate) > 1 else []
            if len(columns) > 1:
                raise self._several(name, columns)
            if columns:
                return columns[0]
        in_units, by_name = self._in_units(name), USUAL_NAMES.get(name, ())
        if in_units is not None:
            return in_units
        if name == "y":
            columns = [c for c in names_of(self.table) if (m := _LOSS_UNIT.fullmatch(c)) and simple(m[1]) in by_name]
            if len(columns) == 1:
                return columns[0]
            columns = [c for c in names_of(self.table) if _LOSSLIKE.search(simple(c))]
            if len(columns) > 1:
                raise self._several(name, columns)
            return columns[0] if columns else None
        return None

    def _in_units(self, name: str) -> str | None:
        """`params (M)` or `tokens_billions` as a formula that makes counts of them."""
        if name not in ("N", "D", "C"):
            return None
        found = []
        for column in names_of(self.table):
            for match in filter(None, (pattern.fullmatch(column) for pattern in _IN_UNITS)):
                named = match.groupdict()
                base, unit = named.get("name", match[1]), named.get("unit") or next(filter(None, match.groups()[1:]))
                if base == name or simple(base) in USUAL_NAMES[name]:
                    found.append(f"`{column}`*1e{int(unit) if unit.isdigit() else UNITS[unit.lower()]}")
                    break
        if len(found) > 1:
            raise self._several(name, found)
        return found[0] if found else None

    def _several(self, name: str, columns: Sequence[str]) -> UserError:
        return UserError(f"{name} may be {' or '.join(columns[:4])}: choose one with --columns={name}=<column>")

    def values(self, text: str, table: pd.DataFrame, notes: list[str]) -> np.ndarray:
        """The numbers of a column, or of a formula of columns, in the rows of `table`.

        Raises:
          UserError: no such column, a formula that cannot be read, or cells that are not numbers.
        """
        column = self.find(text)
        if column is not None:
            return self._numbers(table, column, notes) * GIGA.get(simple(column), 1.0)
        try:
            formula = Formula(text, [c for c in names_of(self.table) if c])
        except ValueError as error:
            way = f" ({error})" if str(error) and re.search(r"[-+*/^(`]", text) else ""
            raise UserError(f"{text}: the table has {listed(self.table.columns, 30)}{way}") from None
        with np.errstate(all="ignore"):
            value = formula.on({name: self._numbers(table, name, notes) for name in formula.used})
        return np.broadcast_to(np.asarray(value, float), (len(table),)).copy()

    def _numbers(self, table: pd.DataFrame, column: str, notes: list[str]) -> np.ndarray:
        values, example = numerals.to_numbers(table[column], column, self.decimal)
        if example is not None:
            note = f"{column} is read from text, e.g. {example}"
            if note not in notes:
                notes.append(note)
        return values

    def others(self, name: str, used: str) -> list[str]:
        """Other columns of the table that usually mean the same."""
        found = [self.find(c) for c in USUAL_NAMES[name] if "+" not in c]
        try:
            parts = {used, *Formula(used, [c for c in names_of(self.table) if c]).used}
        except ValueError:
            parts = {used}
        return [c for c in dict.fromkeys(found) if c is not None and c not in parts]


def parse_mapping(pairs: Sequence[str], flag: str = "--columns") -> dict[str, str]:
    """["N=params,D=tokens", "y=loss"] -> {"N": "params", "D": "tokens", "y": "loss"}.

    A comma separates pairs only where NAME= follows, so that columns may have commas in their names.

    Raises:
      UserError: a pair without "=", or a name given twice.
    """
    out: dict[str, str] = {}
    for pair in (pair for text in pairs for pair in re.split(r",\s*(?=\w+=)", text)):
        name, separator, column = pair.partition("=")
        if not (separator and name.strip() and column.strip()):
            example = {"--at": "U=1e11", "--fix": "E=1.69"}.get(flag, "N=params,D=tokens,y=loss")
            raise UserError(f"{flag}: {pair!r} is not NAME=VALUE; write e.g. {flag}={example}")
        if name.strip() in out:
            raise UserError(f"{flag} gives {name.strip()} twice: {out[name.strip()]} and {column.strip()}")
        out[name.strip()] = column.strip()
    return out


def check_names(columns: Mapping[str, str], allowed: Sequence[str]) -> None:
    """Raises UserError for a name that the law does not take."""
    unknown = sorted(set(columns) - set(allowed))
    if unknown:
        raise UserError(f"--columns maps {unknown[0]!r}; this law takes {', '.join(dict.fromkeys(allowed))}")


def _operators(name: str) -> str:
    return re.sub(r"[^*+^()]", "", name)


def simple(name: str) -> str:
    """A name in lower case, with "_" for whatever is not a letter or a digit."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
