"""Several runs of one experiment: over seeds, over a grid of settings, or over a list of them.

runs/NAME/sweep.json         the names and settings of its runs
runs/NAME/report.html        one report over all its runs
runs/NAME.MEMBER/            a member: an ordinary run, such as `NAME.w-0.3.seed-1`

Members lie beside the sweep, so that every command accepts their names. A member that the sweep has
started can be resumed by hand, and the other way round.
"""
