"""What `mode=` can be: one file each, whose `run` takes a configuration and makes a report.

Configurations are read by attribute only, and objects are made by the `build` that the
composition root passes in, so that nothing here knows Hydra.
"""
