"""Plausible mistakes, each built into a copy of this checkout: do the tests notice?

    python -m pipelines.mutants                   all of them, one after the other; a few minutes on one core
    python -m pipelines.mutants knn sigma         those whose names hold one of these words
    python -m pipelines.mutants --list            their names, and the tests that must fail

A mutant that its tests let pass "survived": a test is missing. Exits with 1 where one survives, where the text that it
replaces is not there exactly once, or where its tests fail without it or cannot be run. A line that is rewritten takes
its mutant along: change the text below with it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
COPIED = ("anomaly_vae", "pipelines", "configs", "tests", "pyproject.toml")
PRELOADED = ("mlflow", "pandas", "pytest", "scipy.stats", "sklearn.metrics", "torch", "torchvision")
PASSED, FAILED = 0, 1  # pytest's exit codes; others mean that it could not do its work

FIT, SPLIT, DATASETS = "anomaly_vae/detector/fit.py", "anomaly_vae/data/split.py", "anomaly_vae/data/datasets.py"
PARTS, STEP = "anomaly_vae/scoring/parts", "anomaly_vae/training/step.py"
LEAKS = "tests/detector/test_leaks.py"
NO_LEAK = f"{LEAKS}::test_nothing_is_learned_from_test_rows_nor_from_anomalies_that_choose_no_threshold"
NO_ANOMALY = f"{LEAKS}::test_anomalies_of_validation_change_the_threshold_with_labels_alone"
FORMULAS, STEPS, PROMISES = (
    "tests/scoring/parts/test_formulas.py", "tests/training/test_steps.py", "tests/detector/test_promises.py"
)  # fmt: skip
NEIGHBOURS = f"{FORMULAS}::test_neighbours_are_the_log_distances_to_the_nearest_reference_of_each_bag"
NOISE = f"{STEPS}::test_noise_is_added_to_the_numbers_that_are_read_and_to_nothing_else"
MACHINES = f"{FORMULAS}::test_a_series_by_loops_over_windows_that_stay_within_a_machine"
ALARMS = f"{PROMISES}::test_an_alarm_is_at_or_above_the_threshold_in"
ONE_GAUSSIAN = f"{FORMULAS}::test_one_gaussian_fitted_to_training_posteriors_gives_the_kl_of_torch"
STEP_NATS = f"{FORMULAS}::test_nats_of_steps_by_loops"


class Mutant(NamedTuple):
    """A mistake: in `file`, `old`, which stands there once, becomes `new`. tests: of which one must fail."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTANTS = (
    # --- what a fit may look at
    Mutant("scaler: fitted to all rows", FIT,
           "_scaler(data, learned_from, config)", "_scaler(data, np.arange(len(data)), config)",
           (f"{NO_LEAK}[table]",)),
    Mutant("layout: learned from all rows", FIT,
           "    layout = source.learn(_learned_from(parts), parts.valid[~_wrong(parts)])",
           "    layout = source.learn(np.arange(source.count()))", (f"{NO_LEAK}[table]",)),
    Mutant("split: anomalies train where the data names roles", SPLIT,
           '(roles == "train") & normal', 'roles == "train"', (f"{NO_LEAK}[images, a list with roles]",)),
    Mutant("early stopping: by anomalies too", FIT,
           "training, held = samples(parts.train), samples(normals)",
           "training, held = samples(parts.train), samples(parts.valid)", (f"{NO_ANOMALY}[pixels]",)),
    Mutant("level: fitted to test steps", FIT,
           """_before_test(data, parts, window))
    if score_model.level is not None and residuals is not None:
        residuals.fit(score_model.level, np.r_[parts.train, normals])""",
           """np.arange(len(data)))
    if score_model.level is not None and residuals is not None:
        residuals.fit(score_model.level, np.arange(len(data)))""", (f"{NO_LEAK}[series]",)),
    Mutant("level: of residuals that reach into test", FIT,
           "step_residuals(scorer, data, _before_test(data, parts, window))",
           "step_residuals(scorer, data, np.arange(len(data)))", (f"{NO_LEAK}[series]",)),
    Mutant("series: validation reads the test steps after it", FIT,
           "before, first = _before_test(data, parts, scorer.window), 0", "before, first = np.arange(len(data)), 0",
           (f"{NO_LEAK}[series]",)),
    Mutant("usual nats: of anomalies too", FIT,
           "seen.normal_mean(normals)", "seen.normal_mean(parts.valid)", (f"{NO_ANOMALY}[pixels]",)),
    Mutant("monitor's reference: scores of anomalies too", FIT,
           "monitoring_references(data, parts.train, valid, scaler)",
           "monitoring_references(data, parts.train, seen.part(parts.valid)[0], scaler)",
           (f"{NO_ANOMALY}[table]",)),
    Mutant("pixel peaks: of anomalies too", "anomaly_vae/detector/anomaly_maps.py",
           "np.array(highest, np.float64)[~anomalous]", "np.array(highest, np.float64)",
           (f"{PROMISES}::test_a_pixel_threshold_is_of_excesses_over_the_other_normal_pictures",)),
    Mutant("pixel peaks: without n / (n - 1)", "anomaly_vae/detector/anomaly_maps.py",
           "peaks *= len(peaks) / max(1, len(peaks) - 1)", "peaks *= 1",
           (f"{PROMISES}::test_a_pixel_threshold_is_of_excesses_over_the_other_normal_pictures",)),
    # --- machines
    Mutant("windows: training ones across two machines", DATASETS,
           "None if groups is None else groups[order], None if after_gap", "None, None if after_gap",
           (f"{FORMULAS}::test_training_windows_lie_within_the_rows_and_within_a_machine",)),
    Mutant("windows: scored ones across two machines", "anomaly_vae/scoring/scorer.py",
           "np.concatenate([chunk.values, condition], axis=1), chunk.groups, chunk",
           "np.concatenate([chunk.values, condition], axis=1), None, chunk", (MACHINES,)),
    Mutant("differences: from one machine to the next", DATASETS,
           "ends |= names[1:] != names[:-1]", "pass",
           (f"{FORMULAS}::test_no_difference_is_taken_from_one_machine_to_the_next",)),
    Mutant("differences: from an anomalous step to a training one", DATASETS,
           "ends = inside[1:] != inside[:-1]", "ends = np.zeros(len(order) - 1, bool)",
           (f"{LEAKS}::test_anomalous_steps_train_nothing",)),
    # --- what the parts are fitted to
    Mutant("mixture: fitted to held-out rows", f"{PARTS}/mixture_prior.py",
           "normals.batches(normals.train())", "normals.batches(normals.held()[0])", (ONE_GAUSSIAN,)),
    Mutant("energy: weighed on training rows", f"{PARTS}/residual_energy.py",
           "held, _ = normals.held()", "held = normals.train()", (f"{FORMULAS}::test_energy_weighs"
           "_blurred_residuals_by_how_they_vary_among_held_out_normals",)),
    Mutant("covariance: of held-out rows", f"{PARTS}/mahalanobis.py",
           "x = normals.train()", "x, _ = normals.held()",
           (f"{FORMULAS}::test_covariance_is_half_the_squared_mahalanobis_distance_from_training_residuals",)),
    Mutant("memory: of held-out features", f"{PARTS}/memory_bank.py",
           "normals.raw(normals.train())", "normals.raw(normals.held()[0])",
           (f"{FORMULAS}::test_memory_is_the_squared_distance_to_the_nearest_training_feature",)),
    # --- their formulas
    Mutant("energy: without its half", f"{PARTS}/residual_energy.py",
           "0.5 * (2 / relative", "1.0 * (2 / relative", (f"{FORMULAS}::test_energy_weighs"
           "_blurred_residuals_by_how_they_vary_among_held_out_normals",)),
    Mutant("mixture: KL without its trace", f"{PARTS}/mixture_prior.py",
           "(log_ratio + trace - len(variance))", "(log_ratio - len(variance))", (ONE_GAUSSIAN,)),
    Mutant("mixture: KL without its half", f"{PARTS}/mixture_prior.py",
           "math.log(weight) - 0.5 * (log_ratio", "math.log(weight) - 1.0 * (log_ratio", (ONE_GAUSSIAN,)),
    Mutant("knn: doubled", f"{PARTS}/knn_density.py",
           "self.unit * (0.5 * nearest", "self.unit * (1.0 * nearest", (NEIGHBOURS,)),
    Mutant("knn: a row may be its own neighbour", f"{PARTS}/knn_density.py",
           "squared[rows, mine[rows] % size] = math.inf", "pass", (NEIGHBOURS,)),
    Mutant("knn: a held-out row of a fit may be its own neighbour", FIT,
           "if (own >= 0).any():", "if False:",
           (f"{FORMULAS}::test_held_out_rows_of_a_fit_are_not_their_own_neighbours",)),
    Mutant("knn: the local scale inverted", f"{PARTS}/knn_density.py",
           "** (-2 * power)", "** (2 * power)", (NEIGHBOURS,)),
    Mutant("series: recon without its half", f"{PARTS}/sensor_level.py",
           "centred_mean(0.5 * residual.square()", "centred_mean(1.0 * residual.square()", (STEP_NATS,)),
    Mutant("level: without its temper", f"{PARTS}/sensor_level.py",
           "stood = TEMPER * 0.5 *", "stood = 0.5 *", (STEP_NATS,)),
    Mutant("level: without its half", f"{PARTS}/sensor_level.py",
           "stood = TEMPER * 0.5 *", "stood = TEMPER *", (STEP_NATS,)),
    Mutant("series: the centred mean one step late", f"{PARTS}/sensor_level.py",
           "(rows - steps // 2).clamp(min=0), (rows + (steps + 1) // 2)",
           "(rows + 1 - steps // 2).clamp(min=0), (rows + 1 + (steps + 1) // 2)", (STEP_NATS,)),
    Mutant("features: the memory's share", "anomaly_vae/scoring/patch_score.py",
           "memory.unit = (SHARE * usual", "memory.unit = (usual",
           (f"{FORMULAS}::test_memory_is_worth_twice_the_elbo_on_held_out_normals",)),
    Mutant("sigma: of the scored batch", "anomaly_vae/models/base.py",
           'self.sigma == "optimal" and self.training', 'self.sigma == "optimal"',
           (f"{FORMULAS}::test_an_optimal_sigma_is_that_of_training_whatever_is_scored_together",)),
    # --- training
    Mutant("beta: ten percent late", STEP,
           "self.beta.fill_(beta_at(objective, progress))",
           "self.beta.fill_(beta_at(objective, max(0.0, progress - 0.1)))",
           (f"{STEPS}::test_every_step_is_charged_beta_at_its_share_of_the_training",)),
    Mutant("beta: its schedule ten percent late", "anomaly_vae/training/schedules.py",
           "t = min(1.0, progress / config.warmup)", "t = min(1.0, max(0.0, progress - 0.1) / config.warmup)",
           (f"{STEPS}::test_every_step_is_charged_beta_at_its_share_of_the_training",)),
    Mutant("noise: on the target too", "anomaly_vae/training/augment.py",
           "if model.n_condition else (x, read)", "if model.n_condition else (read, read)", (f"{NOISE}[rows]",)),
    Mutant("noise: on the target too, under a condition", "anomaly_vae/training/augment.py",
           "return (torch.cat([x, condition], 1), torch.cat([read,",
           "return (torch.cat([read, condition], 1), torch.cat([read,", (f"{NOISE}[condition]",)),
    Mutant("loss: not divided before it is clipped", STEP,
           "(total / x[0].numel()).backward()", "total.backward()",
           (f"{STEPS}::test_the_gradient_that_is_clipped_is_in_nats_an_element",)),
    Mutant("active units: by their deviation", "anomaly_vae/training/objective.py",
           "return mu.var(0) > ACTIVE", "return mu.std(0) > ACTIVE",
           (f"{STEPS}::test_a_unit_is_active_by_its_variance",)),
    # --- thresholds
    Mutant("> for >=: predict", "anomaly_vae/detector/detector.py",
           "self.score(X) >= self", "self.score(X) > self", (f"{ALARMS}_memory_and_where_it_is_served",)),
    Mutant("> for >=: serving", "anomaly_vae/detector/dataframe.py",
           "scores.total >= at_least", "scores.total > at_least", (f"{ALARMS}_memory_and_where_it_is_served",)),
    Mutant("> for >=: score", "anomaly_vae/workflows/score.py",
           "is_anomaly = scores.total >= threshold", "is_anomaly = scores.total > threshold",
           (f"{ALARMS}_files_and_in_monitor",)),
    Mutant("> for >=: monitor", "anomaly_vae/detector/monitoring.py",
           "(scores.total >= threshold)", "(scores.total > threshold)",
           (f"{ALARMS}_files_and_in_monitor",)),
    Mutant("> for >=: metrics", "anomaly_vae/detector/metrics.py",
           "alarms = scores >= threshold", "alarms = scores > threshold", (f"{ALARMS}_metrics",)),
    Mutant("> for >=: maps", "anomaly_vae/detector/metrics.py",
           "alarm = heat >= self.threshold", "alarm = heat > self.threshold", (f"{ALARMS}_metrics",)),
    Mutant("> for >=: what monitor promises", "anomaly_vae/detector/detector.py",
           "(self.normal >= self", "(self.normal > self",
           (f"{PROMISES}::test_monitor_promises_what_the_held_out_normals_above_the_threshold_say",)),
    Mutant("monitor: k off by one", "anomaly_vae/detector/detector.py",
           "1 + n_above // window", "max(1, n_above // window)",
           (f"{PROMISES}::test_monitor_promises_what_the_held_out_normals_above_the_threshold_say",)),
)  # fmt: skip


def main(arguments: Sequence[str] | None = None, mutants: Sequence[Mutant] = MUTANTS, root: Path = ROOT) -> int:
    """The exit code. root: of the checkout, which stays as it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="of the names of the mutants to try; none: all")
    parser.add_argument("--list", action="store_true", help="print the mutants and try none")
    options = parser.parse_args(arguments)
    chosen = [m for m in mutants if not options.words or any(word in m.name for word in options.words)]
    width = max((len(mutant.name) for mutant in chosen), default=0)
    if options.list:
        for mutant in chosen:
            print(f"{mutant.name:{width}}  {' '.join(mutant.tests)}")
        return 0
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}  # as in the tests, before torch is imported
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in COPIED:
            if (root / name).is_dir():
                shutil.copytree(root / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
            elif (root / name).is_file():
                shutil.copyfile(root / name, copy / name)
        tests = list(dict.fromkeys(test for mutant in chosen for test in mutant.tests))
        if tests and run_tests(copy, tests) != PASSED:
            print("the tests fail without any mutant")
            return 1
        fates = []
        for mutant in chosen:
            began = time.perf_counter()
            fates.append(fate(copy, mutant))
            print(f"{mutant.name:{width}}  {fates[-1]:9}  {time.perf_counter() - began:4.0f} s", flush=True)
    killed = fates.count("killed")
    print(f"{killed} of {len(fates)} killed")
    return int(killed < len(fates))


def fate(copy: Path, mutant: Mutant) -> str:
    """What becomes of a mutant in a copy of the checkout, which is mended afterwards: killed, survived, not found or
    not run."""
    file = copy / mutant.file
    whole = file.read_text(encoding="utf-8") if file.is_file() else ""
    if whole.count(mutant.old) != 1:
        return "not found"
    file.write_text(whole.replace(mutant.old, mutant.new), encoding="utf-8")
    try:
        return {PASSED: "survived", FAILED: "killed"}.get(run_tests(copy, mutant.tests), "not run")
    finally:
        file.write_text(whole, encoding="utf-8")


def run_tests(folder: Path, tests: Sequence[str]) -> int:
    """pytest's exit code for tests of a checkout, which it imports instead of whatever is installed. In a process of
    its own, forked from one that has imported the libraries once: that takes longer than most of the tests."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    process = context.Process(target=_pytest, args=(str(folder), list(tests)))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def _pytest(folder: str, tests: list[str]) -> None:
    import pytest

    for output in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    os.chdir(folder)
    sys.path.insert(0, folder)
    sys.dont_write_bytecode = True  # a file of the same size and second would be taken for the one compiled before
    for name in [name for name in sys.modules if name.partition(".")[0] in COPIED]:
        del sys.modules[name]
    quiet = ["-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of what is preloaded
    sys.exit(int(pytest.main(["-x", "-n", "0", *quiet, *tests])))


if __name__ == "__main__":
    sys.exit(main())
