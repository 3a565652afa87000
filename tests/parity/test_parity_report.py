"""The report: what is named, what is said of decisions left open, and the JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

from drsformer_jax.files import write_json
from drsformer_jax.parity.comparison import Difference, ModuleResult, SelectionDifference
from drsformer_jax.parity.recording import SignFlips
from drsformer_jax.parity.report import ParityReport

FINE = Difference(max_abs=2e-7, relative_l2=1e-7, scale=2.0)
WRONG = Difference(max_abs=3e-2, relative_l2=1e-3, scale=2.0)
SAME = SelectionDifference(entries=0, total=400, gap=0.0, scale=3.0)


def module(name: str, kind: str, difference: Difference | None = FINE, **more) -> ModuleResult:
    within = difference is not None and difference.within(1e-5)
    return ModuleResult(name, kind, (1, 8, 16, 24), difference, **{"within": within, **more})


def report(*modules: ModuleResult, **more) -> ParityReport:
    return ParityReport({"network": "tiny", "dtype": "float32"}, 1e-5, modules, **more)


GOOD = report(
    module("patch_embed", "convolution"),
    module("latent.0.attn", "TKSA", selection=SAME),
)


def test_a_report_that_passes() -> None:
    assert GOOD.passed
    assert GOOD.text().splitlines() == [
        "network  tiny",
        "dtype    float32",
        "",
        "module                                  shape   max abs   rel. L2  top-k",
        "patch_embed    convolution          1x8x16x24   2.0e-07   1.0e-07",
        "latent.0.attn  TKSA                 1x8x16x24   2.0e-07   1.0e-07      0",
        "",
        "PASS: 2 modules within 1e-05",
    ]


def test_the_first_module_beyond_tolerance_is_named() -> None:
    found = report(
        module("patch_embed", "convolution"),
        module("latent.0.norm1", "LN", WRONG),
        module("latent.0.attn", "TKSA", WRONG, selection=SAME),
    )
    assert not found.passed
    assert found.verdict() == (
        "FAIL: 2 of 3 modules beyond 1e-05; the first is latent.0.norm1 (LN): max abs 3.0e-02 of "
        "values up to 2.0e+00, relative L2 1.0e-03"
    )
    lines = found.text().splitlines()
    assert [line.split()[0] for line in lines if line.endswith("beyond")] == [
        "latent.0.norm1",
        "latent.0.attn",
    ]


def test_of_gradients_the_last_is_named() -> None:
    gradients = [
        module("a.weight", "tensor", WRONG),
        module("b.attn.temperature", "scalar", dataclasses.replace(WRONG, scale=1e-3)),
        module("c.weight", "tensor"),
    ]
    found = dataclasses.replace(GOOD, gradients=gradients)
    assert not found.passed
    assert found.verdict().startswith(
        "FAIL: 2 of 3 gradients beyond 0.0001; the first that a backward pass meets is "
        "b.attn.temperature: max abs 3.0e-02"
    )
    passed = dataclasses.replace(GOOD, gradients=gradients[2:])
    assert passed.verdict() == "PASS: 2 modules within 1e-05, 1 gradients within 0.0001"


def test_ties_are_told_and_no_fault() -> None:
    tie = SelectionDifference(entries=2, total=400, gap=2e-8, scale=3.0)
    found = report(module("latent.0.attn", "TKSA", selection=tie), own_choice=3e-4)
    assert found.passed
    assert (
        "2 entries of the top-k masks differ, all of them between attention logits that are equal "
        "up to rounding (at most 2.0e-08 apart). Which of them is kept is open, so ours was run "
        "with the reference's choice; with its own, the restored image differs by up to 3.0e-04."
    ) in found.text()


def test_wrong_choices_are_faults() -> None:
    wrong = SelectionDifference(entries=8, total=400, gap=0.3, scale=3.0)
    number = SelectionDifference(entries=8, total=400, gap=0.0, scale=3.0, sizes=(4, 5, 6, 7))
    for selection, reason in (
        (wrong, "8 entries of its top-k masks differ where the logits are up to 3.0e-01 apart"),
        (number, "its branches keep 4, 5, 6, 7 entries of a row"),
    ):
        result = module("latent.0.attn", "TKSA", selection=selection, within=False)
        found = report(result)
        assert not found.passed
        assert found.verdict().endswith(f"latent.0.attn (TKSA): {reason}")
        assert "open" not in found.text()


def test_what_the_reference_does_not_show() -> None:
    hidden = module("latent.0.norm1", "LN", None, problem="not called", within=True)
    found = report(hidden, module("latent.0.attn", "TKSA"), module("restored image", "image"))
    assert found.passed
    text = found.text()
    assert "Not compared, because the reference does not show them: 1." in text
    assert "does not show four top-k choices in 1 attention modules" in text


def test_a_first_run_that_was_left_out_is_told() -> None:
    found = dataclasses.replace(GOOD, unsteady="latent.0.norm1")
    assert found.passed
    assert (
        "The reference's first run had other bits than its later ones, from latent.0.norm1 on"
        in (found.text())
    )
    assert found.to_json()["unsteady"] == "latent.0.norm1"
    assert "first run" not in GOOD.text()


def test_signs_are_told() -> None:
    flips = SignFlips(27, 1000, 1.5e-7, "latent.0.ffn.dwconv3x3")
    text = dataclasses.replace(GOOD, flips=flips).text()
    assert "27 of 1,000 values in front of ReLUs have another sign than the reference's" in text
    assert "1.5e-07 of the largest value of its layer (latent.0.ffn.dwconv3x3)" in text


def test_json(tmp_path: Path) -> None:
    infinite = Difference(math.inf, math.inf, 1.0)
    found = report(*GOOD.modules, module("output", "convolution", infinite))
    write_json(tmp_path / "report.json", found.to_json())
    document = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest_fail)
    assert document["passed"] is False
    assert document["first_beyond"] == "output"
    assert document["settings"] == {"network": "tiny", "dtype": "float32"}
    assert document["versions"]["jax"]
    assert [m["name"] for m in document["modules"]] == ["patch_embed", "latent.0.attn", "output"]
    assert document["modules"][0]["difference"]["max_abs"] == 2e-7
    assert document["modules"][1]["selection"]["entries"] == 0
    assert document["modules"][2]["difference"] == {
        "max_abs": "inf",
        "relative_l2": "inf",
        "scale": 1.0,
    }


def pytest_fail(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")
