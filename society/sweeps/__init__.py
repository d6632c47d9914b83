"""Several runs of one experiment: over seeds, over a grid of settings, or over a list of them.

runs/NAME/sweep.json         what the sweep is made of
runs/NAME/report.html        one report over all its runs
runs/NAME.MEMBER/            a member: an ordinary run, such as `NAME.w-0.3.seed-1`

Members lie beside the sweep, so every command takes their names, and one that was started by the
sweep can be gone on with by hand and the other way round.
"""
