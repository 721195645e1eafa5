"""How the figures of a comparison are made, in the words of the page: a title, then paragraphs."""

PROBE = (
    "Every error on this page is that of a small, fast model, not of a network: the ridge regression "
    "RidgeProbe, linear in random features of the atomic cluster expansion up to four bodies and fitted "
    "exactly to the energies and forces of the chosen frames, its ridge chosen on the validation frames; a "
    "network may tell frames apart that it cannot."
)
"""What a page says first where RidgeProbe (training/probe.py) was the learner of all its studies."""

METHOD_TITLE = "How the figures are made"

METHOD = (
    "**Cells.** A cell is one selection (selector, budget, selection seed) and one training "
    "(initialisation seed) with its errors on the test set. Every selection seed sees its own part of "
    "the pool where the settings say so (subpool), so that selectors without a random number have a "
    "spread, too. The seeds of initial weights are the same for all. Seeds of a selector that chose the "
    "same frames at every budget count as one selection.",
    "**Mean and interval.** Means are geometric (of log errors). 95 % intervals are bootstraps that "
    "draw selections and initial weights with replacement at once (Owen, Ann. Appl. Stat. 1, 386 "
    "(2007)), the latter the same draw for all selectors, with percentiles expanded for the small "
    "number of selections (Hesterberg, Am. Stat. 69, 371 (2015)); those of ratios draw pairs. They hold for "
    "selections like these; "
    "few seeds of initial weights are few whatever is done.",
    "**Area under the curve.** The mean log error over the log budget (trapezoidal rule between the "
    "budgets that both have), as a ratio: exp of the difference. Below 1 is better.",
    "**Test.** Selections of one seed, which saw the same part of the pool, are a pair, with all budgets "
    "and initial weights: the difference of the areas of the two selectors. Two-sided sign-flip test of the "
    "mean difference over all assignments of signs (20,000 seeded ones where there are more), Holm's "
    "correction over the table, for each error on its own. A tie is p of 0.05 or more: no difference was "
    "shown, not that there is none. What is shown holds for this pool and test set: other pools were not "
    "drawn.",
    "**Failures.** A training that diverged or failed is counted in the tables. Means are then over the "
    "others and marked; in the tests it counts as 1.1 times the largest error that any training had at "
    "that budget.",
    "**n_eq.** The smallest budget whose upper 95 % bound is within 5 % of the full set's mean error, "
    "with no failed training.",
    "**Data saved.** 1 − b / b_random, b_random being the budget at which the mean curve of random, "
    "interpolated in log-log, first comes down to the error reached with b; a bound where that is "
    "outside the budgets.",
)
