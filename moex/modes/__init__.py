"""What `mode=` can be: one file each, whose `run` takes the typed parts of a run, makes a report.

Nothing here knows configurations or Hydra: `moex.cli.build` makes the parts.
"""
