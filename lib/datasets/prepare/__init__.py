"""From raw data sets to training data: `python -m lib.datasets.prepare SOURCE --root RAW --out DIR`.

One reader per source knows its archive layout and annotation format and yields tasks (a video, or one still); the
rest, cutting on all cores, filters, the journal that a killed run goes on from, the index, is common to all.
"""
